//! `fleet SERVICE`: one service of the demo application, or all of them in one process.

use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "fleet")]
struct Cli {
    #[command(flatten)]
    args: fleet::Args,
}

fn main() -> ExitCode {
    fleet::run(Cli::parse().args)
}
