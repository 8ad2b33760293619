//! `fairway version`.

use crate::client::{Client, ServerArgs};

pub(crate) const TEXT: &str = env!("CARGO_PKG_VERSION");

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this binary's version
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    println!("fairway {TEXT}");
    if args.client {
        return Ok(());
    }
    // No server is no error here: the question was about this binary first.
    match Client::connect(&args.server) {
        Ok(client) => match client.get("/version").await {
            Ok(answer) => println!("server {}", answer.body["gitVersion"].as_str().unwrap_or("unknown")),
            Err(error) => println!("server: {error}"),
        },
        Err(error) => println!("server: {error}"),
    }
    Ok(())
}
