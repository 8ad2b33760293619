//! Making tables ready to run, with everything that was learnt under the tables before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use route_model::table::cluster::Discovery;
use route_model::table::upstream::OutlierDetection;
use route_model::table::{Cluster, ClusterKey, ListenerProtocol, RouteTable};
use tokio::runtime::Handle;

use crate::listener::ListenerId;
use crate::policy::authorization::AuthorizationStates;
use crate::policy::jwt::{KeyStore, Schedule, Verifiers};
use crate::policy::rate_limit::LimitStates;
use crate::proxy::Issue;
use crate::rt::Task;
use crate::runtime_table::{RuntimeListener, RuntimeTable};
use crate::telemetry::metrics::Metrics;
use crate::tls::TlsStore;
use crate::tls::certificate::TlsFault;
use crate::tls::upstream::UpstreamContext;
use crate::upstream::cluster_state::{ClusterState, Discovered};
use crate::upstream::dynamic::DynamicNames;
use crate::upstream::load::ClusterLoad;
use crate::upstream::original::Originals;
use crate::upstream::outlier;
use crate::upstream::resolve::Resolver;

/// Builds one [`RuntimeTable`] after the other. Clusters keep their endpoints under their key, TLS terms their
/// configuration while they are the same allocation.
#[derive(Debug)]
pub(crate) struct TableBuilder {
    tls: Arc<TlsStore>,
    resolver: Arc<Resolver>,
    previous: Arc<RuntimeTable>,
    discovery: HashMap<ClusterKey, Tracked, foldhash::fast::RandomState>,
    limits: LimitStates,
    authorization: AuthorizationStates,
    keys: KeyStore,
    metrics: Arc<Metrics>,
}

/// The endpoints of a cluster and how they are found.
#[derive(Debug)]
struct Tracked {
    discovered: Arc<Discovered>,
    load: Arc<ClusterLoad>,
    names: Option<Arc<DynamicNames>>,
    originals: Option<Arc<Originals>>,
    discovery: Discovery,
    /// The longest time between tries of a name that cannot be looked up.
    retry: Duration,
    /// Keeps what is found in DNS up to date.
    _following: Option<Task>,
    /// Brings endpoints back into rotation, by these rules.
    sweeping: Option<(OutlierDetection, Task)>,
    /// The terms that serve.
    tls: Option<Arc<UpstreamContext>>,
}

impl Tracked {
    /// Has endpoints leave the rotation and come back by these rules.
    fn govern(&mut self, rules: Option<&OutlierDetection>, handle: &Handle) {
        if self.sweeping.as_ref().map(|(rules, _)| rules) == rules {
            return;
        }
        self.discovered.govern(rules);
        if let Some(names) = &self.names {
            names.govern(rules);
        }
        self.sweeping = rules.map(|rules| (rules.clone(), outlier::sweep(handle, &self.discovered, rules)));
        if rules.is_none() {
            self.discovered.pardon();
        }
    }
}

impl TableBuilder {
    pub(crate) fn new(tls: Arc<TlsStore>, resolver: Arc<Resolver>, metrics: Arc<Metrics>) -> Self {
        let keys = KeyStore::new(resolver.handle().clone(), Schedule::default());
        Self {
            tls,
            resolver,
            previous: Arc::default(),
            discovery: HashMap::default(),
            limits: LimitStates::default(),
            authorization: AuthorizationStates::default(),
            keys,
            metrics,
        }
    }

    /// `serving` ties listeners of the table, by position, to their sockets. What cannot be made ready is added to
    /// `issues`; the rest works.
    pub(crate) fn build(
        &mut self,
        table: Arc<RouteTable>,
        serving: &[(usize, ListenerId)],
        issues: &mut Vec<Issue>,
    ) -> Arc<RuntimeTable> {
        let mut listeners: Vec<_> =
            serving.iter().map(|&(position, id)| (id, self.listener(&table, position, issues))).collect();
        listeners.sort_unstable_by_key(|(id, _)| *id);
        let clusters = self.clusters(&table);
        issues.extend(clusters.iter().flatten().filter_map(|state| tls_issue(state)));
        let sequence = self.previous.sequence + 1;
        self.tls.retain(&table);
        let limits = self.limits.states(&table.limits, &self.previous.limits);
        self.metrics.limited_by(self.limits.series());
        let authorization = self.authorization.enforcement(&table);
        self.metrics.authorized_by(self.authorization.series(&table));
        let verifiers = Verifiers::new(&table, &self.previous.verifiers, &mut self.keys);
        self.metrics.keys_from(self.keys.series());
        let listeners = listeners.into();
        self.previous =
            Arc::new(RuntimeTable { table, sequence, listeners, clusters, limits, authorization, verifiers });
        Arc::clone(&self.previous)
    }

