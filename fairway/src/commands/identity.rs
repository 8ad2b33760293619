//! `fairway identity`.

use serde_json::json;

use crate::client::{Client, ServerArgs};
use crate::commands::target::path_segment;
use crate::output;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Deny an identity: it gets no certificate, its proxies are disconnected, and no proxy accepts its certificates
    #[command(after_help = "fairway identity deny spiffe://cluster.local/ns/shop/sa/reviews")]
    Deny(Args),
    /// Allow a denied identity again
    Allow(Args),
    /// Show the identities that are denied
    List(ServerArgs),
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// spiffe://<trust domain>/ns/<namespace>/sa/<service account>
    identity: String,
    #[command(flatten)]
    server: ServerArgs,
}

const PATH: &str = "/api/fairway/v1/denied-identities";

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Deny(args) => {
            Client::connect(&args.server)?.post(PATH, &json!({"identity": args.identity})).await?;
            println!("{} denied", args.identity);
        }
        Command::Allow(args) => {
            Client::connect(&args.server)?.delete(&format!("{PATH}/{}", path_segment(&args.identity))).await?;
            println!("{} allowed", args.identity);
        }
        Command::List(server) => {
            let answer = Client::connect(&server)?.get(PATH).await?;
            let cell = |item: &serde_json::Value, key: &str| item[key].as_str().unwrap_or("-").to_owned();
            let rows: Vec<Vec<String>> = answer.body["items"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|item| ["identity", "since", "by"].iter().map(|key| cell(item, key)).collect())
                .collect();
            output::table(&["IDENTITY", "SINCE", "BY"], &rows)?;
        }
    }
    Ok(())
}
