//! What a proxy knows about an upstream beyond its table: its endpoints, and how busy each of them is.
//!
//! A [`ClusterState`] belongs to one table and holds the settings of that table. Its [`Discovered`] endpoints are
//! kept under the cluster's key from table to table, so that an edit elsewhere forgets nothing. All of it is shared
//! by the workers: written rarely, read by comparing one version number.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use route_model::table::Cluster;
use route_model::table::cluster::{Endpoint, EndpointAddress};
use route_model::table::locality::Rank;
use route_model::table::upstream::OutlierDetection;
use tokio::sync::{Notify, watch};

use super::dynamic::DynamicNames;
use super::load::{ClusterLoad, Permit};
use super::locality::{self, Level};
use super::original::Originals;
use super::outlier::Record;
use crate::tls::upstream::UpstreamContext;

/// One cluster of one table.
#[derive(Debug)]
pub(crate) struct ClusterState {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) discovered: Arc<Discovered>,
    pub(crate) load: Arc<ClusterLoad>,
    /// Where each request names its host: the state of the names. The cluster itself has no endpoints then.
    pub(crate) names: Option<Arc<DynamicNames>>,
    /// Where each client says where it was going. The cluster itself has no endpoints then.
    pub(crate) originals: Option<Arc<Originals>>,
    /// `None`: plain text.
    pub(crate) tls: Option<Arc<UpstreamContext>>,
    /// The cluster's terms of TLS, if something is wrong with them; older ones may serve in their place.
    pub(crate) tls_at_fault: Option<Arc<UpstreamContext>>,
}

impl ClusterState {
    /// Whether discovery has ever reported.
    pub(crate) fn is_known(&self) -> bool {
        self.discovered.version() != 0
    }

    /// For a name that was never looked up yet: waits for the answer, which comes soon also when it is negative, and no
    /// longer than a connection may take.
    pub(crate) async fn known(&self) {
        if !self.is_known() {
            let _ = tokio::time::timeout(self.cluster.connect_timeout, self.discovered.known()).await;
        }
    }
}

/// The endpoints of a cluster as discovery last saw them.
#[derive(Debug)]
pub(crate) struct Discovered {
    /// Rises with every publication, so that a worker notices a new set without a lock. 0: nothing is known yet.
    version: AtomicU64,
    current: Mutex<Current>,
    known: watch::Sender<bool>,
    suspicion: Notify,
}

#[derive(Clone, Debug, Default)]
struct Current {
    /// Everybody, in rotation or out.
    all: Arc<EndpointSet>,
    /// Those in rotation: what balancers see.
    rotation: Arc<EndpointSet>,
    rules: Option<OutlierDetection>,
}

impl Current {
    fn new(all: Arc<EndpointSet>, rules: Option<OutlierDetection>) -> Self {
        let rotation = if all.endpoints.iter().any(|endpoint| endpoint.state.record.is_out()) {
            let min_health_percent = rules.as_ref().map_or(0, |rules| rules.min_health_percent);
            Arc::new(EndpointSet::in_rotation(&all.endpoints, min_health_percent))
        } else {
            Arc::clone(&all)
        };
        Self { all, rotation, rules }
    }
}

/// A consistent set of endpoints; replaced whole.
#[derive(Debug, Default)]
pub(crate) struct EndpointSet {
    /// Sorted by rank.
    pub(crate) endpoints: Box<[WeightedEndpoint]>,
    /// Runs of endpoints that share a priority and a locality, the nearest first. None is empty.
    pub(crate) tiers: Box<[Tier]>,
}

/// Endpoints between which a balancer chooses by its policy alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tier {
    /// Places in the set.
    pub(crate) members: Range<usize>,
    pub(crate) priority: u32,
    /// The part of the traffic that it gets, relative to the other tiers.
    pub(crate) load: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct WeightedEndpoint {
    pub(crate) state: Arc<EndpointState>,
    /// Relative; at least 1.
    pub(crate) weight: u32,
    pub(crate) rank: Rank,
}

/// One endpoint of one cluster. It stays the same allocation for as long as discovery reports its address.
pub(crate) struct EndpointState {
    /// Unique in the process and never used again: connection pools are keyed by it.
    pub(crate) id: u64,
    pub(crate) address: EndpointAddress,
    /// `address:port` or the socket path, as access logs show it.
    pub(crate) name: Box<str>,
    /// A proxy of the mesh answers there.
    pub(crate) in_mesh: bool,
    /// When it joined endpoints that were there before; `None`: it was among the first that were found.
    pub(crate) joined: Option<Instant>,
    active: AtomicU32,
    pub(super) record: Record,
}

