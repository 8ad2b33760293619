//! `fairway describe`.

use std::path::PathBuf;

use anyhow::Context;
use route_model::effective::{EffectiveRule, effective};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use serde_json::Value;

use crate::client::{Client, ServerArgs};
use crate::commands::target;
use crate::commands::validate::{default_scope, read_valid};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// What is in force for the rules of a VirtualService: each value, the field it comes from, what it overrides
    Route(Args),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  fairway describe route bookinfo\n  fairway describe route shop/cart checkout\n  \
                        fairway describe route shop/cart 0 -f routes/")]
pub(crate) struct Args {
    /// The VirtualService: `name`, or `namespace/name`
    virtual_service: String,
    /// The name of a rule, or its number from 0 on; all rules if it is left out
    rule: Option<String>,
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// Look at these files instead of a server: files, folders, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Route(args) = command;
    let (namespace, name) =
        args.virtual_service.split_once('/').unwrap_or((args.namespace.as_str(), args.virtual_service.as_str()));
    let rules = if args.files.is_empty() {
        let named = target::query_value(&format!("{namespace}/{name}"));
        let mut path = format!("/api/fairway/v1/effective?virtualService={named}");
        if let Some(rule) = &args.rule {
            path.push_str("&route=");
            path.push_str(&target::query_value(rule));
        }
        Client::connect(&args.server)?.get(&path).await?.body["rules"].take()
    } else {
        let set = read_valid(&args.files, &args.namespace)?;
        let key = ResourceKey::new(Kind::VirtualService, namespace, name);
        serde_json::to_value(effective(&set, &default_scope(), &key, args.rule.as_deref())?)?
    };
    print(rules, args.json)
}

fn print(rules: Value, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{rules:#}");
        return Ok(());
    }
    let rules: Vec<EffectiveRule> = serde_json::from_value(rules)
        .context("the server is of another version and tells it in words that this one does not know; use --json")?;
    let texts: Vec<String> = rules.iter().map(ToString::to_string).collect();
    print!("{}", texts.join("\n"));
    Ok(())
}
