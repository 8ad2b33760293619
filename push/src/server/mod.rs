//! The control plane's end. It serves connections that somebody else accepted (and decrypted), and asks a
//! [`ControlPlane`] who may have what.

mod body;
mod caller;
mod layer;
mod scope;
mod session;
mod sign;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use route_model::meta::Revision;
use thiserror::Error;
use tokio::sync::{oneshot, watch};
use tonic::Status;

pub use self::caller::{Caller, ClientCertificate};
pub use self::layer::{Entry, Layer, TooLarge};
pub use self::scope::Scope;
use crate::message::{Hello, Issue, Report, Trust};
use crate::rpc::{SIGN_PATH, STREAM_PATH};
use crate::sign::{SignRequest, SignResponse};
use crate::transport::Io;
use crate::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};

/// Streams that one connection may have open: a proxy needs one, and room for the one that replaces it and for calls.
const MAX_STREAMS: u32 = 8;

/// Bytes that a proxy may send before they are taken: its largest message in a few turns.
const WINDOW: u32 = 64 * 1024;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A pipe inside this process: trusted as this process is.
    InProcess,
    Remote(SocketAddr),
}

/// Why a proxy is not taken in. The text reaches the proxy's log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No token, an unknown one, an expired one.
    #[error("{0}")]
    Unauthenticated(String),
    /// A valid token that does not cover what the proxy says it is.
    #[error("{0}")]
    PermissionDenied(String),
    /// A hello that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// More than the proxy's share.
    #[error("{0}")]
    TooMany(String),
    /// Not now; the proxy tries again.
    #[error("{0}")]
    Unavailable(String),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unauthenticated(message) => Self::unauthenticated(message),
            Refusal::PermissionDenied(message) => Self::permission_denied(message),
            Refusal::Invalid(message) => Self::invalid_argument(message),
            Refusal::TooMany(message) => Self::resource_exhausted(message),
            Refusal::Unavailable(message) => Self::unavailable(message),
        }
    }
}

/// One stream of one proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// The reason of [`Event::Disconnected`] when the proxy took its leave.
pub const LEFT: &str = "the proxy closed the connection";

/// What happens on a session, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// First. `hello.applied` may already say what the proxy runs.
    Connected { hello: Arc<Hello>, caller: Caller, scope: Arc<Scope> },
    /// The proxy was sent everything it needs for this revision.
    Sent { revision: Revision },
    /// The proxy runs this revision, apart from the issues.
    Acked { revision: Revision, issues: Vec<Issue> },
    /// The proxy runs nothing of this revision.
    Nacked { revision: Revision, issues: Vec<Issue> },
    /// Whether the workload that the proxy registered can serve now.
    Ready { ready: bool, reason: String },
    /// How the proxy is doing.
    Reported(Report),
    /// Last.
    Disconnected { reason: String },
}

/// What the server needs to know from the control plane, and tells it.
pub trait ControlPlane: Send + Sync + 'static {
    /// Decides whether a proxy is taken in and which scope it follows.
    fn admit(&self, caller: &Caller, hello: &Hello) -> impl Future<Output = Result<Arc<Scope>, Refusal>> + Send;

    /// Signs a proxy's certificate, if it may have it. The sizes in the request were checked.
    fn sign(&self, caller: &Caller, request: SignRequest)
    -> impl Future<Output = Result<SignResponse, Refusal>> + Send;

    /// Whose certificates proxies are to accept: theirs from the first message on.
    fn trust(&self) -> watch::Receiver<Arc<Trust>>;

    /// Must not block.
    fn observe(&self, session: SessionId, event: Event);
}

/// Serves proxies. Cheap to clone.
#[derive(Debug)]
pub struct PushServer<C> {
    shared: Arc<Shared<C>>,
}

impl<C> Clone for PushServer<C> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

#[derive(Debug)]
struct Shared<C> {
    control_plane: Arc<C>,
    next_session: AtomicU64,
    /// By node: ends the session that the node has, and tells it why.
    nodes: Mutex<HashMap<String, (SessionId, oneshot::Sender<Status>)>>,
    /// True once the server is to end.
    ending: watch::Sender<bool>,
}

impl<C: ControlPlane> PushServer<C> {
    pub fn new(control_plane: Arc<C>) -> Self {
        let shared = Shared {
            control_plane,
            next_session: AtomicU64::new(1),
            nodes: Mutex::default(),
            ending: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves one connection until either side ends it. It has no certificate that counts.
    pub async fn serve_connection(&self, io: impl Io, peer: Peer) -> Result<(), hyper::Error> {
        self.serve_identified(io, peer, ClientCertificate::Absent).await
    }

    /// Serves one connection that came with a certificate until either side ends it.
    pub async fn serve_identified(
        &self,
        io: impl Io,
        peer: Peer,
        certificate: ClientCertificate,
    ) -> Result<(), hyper::Error> {
        let certificate = Arc::new(certificate);
        let service = service_fn(|request: http::Request<Incoming>| {
            let (shared, certificate) = (self.shared.clone(), certificate.clone());
            async move {
                Ok::<_, Infallible>(match request.uri().path() {
                    STREAM_PATH => session::serve(shared, peer, certificate, request),
                    SIGN_PATH => sign::serve(shared.control_plane.clone(), peer, certificate, request).await,
                    _ => Status::unimplemented("this is a push service for Fairway's proxies").into_http(),
                })
            }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        let mut ending = self.shared.ending.subscribe();
        tokio::select! {
            ended = connection.as_mut() => return ended,
            _ = ending.wait_for(|ending| *ending) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }

    /// Ends a node's session, if it is still this one. The proxy is told why.
    pub fn end_session(&self, node: &str, session: SessionId, why: Refusal) {
        self.shared.end_session(node, session, why.into());
    }

    /// Ends all sessions, politely; connections come to their end after it.
    pub fn end(&self) {
        self.shared.ending.send_replace(true);
    }
}

impl<C> Shared<C> {
    fn session_id(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes `session` the one of its node; ends the one before it.
    fn claim(&self, node: &str, session: SessionId) -> oneshot::Receiver<Status> {
        let (sender, ended) = oneshot::channel();
        if let Some((_, earlier)) = self.nodes().insert(node.to_owned(), (session, sender)) {
            // Fails when that session is ending by itself.
            let _ = earlier.send(Status::aborted("another connection came with the same node id"));
        }
        ended
    }

    /// Forgets the session if it is still its node's; gives what ends it.
    fn release(&self, node: &str, session: SessionId) -> Option<oneshot::Sender<Status>> {
        let mut nodes = self.nodes();
        let (current, _) = nodes.get(node)?;
        if *current != session {
            return None;
        }
        nodes.remove(node).map(|(_, end)| end)
    }

    fn end_session(&self, node: &str, session: SessionId, why: Status) {
        if let Some(end) = self.release(node, session) {
            // Fails when the session is ending by itself.
            let _ = end.send(why);
        }
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<String, (SessionId, oneshot::Sender<Status>)>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
