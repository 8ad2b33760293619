//! The public face: start a proxy, apply route tables, drain it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use route_model::meta::{ResourceKey, Revision};
use route_model::table::RouteTable;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::admin_port::{self, Port};
use crate::control::Control;
use crate::listener::retry;
use crate::listener::sockets::{SocketChanges, Sockets};
use crate::options::Options;
use crate::process::{Apply, Message, Process};
use crate::runtime_table::RuntimeTable;
use crate::table_builder::TableBuilder;
use crate::telemetry::access_log::AccessLog;
use crate::tls::TlsStore;
use crate::upstream::resolve::Resolver;
use crate::worker;

/// A running data plane. Dropping it ends its threads without a drain.
#[derive(Debug)]
pub struct Proxy {
    core: Arc<Core>,
    workers: Vec<JoinHandle<()>>,
    /// Ends its thread when dropped.
    _control: Control,
    /// Dropped last, so that it writes what the workers logged at their end. The lock makes it shareable.
    _access_log: Option<Mutex<AccessLog>>,
}

/// The proxy without its threads: what its own ports look at and may ask for.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) process: Arc<Process>,
    /// Held while a table is put in force, so that tables follow each other whole.
    applying: tokio::sync::Mutex<Applying>,
    bound: Mutex<BoundPorts>,
    in_force: Mutex<Arc<RuntimeTable>>,
    /// What became of the table in force, as of now.
    report: watch::Sender<ApplyReport>,
    draining: AtomicBool,
    started: Instant,
}

/// How far a proxy has come in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No table yet.
    Starting,
    Serving,
    Draining,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

#[derive(Debug)]
struct Applying {
    sockets: Sockets,
    builder: TableBuilder,
    draining: bool,
}

/// What became of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyReport {
    pub revision: Revision,
    /// What of the table is not in force, by resource. Everything else is.
    pub issues: Vec<Issue>,
    /// Where connections would come in that a sidecar's application opens, or others open to it, but that could not be
    /// bound: no traffic should be led to the sidecar.
    pub unbound: Vec<SocketAddr>,
}

/// Something in a table that this proxy cannot put in force, though the table as a whole is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Issue {
    /// `None`: it is about the proxy itself.
    pub resource: Option<ResourceKey>,
    /// CamelCase, fit for a condition's `reason`; one of [`reason`].
    pub reason: &'static str,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl Issue {
    /// Whether a listener could not be bound.
    pub(crate) fn is_unbound(&self) -> bool {
        [reason::PORT_IN_USE, reason::PORT_FORBIDDEN, reason::ADDRESS_UNAVAILABLE].contains(&self.reason)
    }
}

/// The values of [`Issue::reason`].
pub mod reason {
    /// Another program listens there.
    pub const PORT_IN_USE: &str = "PortInUse";
    /// The process lacks the privilege to bind the port.
    pub const PORT_FORBIDDEN: &str = "PortForbidden";
    /// The address is not one of this host's, or binding it failed otherwise.
    pub const ADDRESS_UNAVAILABLE: &str = "AddressUnavailable";
    /// Certificate and private key do not belong together.
    pub const CERTIFICATE_KEY_MISMATCH: &str = "CertificateKeyMismatch";
    /// A certificate or CA that is not there, mostly for want of its secret.
    pub const CERTIFICATE_MISSING: &str = "CertificateMissing";
    /// A certificate, key or CA that cannot be read or used.
    pub const CERTIFICATE_INVALID: &str = "CertificateInvalid";
}

/// Where a proxy listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoundPorts {
    /// Sorted by Gateway port.
    pub listeners: Vec<BoundListener>,
    pub metrics: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

