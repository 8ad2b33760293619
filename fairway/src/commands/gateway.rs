//! `fairway gateway`: the same as the binary `fairway-gateway`.

use follower::logging::LogArgs;

#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    gateway: gateway::Args,
    #[command(flatten)]
    log: LogArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    args.log.init();
    gateway::run(args.gateway)
}
