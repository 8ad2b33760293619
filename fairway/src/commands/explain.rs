//! `fairway explain`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use route_model::compile::compile;
use route_model::explain::ExplainRequest;
use serde_json::Value;

use crate::client::{Client, ServerArgs};
use crate::commands::validate::{check, default_scope};
use crate::documents;

#[derive(clap::Args)]
#[command(after_help = "fairway explain --url https://shop.example/cart -H 'x-canary: 1' --port 8443\n\
                        fairway explain -f routes/ --url http://shop.example/cart")]
pub(crate) struct Args {
    /// The request's URL; its host is the Host header, its port the Gateway's
    #[arg(long, value_name = "URL")]
    url: String,
    #[arg(long, default_value = "GET")]
    method: String,
    /// A header of the request: `name: value`; may be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The Gateway's port, if it is not the one in the URL
    #[arg(long)]
    port: Option<u16>,
    /// Ask these files instead of a server: files, folders, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The namespace of documents that name none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// Print the explanation as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut request = ExplainRequest {
        method: args.method,
        url: args.url,
        headers: BTreeMap::new(),
        port: args.port,
        bind: None,
        sni: None,
    };
    for header in &args.headers {
        let (name, value) =
            header.split_once(':').with_context(|| format!("`{header}` is not of the form name: value"))?;
        request.headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
    let explanation = if args.files.is_empty() {
        let body = serde_json::to_value(&request)?;
        Client::connect(&args.server)?.post("/api/fairway/v1/explain", &body).await?.body
    } else {
        let checked = check(documents::read_all(&args.files)?, &args.namespace);
        if !checked.errors.is_empty() {
            bail!("the files are not valid:\n  {}", checked.errors.join("\n  "));
        }
        let (table, _) = compile(&checked.set, &default_scope());
        serde_json::to_value(request.explain(&table)?)?
    };
    if args.json {
        println!("{explanation:#}");
    } else {
        print(&explanation);
    }
    Ok(())
}

fn print(explanation: &Value) {
    let text = |value: &Value, key: &str| match &value[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let items = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    for server in items(explanation, "servers") {
        println!("server   {}", server.as_str().unwrap_or_default());
    }
    if let Some(host) = explanation["host"].as_str() {
        println!("host     {host}");
    }
    if explanation["skipped"].as_u64().unwrap_or(0) > 0 {
        println!("         {} rules whose path cannot fit are not listed", text(explanation, "skipped"));
    }
    for rule in items(explanation, "rules") {
        let key = &rule["resource"];
        let name = text(&rule, "name");
        let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
        let place = format!(
            "{} {}/{} {}{name}",
            text(key, "kind"),
            text(key, "namespace"),
            text(key, "name"),
            text(&rule, "path")
        );
        match rule["failure"].as_str() {
            Some(failure) => println!("  -      {place}: {failure}"),
            None => println!("  match  {place}"),
        }
    }
    let outcome = &explanation["outcome"];
    match text(outcome, "kind").as_str() {
        "forward" => {
            for destination in items(outcome, "destinations") {
                let cluster =
                    destination["cluster"].as_str().unwrap_or("nowhere: 503, the service or subset does not exist");
                println!("forward  {}% to {cluster}", text(&destination, "percent"));
                print_headers("request", &items(&destination, "requestHeaders"));
                print_headers("response", &items(&destination, "responseHeaders"));
            }
            if let Some(path) = outcome["path"].as_str() {
                println!("path     {path}");
            }
        }
        "redirect" => println!("redirect {} to {}", text(outcome, "status"), text(outcome, "location")),
        "direct" => println!("direct   {}", text(outcome, "status")),
        "httpsRedirect" => println!("redirect 301 to {}", text(outcome, "location")),
        _ => println!("refused  {} {}", text(outcome, "status"), text(outcome, "reason")),
    }
}

fn print_headers(which: &str, operations: &[Value]) {
    for operation in operations {
        let text = |key: &str| operation[key].as_str().unwrap_or_default().to_owned();
        println!("         {which} header: {} {} {}", text("operation"), text("name"), text("value"));
    }
}