impl Discovered {
    pub(crate) fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            current: Mutex::default(),
            known: watch::Sender::new(false),
            suspicion: Notify::new(),
        }
    }

    /// Begins anew with the endpoints known so far, for a discovery that replaces another: what the old one still
    /// has to say does not reach it.
    pub(crate) fn successor(&self) -> Self {
        let (version, current) = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            (self.version(), current.clone())
        };
        Self {
            version: AtomicU64::new(version),
            current: Mutex::new(current),
            known: watch::Sender::new(version > 0),
            suspicion: Notify::new(),
        }
    }

    /// Replaces the endpoints. Those whose address was there before keep their state.
    pub(crate) fn publish(&self, endpoints: &[Endpoint]) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = |address: &EndpointAddress, in_mesh: bool| {
            let known = current.all.endpoints.iter().map(|endpoint| &endpoint.state);
            known.clone().find(|known| known.address == *address && known.in_mesh == in_mesh).cloned()
        };
        // Of those that are found first nobody knows how long they have been there.
        let joined = (self.version() > 0).then(Instant::now);
        let mut weighted: Vec<WeightedEndpoint> = Vec::with_capacity(endpoints.len());
        for Endpoint { address, weight, rank, in_mesh } in endpoints {
            let new = || Arc::new(EndpointState::new(address.clone(), *in_mesh, joined));
            let state = kept(address, *in_mesh).unwrap_or_else(new);
            weighted.push(WeightedEndpoint { state, weight: (*weight).max(1), rank: *rank });
        }
        *current = Current::new(Arc::new(EndpointSet::new(weighted)), current.rules.take());
        self.version.fetch_add(1, Ordering::Release);
        drop(current);
        self.known.send_replace(true);
    }

    /// The version that [`Self::current`] would give now; 0 while nothing is known.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Sets the rules by which endpoints leave the rotation; `None`: none does.
    pub(crate) fn govern(&self, rules: Option<&OutlierDetection>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.rules.as_ref() != rules {
            *current = Current::new(Arc::clone(&current.all), rules.cloned());
            // 0 says that nothing is known yet.
            if self.version() > 0 {
                self.version.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Changes who is in rotation: `change` looks at everybody and answers whether it took or brought back somebody.
    pub(super) fn revise(&self, change: impl FnOnce(&[WeightedEndpoint]) -> bool) -> bool {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&current.all.endpoints);
        if changed {
            *current = Current::new(Arc::clone(&current.all), current.rules.take());
            self.version.fetch_add(1, Ordering::Release);
        }
        changed
    }

    /// The current set, without those out of rotation, and its version.
    pub(crate) fn current(&self) -> (u64, Arc<EndpointSet>) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (self.version(), Arc::clone(&current.rotation))
    }

    /// Whether there are no endpoints, in rotation or out.
    pub(crate) fn is_empty(&self) -> bool {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).all.endpoints.is_empty()
    }

    /// Waits until discovery has reported for the first time, be it that there are no endpoints.
    pub(crate) async fn known(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.known.subscribe().wait_for(|known| *known).await;
    }

    /// Asks discovery to look again soon: an endpoint cannot be reached, or there is none.
    pub(crate) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// Waits until somebody suspects that the endpoints are wrong.
    pub(crate) async fn suspected(&self) {
        self.suspicion.notified().await;
    }
}

/// One percent of the traffic, as tiers count it.
const LOAD_UNIT: u128 = 1 << 16;

impl EndpointSet {
    fn new(mut endpoints: Vec<WeightedEndpoint>) -> Self {
        endpoints.sort_by_key(|endpoint| endpoint.rank);
        Self::tiered(&endpoints, 0, |_| true)
    }

    /// Those of all endpoints that are in rotation, and those of priorities that panic, in or out.
    fn in_rotation(all: &[WeightedEndpoint], min_health_percent: u32) -> Self {
        Self::tiered(all, min_health_percent, |endpoint| !endpoint.state.record.is_out())
    }

