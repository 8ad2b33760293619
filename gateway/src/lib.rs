//! The edge: a proxy that follows a control plane ([`follower`]), and what only an edge needs.

mod args;

pub use self::args::{Args, GatewayArgs};

/// Runs a gateway until a signal ends the process.
pub fn run(args: Args) -> anyhow::Result<()> {
    let (options, transport) = args.into_parts()?;
    follower::process::run(options, transport)
}