/// One listener that accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundListener {
    /// As written in `servers[].port.number`.
    pub port: u16,
    /// `servers[].bind`.
    pub bind: Option<IpAddr>,
    /// What is really bound, after the port map.
    pub address: SocketAddr,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {addr} ({what}): {source}")]
    Listen { what: &'static str, addr: SocketAddr, source: std::io::Error },
    #[error("cannot start a {what} thread: {source}")]
    Thread { what: &'static str, source: std::io::Error },
}

impl Proxy {
    /// Starts the worker threads and the control thread. Nothing is served until a table is applied.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let options = Options { workers: options.workers.max(1), ..options };
        let mut bound = BoundPorts::default();
        let mut own_ports = Vec::new();
        for (port, address, shown) in [
            (Port::Metrics, options.metrics_addr, &mut bound.metrics),
            (Port::Admin, options.admin_addr, &mut bound.admin),
        ] {
            if let Some(address) = address {
                let listener = admin_port::bind(port, address)?;
                *shown = listener.local_addr().ok();
                own_ports.push((port, listener));
            }
        }
        let (graveyard, buried) = mpsc::unbounded_channel();
        let process = Arc::new(Process::new(options, graveyard));
        let access_log = AccessLog::start(process.options.access_log, Box::new(std::io::stdout()), &process.metrics)
            .map_err(|source| StartError::Thread { what: "access log", source })?;
        let control = Control::start(buried)?;
        process.metrics.runs("control", control.handle().metrics());
        let resolver = Resolver::system(control.handle().clone(), &process.options.name_servers);
        let tls = Arc::new(TlsStore::new(process.options.mesh_identity.clone()));
        let tls_news = Arc::new(Notify::new());
        control.handle().spawn(Arc::clone(&tls).watch_files(Arc::clone(&tls_news)));
        let empty = Arc::new(RuntimeTable::default());
        let mut workers = Vec::new();
        let mut inboxes = Vec::new();
        for index in 0..process.options.workers {
            let (inbox, receiver) = mpsc::unbounded_channel();
            let logger = access_log.as_ref().map(AccessLog::logger);
            let thread = worker::spawn(index, Arc::clone(&process), Arc::clone(&empty), logger, receiver)
                .map_err(|source| StartError::Thread { what: "worker", source })?;
            workers.push(thread);
            inboxes.push(inbox);
        }
        process.set_inboxes(inboxes);
        let core = Arc::new(Core {
            applying: tokio::sync::Mutex::new(Applying {
                sockets: Sockets::default(),
                builder: TableBuilder::new(tls, resolver, Arc::clone(&process.metrics)),
                draining: false,
            }),
            bound: Mutex::new(bound),
            in_force: Mutex::new(empty),
            report: watch::Sender::default(),
            draining: AtomicBool::new(false),
            started: Instant::now(),
            process,
        });
        control.handle().spawn(retry::keep_trying(Arc::downgrade(&core), core.report.subscribe()));
        control.handle().spawn(judge_anew(Arc::downgrade(&core), tls_news));
        for (port, listener) in own_ports {
            admin_port::serve(control.handle(), port, listener, Arc::downgrade(&core));
        }
        Ok(Self { core, workers, _control: control, _access_log: access_log.map(Mutex::new) })
    }

    /// Puts a table in force. Resolves when every worker runs it and every listener that can be bound accepts.
    /// Calls queue; the last table wins. Once the proxy drains, tables change nothing any more.
    pub async fn apply(&self, table: Arc<RouteTable>) -> ApplyReport {
        self.core.apply(table).await
    }

    /// What became of the table in force, as of now: after the answer of [`apply`](Self::apply), a listener that could
    /// not be bound then may have been bound since.
    pub fn report(&self) -> watch::Receiver<ApplyReport> {
        self.core.report.subscribe()
    }

    /// Connections of clients that are open.
    pub fn connections(&self) -> u64 {
        self.core.process.metrics.downstream_active()
    }

    /// Where this proxy listens now.
    pub fn bound(&self) -> BoundPorts {
        self.core.bound()
    }

    /// Fails readiness, stops accepting, lets requests under way finish for up to
    /// [`drain_time`](Options::drain_time), and returns when the last connection is closed.
    pub async fn drain(&self) {
        self.core.drain().await;
    }
}

impl Core {
    async fn apply(&self, table: Arc<RouteTable>) -> ApplyReport {
        let mut applying = self.applying.lock().await;
        if applying.draining {
            return ApplyReport { revision: table.revision, ..ApplyReport::default() };
        }
        let changes = applying.sockets.change(&table, &self.process.options);
        self.put(&mut applying, table, changes).await
    }

