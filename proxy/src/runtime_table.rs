//! A route table made ready to run: its listeners tied to sockets, its clusters to their state, its TLS terms to
//! configurations. It is built off the workers, shared by them, and dropped off them.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use route_model::table::host::without_port;
use route_model::table::{ClusterId, Listener, RouteTable};
use route_model::verdict::limits::RouteLimits;
use tokio::sync::mpsc;

use crate::listener::ListenerId;
use crate::policy::authorization::Enforcement;
use crate::policy::jwt::Verifiers;
use crate::policy::rate_limit::PolicyState;
use crate::telemetry::connections::ConnectionSeries;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::requests::RequestSeries;
use crate::telemetry::source::BySource;
use crate::tls::TlsAcceptor;
use crate::upstream::balance::{Balancer, Wish};
use crate::upstream::cluster_state::{ClusterState, Discovered, EndpointState};
use crate::upstream::dynamic::{DynamicName, NoName};
use crate::upstream::original::{Originals, Wanted};
use crate::worker::Worker;

/// What all workers share of one table.
#[derive(Debug, Default)]
pub(crate) struct RuntimeTable {
    pub(crate) table: Arc<RouteTable>,
    /// Rises with every table applied; revisions may repeat.
    pub(crate) sequence: u64,
    /// Sorted by id. Listeners that could not be bound are not here.
    pub(crate) listeners: Box<[(ListenerId, RuntimeListener)]>,
    /// Indexed by [`ClusterId`].
    pub(crate) clusters: Box<[Option<Arc<ClusterState>>]>,
    /// Indexed by [`LimitId`](route_model::verdict::limits::LimitId).
    pub(crate) limits: Box<[Option<Arc<PolicyState>>]>,
    /// `None`: everybody may do everything.
    pub(crate) authorization: Option<Enforcement>,
    /// What verifies tokens.
    pub(crate) verifiers: Verifiers,
}

#[derive(Debug)]
pub(crate) struct RuntimeListener {
    pub(crate) listener: Arc<Listener>,
    /// For a TLS listener.
    pub(crate) tls: Option<TlsAcceptor>,
    /// There are authorization policies for those who come in here.
    pub(crate) guarded: bool,
}

impl RuntimeTable {
    /// The position of a listener, for [`Self::listener_at`]; `None` if it is not in this table.
    pub(crate) fn find_listener(&self, id: ListenerId) -> Option<usize> {
        self.listeners.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    /// The rate limits of the service that a destination leads to.
    pub(crate) fn limits_of(&self, cluster: ClusterId) -> Option<&RouteLimits> {
        self.clusters.get(cluster.index())?.as_ref()?.cluster.limits.as_deref()
    }

    pub(crate) fn listener_at(&self, position: usize) -> &RuntimeListener {
        &self.listeners[position].1
    }
}

/// One worker's handle on a table, with what it keeps per cluster. Requests hold it to their end, so each runs on
/// one table from head to tail.
#[derive(Debug)]
pub(crate) struct WorkerTable {
    runtime: Option<Arc<RuntimeTable>>,
    clusters: RefCell<Box<[Option<Rc<WorkerCluster>>]>>,
    graveyard: mpsc::UnboundedSender<Arc<RuntimeTable>>,
}

/// One cluster of one table on one worker, or one of the names under its wildcard.
#[derive(Debug)]
pub(crate) struct WorkerCluster {
    pub(crate) state: Arc<ClusterState>,
    balancer: RefCell<Balancer>,
    /// Where requests name their host: those that this worker has met.
    named: RefCell<HashMap<Box<str>, Named, foldhash::fast::RandomState>>,
    /// Where clients say where they were going: the endpoints that this worker has met.
    originals: RefCell<HashMap<Original, Rc<WorkerCluster>, foldhash::fast::RandomState>>,
    series: OnceCell<RequestSeries>,
    /// For the application beside this proxy.
    pub(crate) by_source: BySource,
    connections: OnceCell<Arc<ConnectionSeries>>,
}

/// A name under a cluster's wildcard, as one worker serves it.
#[derive(Debug)]
struct Named {
    name: Arc<DynamicName>,
    cluster: Rc<WorkerCluster>,
}

/// An endpoint that clients were going to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Original {
    Address(SocketAddr),
    /// By the place of what is known of it.
    Name(*const Discovered),
}

/// So many of them are remembered at once.
const MAX_ORIGINALS: usize = 4096;

/// The longest name in DNS, with its last dot.
const MAX_HOST: usize = 254;

/// The name in a `Host`, in lower case and without port and last dot; `None` if it is too long to be one.
fn host_name<'a>(host: &str, lower: &'a mut [u8; MAX_HOST]) -> Option<&'a str> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    let name = std::str::from_utf8(lower).ok()?;
    Some(name.strip_suffix('.').unwrap_or(name))
}

/// The port of an authority; HTTP's own where none is written.
pub(crate) fn port_of(authority: &str) -> Option<u16> {
    let port = authority.get(without_port(authority).len()..)?;
    if port.is_empty() { Some(80) } else { port.strip_prefix(':')?.parse().ok() }
}

impl WorkerTable {
    /// `graveyard` takes the shared table when the last request on this worker has let go of it.
    pub(crate) fn new(runtime: Arc<RuntimeTable>, graveyard: mpsc::UnboundedSender<Arc<RuntimeTable>>) -> Self {
        let clusters = RefCell::new(vec![None; runtime.clusters.len()].into());
        Self { runtime: Some(runtime), clusters, graveyard }
    }

