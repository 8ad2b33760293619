//! Keeps one connection up, one after another, and runs the protocol over it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Uri;
use http::uri::PathAndQuery;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use route_model::compile::Changed;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::MetadataValue;
use tonic::{Code, Streaming};
use tonic_prost::ProstCodec;
use tracing::{debug, info, warn};

use super::assembly::{Assembled, Assembly, ProtocolError};
use super::{Held, Status, SubscriberOptions, Token, Update};
use crate::message::{Ack, Delta, FromProxy, Hello, Nack, ProxyMessage, Report, Trust, at_most_max};
use crate::rpc::{AUTHORIZATION, STREAM_PATH};
use crate::transport::{Connect, Io};
use crate::workload::Ready;
use crate::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, MAX_MESSAGE_BYTES, broken};

/// How long the control plane may take from the open connection to its first answer.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// Room for a large set to be in flight instead of waiting for window updates.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// Who is at the other end, in words.
const SERVER: &str = "the control plane";

/// The newest update that nobody took yet.
#[derive(Debug, Default)]
pub(super) struct Slot {
    update: Mutex<Option<Update>>,
    filled: Notify,
}

impl Slot {
    pub(super) async fn take(&self) -> Update {
        loop {
            let filled = self.filled.notified();
            if let Some(update) = self.lock().take() {
                return update;
            }
            filled.await;
        }
    }

    /// Merges with what was not taken yet.
    fn put(&self, mut update: Update) {
        let mut slot = self.lock();
        if let Some(earlier) = slot.take() {
            update.changed = merge(earlier.changed, update.changed);
        }
        *slot = Some(update);
        self.filled.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Update>> {
        self.update.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn merge(earlier: Changed, later: Changed) -> Changed {
    match (earlier, later) {
        (Changed::Keys(earlier), Changed::Keys(later)) => {
            let keys: BTreeSet<_> = earlier.into_iter().chain(later).collect();
            Changed::Keys(keys.into_iter().collect())
        }
        _ => Changed::Everything,
    }
}

/// What the owner of a subscriber wants said or done.
#[derive(Debug)]
pub(super) enum Command {
    Ack(Ack),
    Nack(Nack),
    Ready(Ready),
    Report(Report),
    /// To end; dropped when that is done.
    Leave(oneshot::Sender<Infallible>),
    /// Go on over another connection.
    Reconnect,
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("{}", broken::describe(.0, SERVER).unwrap_or_else(|| format!("the connection broke: {}", .0)))]
    Http(#[from] hyper::Error),
    #[error("{}", explain(.0))]
    Status(#[from] tonic::Status),
    #[error("the control plane did not answer within {} s", OPEN_TIMEOUT.as_secs())]
    Silent,
    #[error("the control plane ended the stream")]
    Ended,
    #[error("the control plane broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    #[error("this proxy is leaving")]
    Leaving,
}

fn explain(status: &tonic::Status) -> String {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => format!("the control plane refused: {}", status.message()),
        Code::Unavailable | Code::Aborted | Code::ResourceExhausted => status.message().to_owned(),
        _ if let Some(text) = broken::describe(status, SERVER) => text,
        code => format!("the stream failed: {} ({code:?})", status.message()),
    }
}

impl SessionError {
    /// Trying again soon will not help; a person has to do something.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Status(status) if matches!(
            status.code(),
            Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Aborted | Code::Unimplemented
        ))
    }
}

pub(super) struct Driver {
    options: SubscriberOptions,
    transport: Arc<dyn Connect>,
    slot: Arc<Slot>,
    commands: mpsc::UnboundedReceiver<Command>,
    status: watch::Sender<Status>,
    trust: watch::Sender<Option<Arc<Trust>>>,
    held: Arc<Held>,
    /// The last acknowledgement; quoted in every hello.
    applied: Option<Ack>,
    /// What the workload's owner said last of its readiness. The hello says whether, and not why not.
    readiness: Ready,
    /// How the proxy is doing, as its owner said last.
    report: Report,
    /// The control plane takes reports, and has this one.
    reported: Option<Report>,
    started: Instant,
}

