//! What the threads of one proxy share: its options, its counts, and the way to each worker.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot};

use crate::listener::ListenerId;
use crate::options::Options;
use crate::policy::rate_limit;
use crate::runtime_table::RuntimeTable;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::refusals::Refusals;
use crate::tls::mesh::MeshAcceptor;
use crate::upstream::own::OwnConnections;

/// Connections that a worker may have beyond the least loaded one before it hands new ones over.
const IMBALANCE: usize = 8;

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) options: Options,
    pub(crate) hostname: Box<str>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) rate_limits: rate_limit::Common,
    /// For connections from other proxies of the mesh.
    pub(crate) mesh: MeshAcceptor,
    /// For a proxy to which its host's own traffic is led.
    pub(crate) own: Option<Arc<OwnConnections>>,
    pub(crate) refusals: Refusals,
    connections: AtomicUsize,
    workers: Box<[WorkerLoad]>,
    inboxes: OnceLock<Box<[mpsc::UnboundedSender<Message>]>>,
    /// Tables go there to be freed.
    pub(crate) graveyard: mpsc::UnboundedSender<Arc<RuntimeTable>>,
}

/// A cache line each, as every worker writes its own all the time.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerLoad {
    connections: AtomicUsize,
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    Apply(Box<Apply>),
    /// A connection that another worker accepted.
    Adopt {
        stream: TcpStream,
        peer: SocketAddr,
        listener: ListenerId,
    },
    /// Close all listeners, finish what is under way, answer when the last connection is closed.
    Drain(oneshot::Sender<()>),
    Stop,
}

/// A table and what it changes about the listeners.
#[derive(Debug)]
pub(crate) struct Apply {
    pub(crate) table: Arc<RuntimeTable>,
    pub(crate) open: Vec<(ListenerId, TcpListener)>,
    pub(crate) close: Vec<ListenerId>,
    /// Answered when the table is in force and the new listeners accept.
    pub(crate) done: oneshot::Sender<()>,
}

/// One open downstream connection, counted until dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    process: Arc<Process>,
    worker: usize,
}

impl Process {
    pub(crate) fn new(options: Options, graveyard: mpsc::UnboundedSender<Arc<RuntimeTable>>) -> Self {
        Self {
            metrics: Metrics::new(options.identity.clone()),
            rate_limits: rate_limit::Common::new(),
            mesh: MeshAcceptor::new(options.mesh_identity.clone()),
            own: OwnConnections::new(options.own_traffic),
            refusals: Refusals::default(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into(),
            connections: AtomicUsize::new(0),
            workers: (0..options.workers).map(|_| WorkerLoad::default()).collect(),
            inboxes: OnceLock::new(),
            graveyard,
            options,
        }
    }

    /// Makes the workers known to each other; once, before the first table.
    pub(crate) fn set_inboxes(&self, inboxes: Vec<mpsc::UnboundedSender<Message>>) {
        let _ = self.inboxes.set(inboxes.into());
    }

    pub(crate) fn inboxes(&self) -> &[mpsc::UnboundedSender<Message>] {
        self.inboxes.get().map_or(&[], |inboxes| inboxes)
    }

    /// Counts a connection of a worker; `None` at the ceiling.
    pub(crate) fn admit(self: &Arc<Self>, worker: usize) -> Option<ConnectionPermit> {
        if self.connections.fetch_add(1, Ordering::Relaxed) >= self.options.limits.max_connections {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.workers[worker].connections.fetch_add(1, Ordering::Relaxed);
        Some(ConnectionPermit { process: Arc::clone(self), worker })
    }

    /// Downstream connections open now.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The worker that should take a connection which `worker` accepted, if not `worker` itself.
    pub(crate) fn less_loaded_than(&self, worker: usize) -> Option<usize> {
        let load = |index: usize| self.workers[index].connections.load(Ordering::Relaxed);
        let (least, fewest) = (0..self.workers.len()).map(|index| (index, load(index))).min_by_key(|(_, n)| *n)?;
        (load(worker) > fewest + IMBALANCE.max(fewest / 8)).then_some(least)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.process.connections.fetch_sub(1, Ordering::Relaxed);
        self.process.workers[self.worker].connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    fn process(workers: usize, max_connections: usize) -> Arc<Process> {
        let limits = Limits { max_connections, ..Limits::default() };
        Arc::new(Process::new(Options { workers, limits, ..Options::default() }, mpsc::unbounded_channel().0))
    }

    #[test]
    fn the_ceiling_counts_all_workers_and_permits_come_back() {
        let process = process(2, 2);
        let first = process.admit(0).unwrap();
        let _second = process.admit(1).unwrap();
        assert!(process.admit(0).is_none());
        drop(first);
        assert!(process.admit(0).is_some());
    }

    #[test]
    fn connections_move_only_beyond_the_margin() {
        let process = process(2, 100);
        let mut held: Vec<_> = (0..IMBALANCE).map(|_| process.admit(1)).collect();
        assert_eq!(process.less_loaded_than(1), None);
        held.push(process.admit(1));
        assert_eq!(process.less_loaded_than(1), Some(0));
        assert_eq!(process.less_loaded_than(0), None);
    }
}