    pub(crate) fn runtime(&self) -> &RuntimeTable {
        match &self.runtime {
            Some(runtime) => runtime,
            None => unreachable!("a worker's table is taken only on drop"),
        }
    }

    /// `None` where the service or subset does not exist.
    pub(crate) fn cluster(&self, id: ClusterId) -> Option<Rc<WorkerCluster>> {
        if let Some(Some(cluster)) = self.clusters.borrow().get(id.index()) {
            return Some(Rc::clone(cluster));
        }
        let state = self.runtime().clusters.get(id.index())?.as_ref()?;
        let cluster = Rc::new(WorkerCluster::new(Arc::clone(state)));
        self.clusters.borrow_mut()[id.index()] = Some(Rc::clone(&cluster));
        Some(cluster)
    }
}

/// A big table takes long to free, and a worker has better things to do.
impl Drop for WorkerTable {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // With the receiver gone the proxy is ending; freeing here is fine then.
            let _ = self.graveyard.send(runtime);
        }
    }
}

impl WorkerCluster {
    fn new(state: Arc<ClusterState>) -> Self {
        Self {
            balancer: RefCell::new(Balancer::new(
                state.cluster.load_balancer.clone(),
                state.cluster.policy.warmup.clone(),
            )),
            named: RefCell::default(),
            originals: RefCell::default(),
            series: OnceCell::new(),
            by_source: BySource::default(),
            connections: OnceCell::new(),
            state,
        }
    }

    /// What serves a host, be it with a port and in any case: the cluster itself, except where requests name their
    /// host, or where they go on to where their client was going: to `destination`, or else to the host.
    pub(crate) fn of_host<'h>(
        self: Rc<Self>,
        host: impl FnOnce() -> &'h str,
        destination: Option<SocketAddr>,
    ) -> Result<Rc<Self>, NoName> {
        if let Some(originals) = &self.state.originals {
            return self.of_original(originals, host, destination);
        }
        let Some(names) = &self.state.names else { return Ok(self) };
        let mut lower = [0; MAX_HOST];
        let host = host_name(host(), &mut lower).ok_or(NoName::Foreign)?;
        if let Some(known) = self.named.borrow().get(host)
            && names.touch(&known.name)
        {
            return Ok(Rc::clone(&known.cluster));
        }
        let name = names.find(host)?;
        let cluster = Rc::new(Self::new(Arc::new(ClusterState {
            cluster: Arc::clone(&self.state.cluster),
            discovered: Arc::clone(&name.discovered),
            load: Arc::clone(&self.state.load),
            names: None,
            originals: None,
            tls: self.state.tls.clone(),
            tls_at_fault: self.state.tls_at_fault.clone(),
        })));
        let mut named = self.named.borrow_mut();
        // What the others have forgotten is forgotten here when there is something new to remember.
        named.retain(|_, known| !known.name.is_gone());
        named.insert(host.into(), Named { name, cluster: Rc::clone(&cluster) });
        Ok(cluster)
    }

    fn of_original<'h>(
        &self,
        originals: &Originals,
        host: impl FnOnce() -> &'h str,
        destination: Option<SocketAddr>,
    ) -> Result<Rc<Self>, NoName> {
        let known = |key| self.originals.borrow().get(&key).cloned();
        let (key, discovered) = if let Some(address) = destination {
            let key = Original::Address(address);
            if let Some(known) = known(key) {
                return Ok(known);
            }
            (key, originals.find(Wanted::Address(address))?)
        } else {
            let authority = host();
            let port = port_of(authority).ok_or(NoName::Foreign)?;
            let mut lower = [0; MAX_HOST];
            let bare = without_port(authority);
            let host = match bare.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
                Some(ip) => ip,
                None => host_name(bare, &mut lower).ok_or(NoName::Foreign)?,
            };
            let discovered = originals.find(Wanted::Name(host, port))?;
            let key = Original::Name(Arc::as_ptr(&discovered));
            if let Some(known) = known(key) {
                return Ok(known);
            }
            (key, discovered)
        };
        let cluster = Rc::new(Self::new(Arc::new(ClusterState {
            cluster: Arc::clone(&self.state.cluster),
            discovered,
            load: Arc::clone(&self.state.load),
            names: None,
            originals: None,
            tls: self.state.tls.clone(),
            tls_at_fault: self.state.tls_at_fault.clone(),
        })));
        let mut known = self.originals.borrow_mut();
        if known.len() >= MAX_ORIGINALS {
            known.clear();
        }
        known.insert(key, Rc::clone(&cluster));
        Ok(cluster)
    }

    /// Chooses an endpoint; `None` when there is none.
    pub(crate) fn pick(&self, wish: Wish<'_>) -> Option<Arc<EndpointState>> {
        self.balancer.borrow_mut().pick(&self.state.discovered, wish).cloned()
    }

    /// Where this worker counts TCP connections to the cluster.
    pub(crate) fn connections(&self, worker: &Worker) -> &Arc<ConnectionSeries> {
        let series = || worker.metrics.connections_to(Some(&self.state.cluster), ResponseFlags::NONE);
        self.connections.get_or_init(series)
    }

    /// Where this worker counts the cluster's requests.
    pub(crate) fn series(&self, worker: &Worker) -> &RequestSeries {
        self.series.get_or_init(|| worker.metrics.requests_to(&self.state.cluster))
    }
}