impl Driver {
    pub(super) fn new(
        mut options: SubscriberOptions,
        transport: Arc<dyn Connect>,
        slot: Arc<Slot>,
        commands: mpsc::UnboundedReceiver<Command>,
        status: watch::Sender<Status>,
        trust: watch::Sender<Option<Arc<Trust>>>,
    ) -> Self {
        let held = Arc::new(options.held.take().unwrap_or_default());
        let applied = options.applied.take();
        let readiness = Ready::new(options.workload.as_ref().is_some_and(|workload| workload.ready), "");
        Self {
            options,
            transport,
            slot,
            commands,
            status,
            trust,
            held,
            applied,
            readiness,
            report: Report::default(),
            reported: None,
            started: Instant::now(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut failures = 0;
        loop {
            self.status.send_replace(Status::Connecting);
            let error = self.connect_and_follow().await;
            if matches!(error, SessionError::Leaving) {
                return;
            }
            // A connection that worked starts the count anew.
            failures = if *self.status.borrow() == Status::Connected { 1 } else { failures + 1 };
            let wait = if error.is_refusal() {
                self.options.backoff.wait(u32::MAX)
            } else {
                self.options.backoff.wait(failures)
            };
            if let SessionError::Protocol(_) = error {
                Arc::make_mut(&mut self.held).forget_origin();
            }
            // The first failure is worth a line, the next ones at growing distance only.
            if failures.is_power_of_two() || error.is_refusal() {
                self.report(&error, failures, wait);
            }
            self.status.send_replace(Status::Waiting { reason: error.to_string(), wait });
            self.pause(wait).await;
        }
    }

    /// Says what happened, what it means for traffic, and when it is tried again.
    fn report(&self, error: &SessionError, failures: u32, wait: Duration) {
        let what = if *self.status.borrow() == Status::Connected {
            "lost the control plane"
        } else if error.is_refusal() {
            "the control plane does not take this proxy in"
        } else {
            "cannot reach the control plane"
        };
        let origin = self.transport.origin();
        let retry_in = format!("{:.1} s", wait.as_secs_f64());
        if let Some(Ack { revision, .. }) = &self.applied {
            let meanwhile = "the configuration it sent last goes on serving";
            warn!(%error, origin, revision, failures, retry_in, "{what}; {meanwhile}");
        } else {
            warn!(%error, origin, failures, retry_in, "{what}, and there is no configuration to serve yet");
        }
    }

    /// Waits, but goes on noting what the owner acknowledges.
    async fn pause(&mut self, wait: Duration) {
        let deadline = tokio::time::sleep(wait);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = &mut deadline => return,
                Some(command) = self.commands.recv() => { self.note(command); }
            }
        }
    }

    async fn connect_and_follow(&mut self) -> SessionError {
        let mut earlier = None;
        let mut connection = connect(self.transport.clone()).await;
        loop {
            let stream = match connection {
                Ok(connection) => self.open(connection).await,
                Err(error) => Err(error),
            };
            let followed = match stream {
                Ok(stream) => self.follow(stream, earlier.take()).await,
                Err(error) => Err(error),
            };
            match followed {
                Ok((stream, another)) => (earlier, connection) = (Some(stream), Ok(another)),
                Err(error) => return error,
            }
        }
    }

