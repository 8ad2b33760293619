//! A worker: one thread, one runtime, its own sockets, pools and counts. Nothing on the request path is shared.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle as TaskHandle, spawn_local};

use crate::drain::{DrainGroup, Phase};
use crate::h1;
use crate::limits::Limits;
use crate::listener::{ListenerId, accept};
use crate::policy::jwt::TokenCache;
use crate::process::{Apply, Message, Process};
use crate::runtime_table::{RuntimeTable, WorkerCluster, WorkerTable};
use crate::tcp::Buffers;
use crate::telemetry::access_log::AccessLogger;
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::requests::RequestSeries;
use crate::telemetry::source::{BySource, Source};
use crate::tls::bonds::Bonds;
use crate::upstream::pool::Pool;

/// The state of one worker thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) process: Arc<Process>,
    pub(crate) pool: Pool,
    /// Connections with others of the mesh, either way.
    pub(crate) bonds: Bonds,
    pub(crate) metrics: WorkerMetrics,
    pub(crate) requests_to_unknown: RequestSeries,
    /// Requests to the workload beside this proxy that reach no cluster.
    unknown_by_source: BySource,
    /// `None` while nothing is logged.
    pub(crate) access_log: Option<AccessLogger>,
    http1_plain: h1::Options,
    http1_tls: h1::Options,
    pub(crate) http1_client: h1::ClientOptions,
    /// Copies of requests under way to mirrors.
    pub(crate) mirrors: Cell<usize>,
    /// Tokens that were verified before.
    pub(crate) tokens: RefCell<TokenCache>,
    /// Bounds the TLS handshakes under way.
    pub(crate) handshakes: Semaphore,
    pub(crate) tcp_buffers: Buffers,
    table: RefCell<Rc<WorkerTable>>,
    listeners: RefCell<HashMap<ListenerId, WorkerListener>>,
    /// The first id that no table brought to this worker yet.
    next_listener: Cell<ListenerId>,
    /// Connections that other workers accepted on listeners that have not come to this one yet.
    early: RefCell<Vec<(TcpStream, SocketAddr, ListenerId)>>,
}

/// A listener on this worker, from its first table until its last connection is gone.
#[derive(Debug)]
struct WorkerListener {
    group: Rc<DrainGroup>,
    /// Ends the accept loop.
    stop: Rc<Notify>,
    /// `None` once somebody waits for its end.
    accepting: Option<TaskHandle<()>>,
    /// For a removed listener, the last table that had it: what is still under way runs on it.
    last_table: Option<Rc<WorkerTable>>,
}

/// Starts a worker thread. Returns when its runtime runs.
pub(crate) fn spawn(
    index: usize,
    process: Arc<Process>,
    empty: Arc<RuntimeTable>,
    access_log: Option<AccessLogger>,
    inbox: mpsc::UnboundedReceiver<Message>,
) -> io::Result<JoinHandle<()>> {
    let (started, result) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        process.metrics.runs("worker", runtime.metrics());
        let _ = started.send(Ok(()));
        runtime.block_on(async move {
            let worker = Rc::new(Worker::new(index, process, empty, access_log));
            // Where the loop itself fails the sockets of this worker would be left unattended in their groups.
            if spawn_local(run(worker, inbox)).await.is_err() {
                tracing::error!(worker = index, "worker failed, ending the process");
                std::process::abort();
            }
        });
    })?;
    match result.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the thread ended before its runtime was up")),
    }
}

async fn run(worker: Rc<Worker>, mut inbox: mpsc::UnboundedReceiver<Message>) {
    let sweeper = spawn_local(sweep(Rc::clone(&worker)));
    let watchdog = spawn_local(worker.metrics.clone().watch_lag());
    while let Some(message) = inbox.recv().await {
        match message {
            Message::Apply(apply) => worker.apply(*apply),
            Message::Adopt { stream, peer, listener } => worker.adopt(stream, peer, listener),
            Message::Drain(done) => worker.drain(done),
            Message::Stop => break,
        }
    }
    sweeper.abort();
    watchdog.abort();
}

async fn sweep(worker: Rc<Worker>) {
    let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // Before the pool, which lets go of what is cut.
        worker.bonds.look(std::time::SystemTime::now());
        worker.pool.sweep();
        if worker.index == 0 {
            worker.process.refusals.sweep();
        }
    }
}

impl Worker {
    fn new(index: usize, process: Arc<Process>, empty: Arc<RuntimeTable>, access_log: Option<AccessLogger>) -> Self {
        let limits = &process.options.limits;
        let metrics = process.metrics.worker();
        Self {
            index,
            pool: Pool::new(limits),
            bonds: Bonds::new(process.options.mesh_identity.clone()),
            requests_to_unknown: metrics.requests_to_unknown(),
            unknown_by_source: BySource::default(),
            access_log,
            metrics,
            http1_plain: http1_options(limits, false),
            http1_tls: http1_options(limits, true),
            http1_client: h1::ClientOptions {
                max_head_bytes: limits.max_head_bytes,
                max_headers: limits.max_headers,
                ..h1::ClientOptions::default()
            },
            mirrors: Cell::new(0),
            tokens: RefCell::default(),
            handshakes: Semaphore::new(limits.max_handshakes),
            tcp_buffers: Buffers::default(),
            table: RefCell::new(Rc::new(WorkerTable::new(empty, process.graveyard.clone()))),
            listeners: RefCell::default(),
            next_listener: Cell::new(ListenerId(0)),
            early: RefCell::default(),
            process,
        }
    }

