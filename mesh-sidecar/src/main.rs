//! `fairway-sidecar`: a sidecar, and how traffic comes to it.

use std::process::ExitCode;

use clap::Parser;

/// Arenas that give memory back, and less contention between workers than the system's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A sidecar: takes the traffic of one application, both ways, by the routes of a Fairway control plane
#[derive(Debug, Parser)]
#[command(
    name = "fairway-sidecar",
    version,
    override_usage = "fairway-sidecar [run] [OPTIONS] [-- APPLICATION [ARGUMENTS]...]\n       \
                      fairway-sidecar capture apply|remove|print [OPTIONS]",
    after_help = mesh_sidecar::EXAMPLES
)]
struct Cli {
    #[command(subcommand)]
    command: mesh_sidecar::Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(mesh_sidecar::with_run(std::env::args_os().collect(), 1));
    mesh_sidecar::run(cli.command)
}
