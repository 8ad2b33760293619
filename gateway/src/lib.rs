//! The edge: a [`proxy::Proxy`] that follows a control plane.
//!
//! [`run`] subscribes to the control plane ([`push`]), compiles what it receives ([`route_model::compile`]), hands
//! the tables to the proxy and acknowledges them. The last good set is kept on disk, so that a gateway starts and
//! serves while every control plane is away.

pub mod args;
mod data_dir;
mod edge;
mod last_good;
pub mod logging;
mod ports;
pub mod process;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use push::client::{Node, Subscriber, SubscriberOptions, Token};
use push::message::Ack;
use push::transport::Connect;
use route_model::compile::{ProxyRole, ProxyScope};
use route_model::meta::Revision;
use serde_json::{Map, Value};
use thiserror::Error;
use tracing::{error, info, warn};

pub use self::args::{Args, ProxyArgs};
use self::data_dir::DataDir;
use self::edge::{Edge, Outcome};
use self::last_good::{LastGood, Saver};
use self::ports::PortsFile;

/// What a gateway is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Unique among the proxies of a control plane. `None`: made once and kept in the data folder.
    pub node_id: Option<String>,
    /// The namespace that the gateway runs in.
    pub namespace: String,
    /// What Gateway selectors are held against.
    pub labels: BTreeMap<String, String>,
    /// Identity is filled in by [`run`].
    pub proxy: proxy::Options,
    pub data_dir: PathBuf,
    /// Further entries of `ports.json`: what the rest of this process has bound.
    pub other_ports: Map<String, Value>,
}

/// The way to the control plane.
#[derive(Clone)]
pub struct Transport {
    pub connect: Arc<dyn Connect>,
    /// Not needed inside one process.
    pub token: Option<Token>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("origin", &self.connect.origin()).finish_non_exhaustive()
    }
}

/// Why a gateway did not start.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot use the data folder {}: {source}", path.display())]
    DataDir { path: PathBuf, source: io::Error },
    #[error("the data folder {} is in use by another gateway", .0.display())]
    InUse(PathBuf),
    #[error(transparent)]
    Proxy(#[from] proxy::StartError),
}

/// Runs a gateway until `shutdown` resolves, then drains it. Must be called inside a tokio runtime.
///
/// Once it is started it does not fail: what goes wrong later is logged and reported to the control plane, and the
/// last good table goes on serving.
pub async fn run(options: Options, transport: Transport, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let dir = DataDir::open(&options.data_dir)?;
    let node_id = match options.node_id {
        Some(id) => id,
        None => dir.node_id()?,
    };
    let scope =
        ProxyScope { role: ProxyRole::Gateway, namespace: options.namespace.as_str().into(), labels: options.labels };
    let mut proxy_options = options.proxy;
    proxy_options.identity = proxy::ProxyIdentity {
        node_id: node_id.clone(),
        workload: workload(&scope.labels),
        namespace: options.namespace,
    };
    let mut edge = Edge::new(proxy::Proxy::start(proxy_options)?, scope.clone());
    let mut ports = PortsFile::new(dir.path("ports.json"), options.other_ports);
    ports.write(&edge.bound());

    let last_good = LastGood::open(&dir);
    let node = Node { id: node_id, scope, build: env!("CARGO_PKG_VERSION").to_owned() };
    let mut subscription = SubscriberOptions { token: transport.token, ..SubscriberOptions::new(node) };
    if let Some(held) = last_good.load() {
        let revision = held.set().revision;
        let held = Arc::new(held);
        match edge.start_from(held.clone()).await {
            Outcome::InForce(issues) => {
                info!(%revision, issues = issues.len(), "serving the last good configuration");
                subscription.applied = Some(Ack::new(revision, issues));
                subscription.held = Some(Arc::unwrap_or_clone(held));
            }
            Outcome::Failed(issue) => error!(%revision, %issue, "the last good configuration cannot be served"),
        }
        ports.write(&edge.bound());
    }

    let saver = Saver::start(last_good);
    let acked = subscription.applied.clone();
    let mut subscriber = Subscriber::start(subscription, transport.connect);
    follow(&mut edge, &mut subscriber, acked, &saver, &mut ports, shutdown).await;
    info!("draining");
    drop(subscriber);
    saver.finish().await;
    edge.drain().await;
    info!("drained");
    Ok(())
}

async fn follow(
    edge: &mut Edge,
    subscriber: &mut Subscriber,
    mut acked: Option<Ack>,
    saver: &Saver,
    ports: &mut PortsFile,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            update = subscriber.next_update() => {
                let began = Instant::now();
                let revision = update.revision();
                let held = update.held.clone();
                match edge.take(update).await {
                    Outcome::InForce(issues) => {
                        subscriber.ack(revision, issues.clone());
                        acked = Some(Ack::new(revision, issues.clone()));
                        for issue in &issues {
                            warn!(%revision, %issue, "not in force");
                        }
                        let took_ms = began.elapsed().as_millis();
                        info!(%revision, resources = held.set().len(), issues = issues.len(), took_ms, "in force");
                        saver.offer(held);
                        ports.write(&edge.bound());
                    }
                    Outcome::Failed(issue) => {
                        error!(%revision, %issue, "cannot be put in force, the revision before goes on serving");
                        subscriber.nack(revision, vec![issue]);
                    }
                }
            }
            ack = edge.next_report() => {
                // Nearly always what was acknowledged with the update.
                if acked.as_ref() != Some(&ack) {
                    let revision = ack.revision;
                    info!(revision, issues = ack.issues.len(), "more is in force now");
                    subscriber.ack(Revision(revision), ack.issues.clone());
                    acked = Some(ack);
                    ports.write(&edge.bound());
                }
            }
        }
    }
}

/// What Istio's metrics call this workload: the `app` label, as its own gateways do.
fn workload(labels: &BTreeMap<String, String>) -> String {
    labels.get("app").map_or("fairway-gateway", String::as_str).to_owned()
}
