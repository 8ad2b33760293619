//! `fairway-gateway`: the gateway without the control plane.

use clap::{Parser, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Arenas that give memory back, and less contention between workers than the system's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// An edge gateway that takes its routes from a Fairway control plane
#[derive(Debug, Parser)]
#[command(name = "fairway-gateway", version)]
struct Cli {
    /// Form of the log on standard error; RUST_LOG sets what is logged
    #[arg(long, env = "FAIRWAY_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,

    #[command(flatten)]
    args: gateway::Args,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    gateway::process::run(cli.args)
}
