//! `fairway join-token`.

use serde_json::json;

use crate::client::{Client, ServerArgs};
use crate::commands::target::path_segment;
use crate::output;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a token; it is printed once and kept only as a hash
    #[command(after_help = "fairway join-token create --ttl 1h > gateway.token\n\
                            fairway join-token create -n shop --service-account reviews --single-use > reviews.token")]
    Create(CreateArgs),
    /// Show the tokens that can still be used
    List(ServerArgs),
    /// Revoke a token by its id
    Revoke(RevokeArgs),
}

#[derive(clap::Args)]
pub(crate) struct CreateArgs {
    /// The namespace that a proxy with this token runs in
    #[arg(short = 'n', long, default_value = "istio-system")]
    namespace: String,
    /// The service account that it runs as
    #[arg(long, default_value = "default", value_name = "NAME")]
    service_account: String,
    /// How long the token can be used: 30m, 24h, 7d
    #[arg(long, default_value = "24h", value_name = "TIME")]
    ttl: String,
    /// Only the first proxy that shows it is let in
    #[arg(long)]
    single_use: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(clap::Args)]
pub(crate) struct RevokeArgs {
    id: String,
    #[command(flatten)]
    server: ServerArgs,
}

const PATH: &str = "/api/fairway/v1/join-tokens";

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create(args) => {
            let body = json!({
                "namespace": args.namespace,
                "serviceAccount": args.service_account,
                "ttl": args.ttl,
                "singleUse": args.single_use,
            });
            let answer = Client::connect(&args.server)?.post(PATH, &body).await?;
            println!("{}", answer.body["token"].as_str().unwrap_or_default());
        }
        Command::List(server) => {
            let answer = Client::connect(&server)?.get(PATH).await?;
            let rows: Vec<Vec<String>> = answer.body["items"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|item| {
                    let keys = ["id", "namespace", "serviceAccount", "expires"];
                    let mut row: Vec<String> =
                        keys.iter().map(|key| item[*key].as_str().unwrap_or("-").to_owned()).collect();
                    row.push(if item["singleUse"].as_bool() == Some(true) { "once" } else { "many" }.to_owned());
                    row
                })
                .collect();
            output::table(&["ID", "NAMESPACE", "SERVICE ACCOUNT", "EXPIRES", "USES"], &rows)?;
        }
        Command::Revoke(args) => {
            Client::connect(&args.server)?.delete(&format!("{PATH}/{}", path_segment(&args.id))).await?;
            println!("{} revoked", args.id);
        }
    }
    Ok(())
}
