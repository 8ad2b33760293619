//! `fairway explain`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use route_model::compile::compile;
use route_model::explain::{ExplainRequest, Explanation};

use crate::client::{Client, ServerArgs};
use crate::commands::validate::{default_scope, read_valid};

#[derive(clap::Args)]
#[command(after_help = "fairway explain --url https://shop.example/cart -H 'x-canary: 1' --port 8443\n\
                        fairway explain -f routes/ --url http://shop.example/cart")]
pub(crate) struct Args {
    /// The request's URL, as a client would send it; its host is the Host header, its port the Gateway's
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
    /// The address of the listener, where a port has several
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// The server name of the TLS connection, if it is not the URL's host; empty: the client names none
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// The address that the request comes from (default: 127.0.0.1)
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// A name in the client's certificate, taken for verified: a URI (spiffe://…), a DNS name or a subject
    #[arg(long, value_name = "NAME")]
    client_identity: Option<String>,
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
        bind: args.bind,
        sni: args.sni,
        client: args.client,
        client_identity: args.client_identity,
    };
    for header in &args.headers {
        let (name, value) =
            header.split_once(':').with_context(|| format!("`{header}` is not of the form name: value"))?;
        request.headers.entry(name.trim().to_ascii_lowercase()).or_default().push(value.trim().to_owned());
    }
    let explanation = if args.files.is_empty() {
        let body = serde_json::to_value(&request)?;
        Client::connect(&args.server)?.post("/api/fairway/v1/explain", &body).await?.body
    } else {
        let set = read_valid(&args.files, &args.namespace)?;
        let (table, _) = compile(&set, &default_scope());
        serde_json::to_value(request.explain(&table)?)?
    };
    if args.json {
        println!("{explanation:#}");
        return Ok(());
    }
    let explanation: Explanation = serde_json::from_value(explanation)
        .context("the server is of another version and explains in words that this one does not know; use --json")?;
    print!("{explanation}");
    Ok(())
}
