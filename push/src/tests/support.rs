//! A control plane that keeps what it observes, and transports that fail on demand.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use route_model::compile::{ProxyRole, ProxyScope};
use route_model::kind::Kind;
use route_model::meta::Revision;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::client::{Backoff, Node, Status, Subscriber, SubscriberOptions, Token, Update};
use crate::message::{Hello, Issue, Key, Trust};
use crate::server::{Caller, ControlPlane, Entry, Event, Peer, PushServer, Refusal, Scope, SessionId};
use crate::sign::{SignRequest, SignResponse};
use crate::transport::{Connect, Io, PipeTransport, pipe};

/// How long anything in these tests may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Recorder {
    scope: Arc<Scope>,
    token: Option<String>,
    trust: watch::Sender<Arc<Trust>>,
    events: Mutex<Vec<(SessionId, Event)>>,
}

impl Recorder {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        if self.token.is_some() && self.token.as_deref() != caller.token.as_ref().map(Token::as_str) {
            return Err(Refusal::Unauthenticated("the join token is not known".into()));
        }
        Ok(())
    }
}

impl ControlPlane for Recorder {
    async fn admit(&self, caller: &Caller, _: &Hello) -> Result<Arc<Scope>, Refusal> {
        self.check(caller)?;
        Ok(self.scope.clone())
    }

    async fn sign(&self, caller: &Caller, request: SignRequest) -> Result<SignResponse, Refusal> {
        self.check(caller)?;
        Ok(SignResponse { chain: vec![request.csr], roots: vec!["root".into()], not_after: 1 })
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    fn observe(&self, session: SessionId, event: Event) {
        self.events.lock().unwrap().push((session, event));
    }
}

/// A push server over a pipe.
pub(super) struct Plane {
    pub(super) scope: Arc<Scope>,
    pub(super) server: PushServer<Recorder>,
    recorder: Arc<Recorder>,
    transport: PipeTransport,
}

impl Plane {
    pub(super) fn start() -> Self {
        Self::with(Scope::new("gateway/edge"), None)
    }

    pub(super) fn with(scope: Scope, token: Option<&str>) -> Self {
        let scope = Arc::new(scope);
        let token = token.map(str::to_owned);
        let recorder = Arc::new(Recorder {
            scope: scope.clone(),
            token,
            trust: watch::Sender::default(),
            events: Mutex::default(),
        });
        let server = PushServer::new(recorder.clone());
        let (transport, mut listener) = pipe();
        let serving = server.clone();
        tokio::spawn(async move {
            while let Some(io) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve_connection(io, Peer::InProcess).await });
            }
        });
        Self { scope, server, recorder, transport }
    }

    pub(super) fn transport(&self) -> Arc<PipeTransport> {
        Arc::new(self.transport.clone())
    }

    pub(super) fn trusts(&self, trust: Trust) {
        self.recorder.trust.send_replace(Arc::new(trust));
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.recorder.events.lock().unwrap().iter().map(|(_, event)| event.clone()).collect()
    }

    pub(super) fn sent(&self) -> Vec<u64> {
        let sent = |event: &Event| if let Event::Sent { revision } = event { Some(revision.0) } else { None };
        self.events().iter().filter_map(sent).collect()
    }

    /// Waits for an event that `pick` takes something out of.
    pub(super) async fn until<T>(&self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.events().iter().find_map(&pick) {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) async fn until_acked(&self, revision: u64) -> Vec<Issue> {
        self.until("an ack", |event| match event {
            Event::Acked { revision: acked, issues } if *acked == Revision(revision) => Some(issues.clone()),
            _ => None,
        })
        .await
    }

    pub(super) async fn until_nacked(&self, revision: u64) -> Vec<Issue> {
        self.until("a nack", |event| match event {
            Event::Nacked { revision: nacked, issues } if *nacked == Revision(revision) => Some(issues.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until so many sessions began, and answers the hello of the last.
    pub(super) async fn until_connected(&self, times: usize) -> Arc<Hello> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let hello = |event: Event| if let Event::Connected { hello, .. } = event { Some(hello) } else { None };
            let hellos: Vec<_> = self.events().into_iter().filter_map(hello).collect();
            if hellos.len() >= times {
                return hellos[times - 1].clone();
            }
            assert!(tokio::time::Instant::now() < deadline, "{} of {times} sessions began", hellos.len());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The reason for which a subscriber waits.
pub(super) async fn until_waiting(subscriber: &Subscriber) -> String {
    let mut status = subscriber.status();
    let waiting = status.wait_for(|status| matches!(status, Status::Waiting { .. }));
    match tokio::time::timeout(PATIENCE * 10, waiting).await.unwrap().unwrap().clone() {
        Status::Waiting { reason, .. } => reason,
        other => unreachable!("{other:?}"),
    }
}

type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

/// Leads to one control plane first and to another later.
#[derive(Debug)]
pub(super) struct Switch(pub(super) Mutex<PipeTransport>);

impl Connect for Switch {
    fn connect(&self) -> Connecting<'_> {
        let transport = self.0.lock().unwrap().clone();
        Box::pin(async move { transport.connect().await })
    }

    fn origin(&self) -> &'static str {
        "https://switch"
    }
}

/// What happens when a [`Faulty`] connection has used up its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Break,
    /// Neither side hears anything more.
    Stall,
}

/// The first connection fails after so many received bytes; later ones do not.
#[derive(Debug)]
pub(super) struct FaultyTransport {
    pub(super) inner: PipeTransport,
    pub(super) fault: Fault,
    pub(super) bytes: AtomicUsize,
}

impl Connect for FaultyTransport {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move {
            let io = self.inner.connect().await?;
            let left = self.bytes.swap(usize::MAX, Ordering::Relaxed);
            Ok(Box::new(Faulty { io, fault: self.fault, left }) as Box<dyn Io>)
        })
    }

    fn origin(&self) -> &'static str {
        "https://faulty"
    }
}