    /// Where requests to the workload beside this proxy are counted, by who sends them.
    pub(crate) fn requests_from(&self, source: &Source, cluster: Option<&WorkerCluster>) -> Rc<RequestSeries> {
        let known = cluster.map_or(&self.unknown_by_source, |cluster| &cluster.by_source);
        let cluster = cluster.map(|cluster| &*cluster.state.cluster);
        known.get(source, |source| self.metrics.requests_from(source, cluster))
    }

    /// The terms of HTTP/1 connections from clients.
    pub(crate) fn http1_options(&self, tls: bool) -> &h1::Options {
        if tls { &self.http1_tls } else { &self.http1_plain }
    }

    /// The table in force.
    pub(crate) fn table(&self) -> Rc<WorkerTable> {
        Rc::clone(&self.table.borrow())
    }

    /// The table that requests of a listener run on: the one in force, or for a removed listener its last.
    pub(crate) fn table_for(&self, id: ListenerId) -> Rc<WorkerTable> {
        let listeners = self.listeners.borrow();
        listeners.get(&id).and_then(|listener| listener.last_table.clone()).unwrap_or_else(|| self.table())
    }

    /// The connections of a listener; `None` when it is gone for good.
    pub(crate) fn group(&self, id: ListenerId) -> Option<Rc<DrainGroup>> {
        self.listeners.borrow().get(&id).map(|listener| Rc::clone(&listener.group))
    }

    fn apply(self: &Rc<Self>, apply: Apply) {
        let Apply { table, open, close, done } = apply;
        let before = self.table.replace(Rc::new(WorkerTable::new(table, self.process.graveyard.clone())));
        for (id, socket) in open {
            match TcpListener::from_std(socket) {
                Ok(socket) => self.open(id, socket),
                Err(error) => tracing::error!(%error, "cannot register a listening socket"),
            }
        }
        for id in close {
            if let Some(listener) = self.listeners.borrow_mut().get_mut(&id) {
                listener.last_table = Some(Rc::clone(&before));
            }
            spawn_local(self.drain_listener(id));
        }
        for (stream, peer, id) in self.early.take() {
            self.adopt(stream, peer, id);
        }
        let _ = done.send(());
    }

    fn open(self: &Rc<Self>, id: ListenerId, socket: TcpListener) {
        let stop = Rc::new(Notify::new());
        let accepting = Some(spawn_local(accept::accept_loop(Rc::clone(self), socket, id, Rc::clone(&stop))));
        let listener = WorkerListener { group: Rc::default(), stop, accepting, last_table: None };
        self.listeners.borrow_mut().insert(id, listener);
        self.next_listener.set(self.next_listener.get().max(ListenerId(id.0 + 1)));
    }

    /// Serves a connection that another worker accepted.
    fn adopt(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, id: ListenerId) {
        if id < self.next_listener.get() {
            accept::adopt(self, stream, peer, id);
        } else {
            self.early.borrow_mut().push((stream, peer, id));
        }
    }

    fn drain(self: &Rc<Self>, done: oneshot::Sender<()>) {
        let ids: Vec<ListenerId> = self.listeners.borrow().keys().copied().collect();
        let drains: Vec<_> = ids.into_iter().map(|id| spawn_local(self.drain_listener(id))).collect();
        spawn_local(async move {
            for drain in drains {
                let _ = drain.await;
            }
            let _ = done.send(());
        });
    }

    /// Stops accepting, lets connections finish, cuts those that do not in time.
    fn drain_listener(self: &Rc<Self>, id: ListenerId) -> impl Future<Output = ()> + 'static {
        let worker = Rc::clone(self);
        async move {
            let Some(group) = worker.group(id) else { return };
            let accepting = worker.listeners.borrow_mut().get_mut(&id).and_then(|listener| {
                // Also ends an accept loop that has not been polled yet.
                listener.stop.notify_one();
                listener.accepting.take()
            });
            if let Some(accepting) = accepting {
                let _ = accepting.await;
            }
            group.enter(Phase::Draining);
            let drain_time = worker.process.options.drain_time;
            if tokio::time::timeout(drain_time, group.empty()).await.is_err() {
                tracing::info!(connections = group.len(), "drain time is over, closing what is left");
                group.enter(Phase::Cut);
                group.empty().await;
            }
            worker.listeners.borrow_mut().remove(&id);
        }
    }
}

fn http1_options(limits: &Limits, tls: bool) -> h1::Options {
    h1::Options {
        tls,
        max_head_bytes: limits.max_head_bytes,
        max_headers: limits.max_headers,
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout,
        body_timeout: limits.stream_idle_timeout,
        ..h1::Options::default()
    }
}
