//! Making tables ready to run, with everything that was learnt under the tables before.

use std::collections::HashMap;
use std::sync::Arc;

use route_model::table::cluster::Discovery;
use route_model::table::{Cluster, ClusterKey, Listener, ListenerProtocol, RouteTable};

use crate::listener::ListenerId;
use crate::proxy::Issue;
use crate::runtime_table::{RuntimeListener, RuntimeTable};
use crate::tls::TlsStore;
use crate::upstream::cluster_state::{ClusterState, Discovered};

/// Builds one [`RuntimeTable`] after the other. Clusters keep their endpoints under their key, TLS terms their
/// configuration while they are the same allocation.
#[derive(Debug)]
pub(crate) struct TableBuilder {
    tls: Arc<TlsStore>,
    previous: Arc<RuntimeTable>,
    discovery: HashMap<ClusterKey, Tracked, foldhash::fast::RandomState>,
}

/// The endpoints of a cluster and how they are found.
#[derive(Debug)]
struct Tracked {
    discovered: Arc<Discovered>,
    discovery: Discovery,
}

impl TableBuilder {
    pub(crate) fn new(tls: Arc<TlsStore>) -> Self {
        Self { tls, previous: Arc::default(), discovery: HashMap::default() }
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
            serving.iter().map(|&(position, id)| (id, self.listener(&table.listeners[position], issues))).collect();
        listeners.sort_unstable_by_key(|(id, _)| *id);
        let clusters = self.clusters(&table);
        let sequence = self.previous.sequence + 1;
        self.tls.retain(&table);
        self.previous = Arc::new(RuntimeTable { table, sequence, listeners: listeners.into(), clusters });
        Arc::clone(&self.previous)
    }

    fn listener(&self, listener: &Arc<Listener>, issues: &mut Vec<Issue>) -> RuntimeListener {
        let tls = match &listener.protocol {
            ListenerProtocol::Http(_) => None,
            ListenerProtocol::Tls(tls) => {
                let (acceptor, faults) = self.tls.acceptor(tls);
                issues.extend(faults);
                Some(acceptor)
            }
        };
        RuntimeListener { listener: Arc::clone(listener), tls }
    }

    fn clusters(&mut self, table: &RouteTable) -> Box<[Option<Arc<ClusterState>>]> {
        let previous = Arc::clone(&self.previous);
        let mut changed = previous.clusters.len() > table.clusters.len();
        let clusters: Box<[_]> = table
            .clusters
            .iter()
            .enumerate()
            .map(|(index, cluster)| {
                let before = previous.clusters.get(index).and_then(Option::as_ref);
                match (cluster, before) {
                    (Some(cluster), Some(state)) if Arc::ptr_eq(cluster, &state.cluster) => Some(Arc::clone(state)),
                    (None, None) => None,
                    (cluster, _) => {
                        changed = true;
                        cluster.as_ref().map(|cluster| self.cluster(cluster))
                    }
                }
            })
            .collect();
        if changed {
            self.forget_unused(&clusters);
        }
        clusters
    }

    fn cluster(&mut self, cluster: &Arc<Cluster>) -> Arc<ClusterState> {
        let tracked = self
            .discovery
            .entry(cluster.key.clone())
            .or_insert_with(|| Tracked { discovered: Arc::new(Discovered::new()), discovery: Discovery::None });
        if tracked.discovered.version() == 0 || tracked.discovery != cluster.discovery {
            tracked.discovery.clone_from(&cluster.discovery);
            match &cluster.discovery {
                Discovery::Static(endpoints) => tracked.discovered.publish(endpoints),
                Discovery::None => tracked.discovered.publish(&[]),
                Discovery::Dns(_) | Discovery::LogicalDns(_) | Discovery::Undeclared(_) => {}
            }
        }
        Arc::new(ClusterState { cluster: Arc::clone(cluster), discovered: Arc::clone(&tracked.discovered) })
    }

    fn forget_unused(&mut self, clusters: &[Option<Arc<ClusterState>>]) {
        let used: std::collections::HashSet<*const Discovered, foldhash::fast::RandomState> =
            clusters.iter().flatten().map(|state| Arc::as_ptr(&state.discovered)).collect();
        self.discovery.retain(|_, tracked| used.contains(&Arc::as_ptr(&tracked.discovered)));
    }
}