    async fn open(&self, Connection { requests, tasks }: Connection) -> Result<Stream, SessionError> {
        let (sender, receiver) = mpsc::channel(8);
        let mut hello = Hello {
            resume: self.held.resume(),
            applied: self.applied.clone(),
            // Never 0, which says nothing.
            uptime: self.started.elapsed().as_millis().max(1) as u64,
            ..Hello::of(&self.options)
        };
        if let Some(workload) = hello.workload.as_mut().filter(|workload| workload.address.is_empty()) {
            workload.address = self.transport.own_address().map(|address| address.to_string()).unwrap_or_default();
        }
        // The channel is new and has room.
        let _ = sender.try_send(FromProxy { message: Some(ProxyMessage::Hello(Box::new(hello))) });
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        authorize(&mut request, self.options.token.as_ref());
        let origin: Uri = self.transport.origin().parse().unwrap_or_default();
        let mut grpc = Grpc::with_origin(requests, origin).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let opening = grpc.streaming(request, PathAndQuery::from_static(STREAM_PATH), ProstCodec::default());
        let response = tokio::time::timeout(OPEN_TIMEOUT, opening).await.map_err(|_| SessionError::Silent)??;
        Ok(Stream { sender, deltas: response.into_inner(), _tasks: tasks })
    }

    /// Follows a stream to its end, or until another connection is open that is to take its place. `earlier` is the
    /// stream before: it stays open until this one is taken in, so that the control plane sees one replace the other and
    /// nobody leave.
    async fn follow(
        &mut self,
        mut stream: Stream,
        mut earlier: Option<Stream>,
    ) -> Result<(Stream, Connection), SessionError> {
        let mut assembly = Assembly::default();
        // The last complete delta of this connection: what an acknowledgement refers to.
        let mut delivered = (0, 0);
        self.reported = None;
        let mut another: Option<Connecting> = None;
        if !self.readiness.reason.is_empty() {
            self.say(&stream.sender, ProxyMessage::Ready(self.readiness.clone())).await?;
        }
        loop {
            tokio::select! {
                connected = opened(&mut another) => match connected {
                    Ok(connection) => return Ok((stream, connection)),
                    Err(error) => {
                        another = None;
                        warn!(%error, "no other connection to the control plane can be opened, staying on this one");
                    }
                },
                part = stream.deltas.message() => {
                    let part = part?.ok_or(SessionError::Ended)?;
                    if part.nonce == 0 {
                        // The control plane's greeting: it took the proxy in.
                        drop(earlier.take());
                        if *self.status.borrow() != Status::Connected {
                            let origin = self.transport.origin();
                            info!(origin, scope = part.scope, "connected to the control plane");
                            self.status.send_replace(Status::Connected);
                        }
                        self.note_trust(part.trust);
                        if part.takes_reports && self.reported.is_none() {
                            self.reported = Some(self.report);
                            self.say(&stream.sender, ProxyMessage::Report(self.report)).await?;
                        }
                        continue;
                    }
                    let (revision, nonce) = (part.revision, part.nonce);
                    match assembly.take(part, &mut self.held, self.options.limits)? {
                        None => {}
                        Some(Assembled::Next { changed }) => {
                            delivered = (revision, nonce);
                            self.slot.put(Update { held: self.held.clone(), changed });
                        }
                        Some(Assembled::Refused(nack)) => {
                            for issue in &nack.issues {
                                warn!(revision, %issue, "revision refused");
                            }
                            self.say(&stream.sender, ProxyMessage::Nack(nack)).await?;
                        }
                    }
                }
                Some(command) = self.commands.recv() => {
                    if let Command::Leave(left) = command {
                        self.leave(stream).await;
                        drop(left);
                        return Err(SessionError::Leaving);
                    }
                    if matches!(command, Command::Reconnect) {
                        another = Some(Box::pin(connect(self.transport.clone())));
                    }
                    let Some(mut message) = self.note(command) else { continue };
                    if let ProxyMessage::Ack(Ack { revision, nonce, .. })
                        | ProxyMessage::Nack(Nack { revision, nonce, .. }) = &mut message
                        && *revision == delivered.0
                    {
                        *nonce = delivered.1;
                    }
                    self.say(&stream.sender, message).await?;
                }
            }
        }
    }

    /// Says what there is left to say and waits until the control plane has heard it: it then ends its own side.
    async fn leave(&mut self, Stream { sender, mut deltas, _tasks }: Stream) {
        let last = self.note(Command::Ready(Ready::new(false, "its sidecar is ending")));
        if let Some(last) = last {
            // Fails when the connection is gone already.
            let _ = self.say(&sender, last).await;
        }
        drop(sender);
        while let Ok(Some(_)) = deltas.message().await {}
    }