    /// `all`: sorted by rank.
    fn tiered(
        all: &[WeightedEndpoint],
        min_health_percent: u32,
        is_healthy: impl Fn(&WeightedEndpoint) -> bool,
    ) -> Self {
        let level = |endpoints: &[WeightedEndpoint]| Level {
            endpoints: endpoints.len() as u32,
            healthy: endpoints.iter().filter(|endpoint| is_healthy(endpoint)).count() as u32,
        };
        let priorities: Vec<_> = all.chunk_by(|one, next| one.rank.priority == next.rank.priority).collect();
        let levels: Vec<_> = priorities.iter().map(|endpoints| level(endpoints)).collect();
        let mut used: Vec<WeightedEndpoint> = Vec::with_capacity(all.len());
        let mut tiers = Vec::new();
        for (endpoints, portion) in priorities.iter().zip(locality::divide(&levels, min_health_percent)) {
            let localities: Vec<_> = endpoints.chunk_by(|one, next| one.rank.locality == next.rank.locality).collect();
            let weights: Vec<u64> = localities
                .iter()
                .map(|endpoints| {
                    let level = level(endpoints);
                    let level = if portion.panics { Level { healthy: level.endpoints, ..level } } else { level };
                    level.effective_weight(endpoints[0].rank.share.0)
                })
                .collect();
            let total = weights.iter().sum::<u64>().max(1);
            for (endpoints, weight) in localities.iter().zip(weights) {
                let start = used.len();
                used.extend(endpoints.iter().filter(|endpoint| portion.panics || is_healthy(endpoint)).cloned());
                if used.len() > start {
                    let load = u128::from(portion.percent) * u128::from(weight) * LOAD_UNIT / u128::from(total);
                    let priority = endpoints[0].rank.priority;
                    tiers.push(Tier { members: start..used.len(), priority, load: load as u64 });
                }
            }
        }
        Self { endpoints: used.into(), tiers: tiers.into() }
    }
}

impl EndpointState {
    pub(crate) fn new(address: EndpointAddress, in_mesh: bool, joined: Option<Instant>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = match &address {
            EndpointAddress::Ip(ip, port) => std::net::SocketAddr::new(*ip, *port).to_string().into(),
            EndpointAddress::Unix(path) => Box::from(&**path),
        };
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            address,
            name,
            in_mesh,
            joined,
            active: AtomicU32::new(0),
            record: Record::default(),
        }
    }

    /// Requests in flight on all workers, as it was a moment ago.
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointState")
            .field("name", &self.name)
            .field("active", &self.active())
            .finish_non_exhaustive()
    }
}

/// A request in flight on an endpoint; counts from creation to drop.
#[derive(Debug)]
pub(crate) struct ActiveRequest {
    endpoint: Arc<EndpointState>,
    _permit: Option<Permit>,
}

impl ActiveRequest {
    /// `None` if the cluster has too many under way.
    pub(crate) fn admitted(endpoint: &Arc<EndpointState>, cluster: &ClusterState) -> Option<Self> {
        let permit = cluster.load.request(&cluster.cluster.policy.limits)?;
        Some(Self::counted(endpoint, permit))
    }

    /// A TCP connection, which makes its endpoint as busy as a request does.
    pub(crate) fn connection(endpoint: &Arc<EndpointState>) -> Self {
        Self::counted(endpoint, None)
    }

    fn counted(endpoint: &Arc<EndpointState>, permit: Option<Permit>) -> Self {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Self { endpoint: Arc::clone(endpoint), _permit: permit }
    }

    #[cfg(test)]
    pub(super) fn new(endpoint: &Arc<EndpointState>) -> Self {
        Self::counted(endpoint, None)
    }

    pub(crate) fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16, weight: u32) -> Endpoint {
        Endpoint::new(EndpointAddress::Ip([127, 0, 0, 1].into(), port), weight)
    }

    #[test]
    fn an_endpoint_keeps_its_state_while_its_address_is_reported() {
        let discovered = Discovered::new();
        assert_eq!(discovered.version(), 0);
        discovered.publish(&[endpoint(1, 1), endpoint(2, 1)]);
        let (first, before) = discovered.current();
        discovered.publish(&[endpoint(2, 5), endpoint(3, 1)]);
        let (second, after) = discovered.current();
        assert!(second > first);
        assert!(Arc::ptr_eq(&before.endpoints[1].state, &after.endpoints[0].state));
        assert_ne!(before.endpoints[0].state.id, after.endpoints[1].state.id);
        assert_eq!(after.endpoints.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>(), [5, 1]);
        // Only what came later is new.
        assert_eq!(after.endpoints.iter().map(|e| e.state.joined.is_some()).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_successor_keeps_endpoints_and_is_deaf_to_the_old_discovery() {
        let old = Discovered::new();
        old.publish(&[endpoint(1, 1)]);
        let new = old.successor();
        new.publish(&[endpoint(1, 1), endpoint(2, 1)]);
        old.publish(&[]);
        let ((_, before), (_, after)) = (old.current(), new.current());
        assert_eq!((before.endpoints.len(), after.endpoints.len()), (0, 2));
        old.publish(&[endpoint(1, 1)]);
        assert!(new.version() > 1 && Discovered::new().successor().version() == 0);
    }

    #[test]
    fn a_request_counts_until_it_is_dropped() {
        let state = Arc::new(EndpointState::new(EndpointAddress::Unix("/run/app.sock".into()), false, None));
        let request = ActiveRequest::new(&state);
        assert_eq!((state.active(), &*state.name), (1, "/run/app.sock"));
        drop(request);
        assert_eq!(state.active(), 0);
    }
}