struct Faulty {
    io: Box<dyn Io>,
    fault: Fault,
    left: usize,
}

impl AsyncRead for Faulty {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return match self.fault {
                Fault::Break => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Fault::Stall => Poll::Pending,
            };
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        self.left = self.left.saturating_sub(read);
        result
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

pub(super) fn options(node: &str) -> SubscriberOptions {
    let scope = ProxyScope { role: ProxyRole::Gateway, namespace: "edge".into(), labels: BTreeMap::new() };
    SubscriberOptions {
        backoff: Backoff { first: Duration::from_millis(5), max: Duration::from_millis(50) },
        ..SubscriberOptions::new(Node { id: node.into(), scope, build: "test".into() })
    }
}

pub(super) fn key(kind: Kind, name: &str) -> Key {
    Key { kind: kind.name().into(), namespace: "edge".into(), name: name.into() }
}

pub(super) fn entry(kind: Kind, name: &str, spec: Value) -> (Arc<Key>, Entry) {
    let info = kind.info();
    let body = json!({
        "apiVersion": info.api_version(info.preferred_version()),
        "kind": kind.name(),
        "metadata": {"name": name, "namespace": "edge"},
        "spec": spec,
    });
    (key(kind, name).into(), Entry::new(body.to_string()).unwrap())
}

pub(super) fn gateway(name: &str) -> (Arc<Key>, Entry) {
    let servers = json!([{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]);
    entry(Kind::Gateway, name, json!({"selector": {"istio": "ingressgateway"}, "servers": servers}))
}

/// A resource of about this many bytes.
pub(super) fn service_entry(name: &str, bytes: usize) -> (Arc<Key>, Entry) {
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
    let sans = ["x".repeat(bytes)];
    let hosts = [format!("{name}.example")];
    entry(Kind::ServiceEntry, name, json!({"hosts": hosts, "ports": ports, "subjectAltNames": sans}))
}

pub(super) fn names(update: &Update) -> Vec<String> {
    update.held.set().iter().map(|resource| resource.key.name.to_string()).collect()
}