    /// Tries to bind what the table in force has and is not bound. What was bound serves before this returns.
    pub(crate) async fn try_unbound(&self) {
        self.again(|changes| !changes.open.is_empty()).await;
    }

    /// Puts the table in force once more, if there is a reason to, which may be in what changes about its sockets.
    async fn again(&self, is_worth_it: impl FnOnce(&SocketChanges) -> bool) {
        let mut applying = self.applying.lock().await;
        if applying.draining {
            return;
        }
        let table = Arc::clone(&self.in_force().table);
        let changes = applying.sockets.change(&table, &self.process.options);
        if is_worth_it(&changes) {
            self.put(&mut applying, table, changes).await;
        }
    }

    /// Puts a table in force whose sockets are bound.
    async fn put(&self, applying: &mut Applying, table: Arc<RouteTable>, changes: SocketChanges) -> ApplyReport {
        let (revision, listeners_asked) = (table.revision, table.listeners.len());
        let SocketChanges { mut open, close, serving, mut issues, unbound } = changes;
        let runtime = applying.builder.build(table, &serving, &mut issues);
        let mut running = Vec::new();
        for inbox in self.process.inboxes() {
            let (done, ran) = oneshot::channel();
            let sockets = open.iter_mut().filter_map(|(id, sockets)| Some((*id, sockets.pop()?))).collect();
            let apply = Apply { table: Arc::clone(&runtime), open: sockets, close: close.clone(), done };
            let _ = inbox.send(Message::Apply(Box::new(apply)));
            running.push(ran);
        }
        for ran in running {
            let _ = ran.await;
        }
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = runtime;
        let listeners = applying.sockets.listeners();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.port).collect();
        self.lock_bound().listeners = listeners;
        issues.sort_unstable();
        issues.dedup();
        self.process.metrics.applied(revision.0, &ports, listeners_asked.saturating_sub(ports.len()), issues.len());
        let report = ApplyReport { revision, issues, unbound };
        self.report.send_replace(report.clone());
        report
    }

    pub(crate) fn bound(&self) -> BoundPorts {
        self.lock_bound().clone()
    }

    /// As [`Proxy::drain`]; draining twice waits for the same end.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let mut applying = self.applying.lock().await;
        applying.draining = true;
        applying.sockets.close_all();
        self.lock_bound().listeners.clear();
        let mut ends = Vec::new();
        for inbox in self.process.inboxes() {
            let (done, drained) = oneshot::channel();
            let _ = inbox.send(Message::Drain(done));
            ends.push(drained);
        }
        for drained in ends {
            let _ = drained.await;
        }
    }

    /// The table in force; an empty one before the first.
    pub(crate) fn in_force(&self) -> Arc<RuntimeTable> {
        Arc::clone(&self.in_force.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn state(&self) -> State {
        if self.draining.load(Ordering::Relaxed) {
            State::Draining
        } else if self.in_force().sequence == 0 {
            State::Starting
        } else {
            State::Serving
        }
    }

    /// Why no traffic should be sent here; `None`: it should.
    pub(crate) fn not_ready(&self) -> Option<String> {
        match self.state() {
            State::Starting => Some("no configuration yet".to_owned()),
            State::Serving => {
                let report = self.report.borrow();
                let first = report.unbound.first();
                first.map(|address| format!("cannot listen on {address}"))
            }
            State::Draining => Some("draining".to_owned()),
        }
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock_bound(&self) -> std::sync::MutexGuard<'_, BoundPorts> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Judges the table in force anew whenever there is `news` of the files that it names.
async fn judge_anew(core: Weak<Core>, news: Arc<Notify>) {
    loop {
        news.notified().await;
        let Some(core) = core.upgrade() else { return };
        core.again(|_| true).await;
    }
}

/// Waits for the threads, so that every socket is closed afterwards.
impl Drop for Proxy {
    fn drop(&mut self) {
        for inbox in self.core.process.inboxes() {
            let _ = inbox.send(Message::Stop);
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
