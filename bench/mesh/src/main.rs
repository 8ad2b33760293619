//! Thousands of sidecars in one process, as the control plane sees them: each has a certificate, a TLS connection and a
//! stream of its own, takes deltas and acknowledges them. None compiles what it takes or keeps it.
//!
//! `bench/push` drives it: a command a line on the standard input, in JSON, an answer a line on the standard output.

mod commands;
mod delta;
mod fleet;
mod join;
mod proxy;
mod stream;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use push::client::Token;

use self::fleet::Fleet;
use self::proxy::Identity;

#[derive(Parser)]
struct Args {
    /// `https://host:port` of the control plane.
    #[arg(long)]
    control_plane: String,
    /// The CA of its certificate (PEM).
    #[arg(long)]
    control_plane_ca: PathBuf,
    /// A JSON object: a join token for each namespace.
    #[arg(long)]
    join_tokens: PathBuf,
    /// How many sidecars each namespace has.
    #[arg(long)]
    sidecars: usize,
    /// How many services: their sidecars have the labels `app=s0`, `app=s1` and so on.
    #[arg(long)]
    services: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let ca = std::fs::read(&args.control_plane_ca)
        .with_context(|| format!("cannot read {}", args.control_plane_ca.display()))?;
    let tokens =
        std::fs::read(&args.join_tokens).with_context(|| format!("cannot read {}", args.join_tokens.display()))?;
    let tokens: HashMap<String, String> = serde_json::from_slice(&tokens).context("the join tokens")?;
    let mut namespaces: Vec<_> = tokens.into_iter().collect();
    namespaces.sort_unstable();
    let mut identities = Vec::new();
    for (namespace, token) in namespaces {
        let token = Token::new(&token)?;
        identities.extend((0..args.sidecars).map(|index| Identity {
            node: format!("{namespace}-{index}"),
            namespace: namespace.clone(),
            app: format!("s{}", index % args.services),
            token: token.clone(),
        }));
    }
    commands::serve(Arc::new(Fleet::new(&args.control_plane, &ca, identities)?)).await
}