    fn listener(&self, table: &RouteTable, position: usize, issues: &mut Vec<Issue>) -> RuntimeListener {
        let listener = &table.listeners[position];
        let tls = match &listener.protocol {
            ListenerProtocol::Tls(tls) => {
                let (acceptor, faults) = self.tls.acceptor(tls);
                issues.extend(faults);
                Some(acceptor)
            }
            _ => None,
        };
        let gateways = listener.servers.iter().map(|server| &server.gateway);
        let guarded = listener.is_guarded() && table.authorization.concerns(gateways);
        RuntimeListener { listener: Arc::clone(listener), tls, guarded }
    }

    fn clusters(&mut self, table: &RouteTable) -> Box<[Option<Arc<ClusterState>>]> {
        let previous = Arc::clone(&self.previous);
        let retry = table.settings.dns_refresh_rate;
        let same_retry = previous.table.settings.dns_refresh_rate == retry;
        let mut changed = previous.clusters.len() > table.clusters.len();
        let clusters: Box<[_]> = table
            .clusters
            .iter()
            .enumerate()
            .map(|(index, cluster)| {
                let before = previous.clusters.get(index).and_then(Option::as_ref);
                match (cluster, before) {
                    (Some(cluster), Some(state))
                        if same_retry && Arc::ptr_eq(cluster, &state.cluster) && state.tls_at_fault.is_none() =>
                    {
                        Some(Arc::clone(state))
                    }
                    (None, None) => None,
                    (cluster, _) => {
                        changed = true;
                        cluster.as_ref().map(|cluster| self.cluster(cluster, retry))
                    }
                }
            })
            .collect();
        if changed {
            self.forget_unused(&clusters);
        }
        clusters
    }

    fn cluster(&mut self, cluster: &Arc<Cluster>, retry: Duration) -> Arc<ClusterState> {
        let kept = self.discovery.remove(&cluster.key);
        let mut tracked = match kept {
            Some(kept) if kept.discovery == cluster.discovery && kept.retry == retry => kept,
            kept => self.track(cluster, retry, kept.as_ref()),
        };
        tracked.govern(cluster.policy.outlier.as_ref(), self.resolver.handle());
        let (tls, tls_at_fault) = match &cluster.policy.tls {
            None => (None, None),
            Some(terms) => {
                let (context, at_fault) = self.tls.upstreams.context(terms, tracked.tls.as_ref());
                (Some(context), at_fault)
            }
        };
        tracked.tls.clone_from(&tls);
        let (discovered, load) = (Arc::clone(&tracked.discovered), Arc::clone(&tracked.load));
        let (names, originals) = (tracked.names.clone(), tracked.originals.clone());
        self.discovery.insert(cluster.key.clone(), tracked);
        Arc::new(ClusterState { cluster: Arc::clone(cluster), discovered, load, names, originals, tls, tls_at_fault })
    }

    /// Begins to look for a cluster's endpoints, with what is known from a discovery that this one replaces.
    fn track(&self, cluster: &Arc<Cluster>, retry: Duration, before: Option<&Tracked>) -> Tracked {
        let discovered = Arc::new(before.map_or_else(Discovered::new, |before| before.discovered.successor()));
        match &cluster.discovery {
            Discovery::Static(endpoints) => discovered.publish(endpoints),
            // The endpoints of a wildcard are those of its names, and clients that were going elsewhere bring their own.
            Discovery::Dynamic(_) | Discovery::Original | Discovery::None => discovered.publish(&[]),
            // What was found before serves until the first answer.
            Discovery::Dns(_) | Discovery::LogicalDns(_) | Discovery::Undeclared(_) => {}
        }
        Tracked {
            names: match &cluster.discovery {
                Discovery::Dynamic(names) => Some(Arc::new(DynamicNames::new(names, &self.resolver, retry))),
                _ => None,
            },
            originals: matches!(cluster.discovery, Discovery::Original)
                .then(|| Arc::new(Originals::new(&self.resolver, retry))),
            _following: self.resolver.follow(&cluster.discovery, &discovered, retry),
            discovered,
            load: before.map_or_else(Arc::default, |before| Arc::clone(&before.load)),
            discovery: cluster.discovery.clone(),
            retry,
            sweeping: None,
            tls: before.and_then(|before| before.tls.clone()),
        }
    }

    fn forget_unused(&mut self, clusters: &[Option<Arc<ClusterState>>]) {
        let used: std::collections::HashSet<*const Discovered, foldhash::fast::RandomState> =
            clusters.iter().flatten().map(|state| Arc::as_ptr(&state.discovered)).collect();
        self.discovery.retain(|_, tracked| used.contains(&Arc::as_ptr(&tracked.discovered)));
    }
}

/// What is wrong with the TLS terms of a cluster, for the rule that says them.
fn tls_issue(state: &ClusterState) -> Option<Issue> {
    let TlsFault { reason, message } = state.tls_at_fault.as_ref()?.fault()?;
    let resource = state.cluster.policy.tls.as_ref()?.rule.clone();
    Some(Issue { resource: Some(resource), reason, message: format!("TLS to {}: {message}", state.cluster.key.host) })
}
