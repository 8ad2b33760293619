//! `fairway ca`.

use serde_json::{Value, json};

use crate::client::{Client, ServerArgs};
use crate::output;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Show the roots that are trusted, and which one signs
    Show(ServerArgs),
    /// Have a new root sign from now on; the one before it stays trusted for a while
    #[command(after_help = "fairway ca rotate --overlap 7d")]
    Rotate(RotateArgs),
}

#[derive(clap::Args)]
pub(crate) struct RotateArgs {
    /// How long the root before stays trusted: at least as long as certificates are good
    #[arg(long, default_value = "30d", value_name = "TIME")]
    overlap: String,
    #[command(flatten)]
    server: ServerArgs,
}

const PATH: &str = "/api/fairway/v1/ca";

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    let answer = match command {
        Command::Show(server) => Client::connect(&server)?.get(PATH).await?,
        Command::Rotate(args) => {
            let body = json!({"overlap": args.overlap});
            Client::connect(&args.server)?.post(&format!("{PATH}/rotate"), &body).await?
        }
    };
    let row = |root: &Value| -> Vec<String> {
        let cell = |key: &str| root[key].as_str().unwrap_or("-").to_owned();
        let fingerprint = cell("fingerprint").chars().take(16).collect();
        let signs = if root["signs"].as_bool() == Some(true) { "yes" } else { "no" };
        vec![cell("subject"), fingerprint, signs.to_owned(), cell("notAfter"), cell("trustedUntil")]
    };
    let rows: Vec<Vec<String>> = answer.body["roots"].as_array().into_iter().flatten().map(row).collect();
    Ok(output::table(&["ROOT", "SHA-256", "SIGNS", "EXPIRES", "TRUSTED UNTIL"], &rows)?)
}
