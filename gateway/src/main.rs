//! `fairway-gateway`: the gateway without the control plane.

use std::process::ExitCode;

use clap::Parser;
use follower::logging::LogArgs;
use follower::process;

/// Arenas that give memory back, and less contention between workers than the system's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// An edge gateway that takes its routes from a Fairway control plane
#[derive(Debug, Parser)]
#[command(name = "fairway-gateway", version)]
struct Cli {
    #[command(flatten)]
    args: gateway::Args,

    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.log.init();
    process::exit_code(gateway::run(cli.args))
}
