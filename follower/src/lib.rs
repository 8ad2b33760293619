//! A [`proxy::Proxy`] that follows a control plane: what gateway and sidecar do alike around their traffic.
//!
//! A [`Follower`] subscribes to the control plane ([`push`]), compiles what it receives ([`route_model::compile`]),
//! hands the tables to the proxy and acknowledges them. The last good set is kept on disk, so that a proxy starts and
//! serves while every control plane is away; so is its certificate in the mesh. What else their processes share is here
//! too: flags ([`args`]), the log ([`logging`]), signals and limits ([`process`]).

pub mod args;
mod data_dir;
mod identity;
mod last_good;
pub mod logging;
mod ports;
mod prerequisites;
pub mod process;
#[cfg(test)]
mod tests;
mod traffic;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use push::client::{Node, Subscriber, SubscriberOptions, Token};
use push::credential::Credential;
use push::message::Ack;
use push::transport::Connect;
use push::workload::{Ready, Workload};
use route_model::compile::{ProxyScope, SidecarScope};
use route_model::kind::Kind;
use route_model::meta::{ResourceKey, Revision};
use route_model::resource::{Resource, ResourceSet};
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use self::data_dir::DataDir;
use self::identity::{Agent, Applicant, Kept};
use self::last_good::{LastGood, Saver};
use self::ports::PortsFile;
pub use self::prerequisites::{Missing, Prerequisites};
use self::traffic::{Outcome, Traffic};

/// How often the control plane is told how the proxy is doing, if that changed.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// What a proxy is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Unique among the proxies of a control plane. `None`: made once and kept in the data folder.
    pub node_id: Option<String>,
    /// What the proxy is, and so what the control plane sends it.
    pub scope: ProxyScope,
    /// What a sidecar knows of its host beside that.
    pub sidecar: Option<SidecarScope>,
    /// With the namespace of the scope, its identity. Empty: `default`.
    pub service_account: String,
    /// Of its labels in metrics only the workload is taken; the rest follows from the two fields above.
    pub proxy: proxy::Options,
    pub data_dir: PathBuf,
    /// Further entries of `ports.json`: what the rest of this process has bound.
    pub other_ports: Map<String, Value>,
    /// What it registers at the control plane, for a sidecar. It is not ready until
    /// [`readiness`](Follower::readiness) says so.
    pub workload: Option<Workload>,
}

/// The way to the control plane.
#[derive(Clone)]
pub struct Transport {
    pub connect: Arc<dyn Connect>,
    /// Not needed inside one process.
    pub token: Option<Token>,
    /// What [`Transport::connect`] shows: the proxy's certificate in the mesh, once it has one. `None`: nothing is shown,
    /// as inside one process.
    pub credential: Option<Arc<Credential>>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("origin", &self.connect.origin()).finish_non_exhaustive()
    }
}

/// Why a proxy did not start.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot use the data folder {}: {source}", path.display())]
    DataDir { path: PathBuf, source: io::Error },
    #[error("the data folder {} is in use by another proxy", .0.display())]
    InUse(PathBuf),
    #[error(transparent)]
    Proxy(#[from] proxy::StartError),
}

/// A proxy that was started and serves nothing yet.
#[derive(Debug)]
pub struct Follower {
    traffic: Traffic,
    ports: PortsFile,
    node: Node,
    service_account: String,
    transport: Transport,
    in_force: watch::Sender<Option<Revision>>,
    /// Where a sidecar's traffic would come in but cannot.
    unbound: watch::Sender<Vec<SocketAddr>>,
    workload: Option<Workload>,
    readiness: watch::Sender<Ready>,
    group: Group,
    agent: Agent,
    /// Locked for as long as this lives.
    dir: DataDir,
}

/// The WorkloadGroup of the workload.
#[derive(Debug)]
struct Group {
    key: ResourceKey,
    current: watch::Sender<Option<Arc<Resource>>>,
}

impl Group {
    /// Takes it out of a set that is in force.
    fn note(&self, set: &ResourceSet) {
        let group = set.get(&self.key);
        self.current.send_if_modified(|known| {
            let changed = known.as_ref().map(Arc::as_ptr) != group.map(Arc::as_ptr);
            *known = group.cloned();
            changed
        });
    }
}

impl Follower {
    /// Takes the data folder, binds the proxy's own ports and starts its threads.
    pub fn start(options: Options, transport: Transport) -> Result<Self, Error> {
        let dir = DataDir::open(&options.data_dir)?;
        let node_id = match options.node_id {
            Some(id) => id,
            None => dir.node_id()?,
        };
        let mut proxy_options = options.proxy;
        proxy_options.identity.node_id.clone_from(&node_id);
        proxy_options.identity.namespace = options.scope.namespace.to_string();
        let identity = proxy_options.mesh_identity.clone();
        let traffic = Traffic::new(proxy::Proxy::start(proxy_options)?, options.scope.clone(), options.sidecar);
        let mut ports = PortsFile::new(dir.path("ports.json"), options.other_ports);
        ports.write(&traffic.bound());
        let node = Node { id: node_id, scope: options.scope, build: env!("CARGO_PKG_VERSION").to_owned() };
        let applicant = Applicant {
            node: node.id.clone(),
            namespace: node.scope.namespace.to_string(),
            service_account: options.service_account.clone(),
        };
        let name = options.workload.as_ref().map_or("", |workload| &workload.group);
        let key = ResourceKey::new(Kind::WorkloadGroup, node.scope.namespace.clone(), name);
        let group = Group { key, current: watch::Sender::default() };
        let agent = Agent::open(Kept::of(&dir), applicant, transport.clone(), identity);
        Ok(Self {
            traffic,
            ports,
            node,
            service_account: options.service_account,
            transport,
            in_force: watch::Sender::default(),
            unbound: watch::Sender::default(),
            workload: options.workload,
            readiness: watch::Sender::default(),
            group,
            agent,
            dir,
        })
    }