    fn note_trust(&self, trust: Option<Trust>) {
        let Some(trust) = trust else { return };
        self.trust.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&trust);
            if changed {
                debug!(roots = trust.roots.len(), denied = trust.denied.len(), "what is trusted changed");
                *current = Some(Arc::new(trust));
            }
            changed
        });
    }

    async fn say(&self, sender: &mpsc::Sender<FromProxy>, message: ProxyMessage) -> Result<(), SessionError> {
        sender.send(FromProxy { message: Some(message) }).await.map_err(|_| SessionError::Ended)
    }

    /// Remembers what the next hello has to say, and makes it a message if it is news.
    fn note(&mut self, command: Command) -> Option<ProxyMessage> {
        Some(match command {
            Command::Ack(mut ack) => {
                if ack.revision == self.held.revision().0 {
                    ack.issues.extend(self.held.skipped().cloned());
                    ack.issues = at_most_max(std::mem::take(&mut ack.issues));
                }
                self.applied = Some(ack.clone());
                ProxyMessage::Ack(ack)
            }
            Command::Nack(nack) => ProxyMessage::Nack(nack),
            Command::Ready(ready) => {
                let workload = self.options.workload.as_mut()?;
                workload.ready = ready.ready;
                if self.readiness == ready {
                    return None;
                }
                self.readiness = ready.clone();
                ProxyMessage::Ready(ready)
            }
            Command::Report(report) => {
                self.report = report;
                let reported = self.reported.as_mut().filter(|reported| **reported != report)?;
                *reported = report;
                ProxyMessage::Report(report)
            }
            // Where there is no connection, there is nothing to end, and the next one is another anyway.
            Command::Leave(_) | Command::Reconnect => return None,
        })
    }
}

/// An open connection. Its tasks end when it is dropped.
struct Connection {
    requests: Requests,
    tasks: JoinSet<()>,
}

/// The proxy's stream, on a connection of its own.
struct Stream {
    sender: mpsc::Sender<FromProxy>,
    deltas: Streaming<Delta>,
    _tasks: JoinSet<()>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Connection, SessionError>> + Send>>;

async fn connect(transport: Arc<dyn Connect>) -> Result<Connection, SessionError> {
    let connecting = async {
        let mut tasks = JoinSet::new();
        let requests = handshake(transport.connect().await?, &mut tasks).await?;
        Ok(Connection { requests, tasks })
    };
    tokio::time::timeout(OPEN_TIMEOUT, connecting).await.map_err(|_| SessionError::Silent)?
}

/// What becomes of a connection that is being opened; nothing while there is none.
async fn opened(connecting: &mut Option<Connecting>) -> Result<Connection, SessionError> {
    match connecting {
        Some(connecting) => connecting.await,
        None => std::future::pending().await,
    }
}

/// Begins HTTP/2 on an open connection, which a task among `tasks` drives.
pub(super) async fn handshake(io: Box<dyn Io>, tasks: &mut JoinSet<()>) -> Result<Requests, hyper::Error> {
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 2)
        .handshake(TokioIo::new(io))
        .await?;
    tasks.spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "the connection to the control plane ended");
        }
    });
    Ok(Requests(requests))
}

/// Shows the join token with a request.
pub(super) fn authorize<T>(request: &mut tonic::Request<T>, token: Option<&Token>) {
    if let Some(token) = token
        && let Ok(mut value) = MetadataValue::try_from(token.bearer())
    {
        value.set_sensitive(true);
        request.metadata_mut().insert(AUTHORIZATION, value);
    }
}

/// An open connection as tonic wants it.
pub(super) struct Requests(http2::SendRequest<tonic::body::Body>);

impl GrpcService<tonic::body::Body> for Requests {
    type ResponseBody = hyper::body::Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Self::ResponseBody>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
