//! `fairway delete`.

use std::path::PathBuf;

use anyhow::bail;
use serde_json::Value;

use crate::client::{Client, ServerArgs};
use crate::commands::target::Target;
use crate::documents;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  fairway delete vs bookinfo -n shop\n  fairway delete -f routes.yaml")]
pub(crate) struct Args {
    /// A kind by its plural, singular or short name
    kind: Option<String>,
    /// The names of what to delete
    names: Vec<String>,
    /// Delete what these files name
    #[arg(short = 'f', long = "filename", value_name = "FILE", conflicts_with = "kind")]
    files: Vec<PathBuf>,
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut targets = Vec::new();
    if let Some(kind) = &args.kind {
        if args.names.is_empty() {
            bail!("name at least one {kind} to delete");
        }
        let target = Target::find(kind)?;
        targets.extend(args.names.iter().map(|name| (target, args.namespace.clone(), name.clone())));
    } else if args.files.is_empty() {
        bail!("name a kind and a name, or a file by -f");
    }
    // What was created last goes first, so that routes go before what they lead to.
    if !args.files.is_empty() {
        for document in documents::read_all(&args.files)?.into_iter().rev() {
            let target = Target::of_document(&document)?;
            let meta = |key: &str| document.object["metadata"][key].as_str().unwrap_or_default().to_owned();
            let namespace = if meta("namespace").is_empty() { args.namespace.clone() } else { meta("namespace") };
            targets.push((target, namespace, meta("name")));
        }
    }
    let client = Client::connect(&args.server)?;
    for (target, namespace, name) in targets {
        let answer = client.delete(&target.path(Some(&namespace), Some(&name))).await?;
        crate::output::warn(&answer.warnings);
        let pending = answer.body["metadata"].get("deletionTimestamp").is_some_and(Value::is_string);
        println!("{}/{name} {}", target.qualified_name(), if pending { "is being deleted" } else { "deleted" });
    }
    Ok(())
}