    /// What has to be there before this proxy can serve.
    pub fn prerequisites(&self) -> Prerequisites {
        Prerequisites::new(self.in_force.subscribe(), self.agent.identity().watch(), self.unbound.subscribe())
    }

    /// Where it is said whether the workload can serve, and why not.
    pub fn readiness(&self) -> watch::Sender<Ready> {
        self.readiness.clone()
    }

    /// The WorkloadGroup that the workload belongs to, of the revision in force: `None` without one.
    pub fn group(&self) -> watch::Receiver<Option<Arc<Resource>>> {
        self.group.current.subscribe()
    }

    /// Follows the control plane until `shutdown` resolves, then drains. Must be called inside a tokio runtime.
    ///
    /// It does not fail: what goes wrong is logged and reported to the control plane, and the last good table goes on
    /// serving.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let last_good = LastGood::open(&self.dir);
        let mut subscription = SubscriberOptions {
            service_account: self.service_account.clone(),
            token: self.transport.token.clone(),
            workload: self.workload.clone(),
            ..SubscriberOptions::new(self.node.clone())
        };
        if let Some(held) = last_good.load() {
            let revision = held.set().revision;
            let held = Arc::new(held);
            match self.traffic.start_from(held.clone()).await {
                Outcome::InForce(issues) => {
                    for issue in &issues {
                        warn!(%revision, %issue, "not in force");
                    }
                    info!(%revision, issues = issues.len(), "serving the last good configuration");
                    subscription.applied = Some(Ack::new(revision, issues));
                    self.group.note(held.set());
                    subscription.held = Some(Arc::unwrap_or_clone(held));
                    self.unbound.send_replace(self.traffic.unbound());
                    self.in_force.send_replace(Some(revision));
                }
                Outcome::Failed(issue) => error!(%revision, %issue, "the last good configuration cannot be served"),
            }
            self.ports.write(&self.traffic.bound());
        }

        let saver = Saver::start(last_good);
        // The stream is to come with the certificate, and a join token for one use is not to be shown twice at once.
        let ended = tokio::select! {
            () = &mut shutdown => true,
            () = self.agent.bootstrap() => false,
        };
        let mut subscriber = None;
        if !ended {
            let acked = subscription.applied.clone();
            let subscriber = subscriber.insert(Subscriber::start(subscription, self.transport.connect.clone()));
            self.follow(subscriber, acked, &saver, shutdown).await;
        }
        info!("draining");
        if let Some(subscriber) = subscriber {
            subscriber.leave().await;
        }
        saver.finish().await;
        self.traffic.drain().await;
        info!("drained");
    }

    async fn follow(
        &mut self,
        subscriber: &mut Subscriber,
        mut acked: Option<Ack>,
        saver: &Saver,
        mut shutdown: impl Future<Output = ()> + Unpin,
    ) {
        let mut readiness = self.readiness.subscribe();
        readiness.mark_changed();
        let mut reports = tokio::time::interval(REPORT_EVERY);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed = self.agent.renewed();
        let mut keeping = std::pin::pin!(self.agent.keep(subscriber.trust(), subscriber.status()));
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                never = &mut keeping => match never {},
                Ok(()) = renewed.changed(), if self.transport.credential.is_some() => subscriber.reconnect(),
                update = subscriber.next_update() => {
                    let began = Instant::now();
                    let revision = update.revision();
                    let held = update.held.clone();
                    match self.traffic.take(update).await {
                        Outcome::InForce(issues) => {
                            subscriber.ack(revision, issues.clone());
                            acked = Some(Ack::new(revision, issues.clone()));
                            for issue in &issues {
                                warn!(%revision, %issue, "not in force");
                            }
                            let took_ms = began.elapsed().as_millis();
                            info!(%revision, resources = held.set().len(), issues = issues.len(), took_ms, "in force");
                            self.group.note(held.set());
                            // Before it is said that there is a configuration.
                            self.unbound.send_replace(self.traffic.unbound());
                            self.in_force.send_replace(Some(revision));
                            saver.offer(held);
                            self.ports.write(&self.traffic.bound());
                        }
                        Outcome::Failed(issue) => {
                            error!(%revision, %issue, "cannot be put in force, the revision before goes on serving");
                            subscriber.nack(revision, vec![issue]);
                        }
                    }
                }
                Ok(()) = readiness.changed() => {
                    let Ready { ready, reason } = readiness.borrow_and_update().clone();
                    subscriber.ready(ready, &reason);
                }
                _ = reports.tick() => subscriber.report(self.traffic.state()),
                ack = self.traffic.next_report() => {
                    self.unbound.send_replace(self.traffic.unbound());
                    // Nearly always what was acknowledged with the update.
                    if acked.as_ref() != Some(&ack) {
                        let revision = ack.revision;
                        info!(revision, issues = ack.issues.len(), "more is in force now");
                        subscriber.ack(Revision(revision), ack.issues.clone());
                        acked = Some(ack);
                        self.ports.write(&self.traffic.bound());
                    }
                }
            }
        }
    }
}
