//! `fairway apply -f`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::client::{Client, ServerArgs};
use crate::commands::target::{Target, default_namespace};
use crate::documents;
use crate::output;

#[derive(clap::Args)]
#[command(after_help = "All documents are one transaction and one revision: all of them or none.\n\
                        A change that would turn a route now serving into 503 is refused unless --allow-dangling.")]
pub(crate) struct Args {
    /// A file, a folder of .yaml/.yml/.json files, or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The namespace of documents that name none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// Check everything on the server and store nothing
    #[arg(long)]
    dry_run: bool,
    /// Accept routes that would answer 503 after this change
    #[arg(long)]
    allow_dangling: bool,
    /// Take over fields that another tool wrote, instead of refusing
    #[arg(long)]
    force_conflicts: bool,
    /// Why: kept in the history
    #[arg(short = 'm', long, default_value = "")]
    message: String,
    /// Wait until every connected proxy runs the change, at most this long (0: do not wait)
    #[arg(long, default_value = "30s", value_name = "TIME")]
    wait: String,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let documents = documents::read_all(&args.files)?;
    let mut names = Vec::with_capacity(documents.len());
    let mut changes = Vec::with_capacity(documents.len());
    for mut document in documents {
        let target = Target::of_document(&document)?;
        if target.info.namespaced {
            default_namespace(&mut document.object, &args.namespace);
        }
        let name = document.object["metadata"]["name"].as_str().unwrap_or_default();
        names.push(format!("{}/{name}", target.qualified_name()));
        changes.push(json!({"op": "apply", "object": document.object}));
    }
    let client = Client::connect(&args.server)?;
    let mut path = "/api/fairway/v1/changes?fieldManager=fairway&fieldValidation=Strict".to_owned();
    if args.dry_run {
        path.push_str("&dryRun=All");
    }
    if args.force_conflicts {
        path.push_str("&force=true");
    }
    let body = json!({"message": args.message, "allowDangling": args.allow_dangling, "changes": changes});
    let answer = client.post(&path, &body).await?;
    output::warn(&answer.warnings);
    let suffix = if args.dry_run { " (dry run)" } else { "" };
    let results = answer.body["results"].as_array().into_iter().flatten();
    for (name, result) in names.iter().zip(results) {
        println!("{name} {}{suffix}", result["outcome"].as_str().unwrap_or_default());
    }
    if !args.dry_run && args.wait != "0" {
        wait_applied(&client, &answer.body, &args.wait).await?;
    }
    Ok(())
}

/// Tells the operator when the change is in force, or which proxy is behind or cannot put all of it in force.
async fn wait_applied(client: &Client, change: &Value, timeout: &str) -> anyhow::Result<()> {
    let Some(revision) = change["revision"].as_u64() else { return Ok(()) };
    let answer = client.get(&format!("/api/fairway/v1/revisions/{revision}/applied?timeout={timeout}")).await?;
    let proxies = answer.body["proxies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let node = |proxy: &Value| proxy["node"].as_str().unwrap_or_default().to_owned();
    let behind: Vec<String> = proxies.iter().filter(|proxy| proxy["applied"] != true).map(node).collect();
    if proxies.is_empty() {
        eprintln!("revision {revision}: stored; no proxy is connected");
    } else if behind.is_empty() {
        println!("revision {revision}: in force on {}", proxies.iter().map(node).collect::<Vec<_>>().join(", "));
    } else {
        eprintln!("revision {revision}: not yet in force on {}", behind.join(", "));
    }
    for proxy in proxies {
        for issue in proxy["issues"].as_array().into_iter().flatten() {
            let text = |key: &str| issue[key].as_str().unwrap_or_default();
            eprintln!("{}: {}: {}: {}", node(proxy), text("resource"), text("reason"), text("message"));
        }
    }
    Ok(())
}
