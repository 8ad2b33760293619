//! A control plane without the REST API: store, snapshot and push service.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use push::client::{Backoff, Held, Node, Status, Subscriber, SubscriberOptions, Update};
use push::transport::{Connect, TlsTransport};
use route_model::compile::{ProxyRole, ProxyScope};
use route_model::kind::Kind;
use route_model::meta::{ResourceKey, Revision};
use serde_json::{Value, json};
use testkit::Postgres;
use testkit::wait::DEADLINE;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use super::super::PushService;
use super::super::registrar::Leases;
use crate::auth::Identity;
use crate::ca::{Ca, ServerKey, server_names};
use crate::store::seal::MasterKey;
use crate::store::{
    ChangeSet, Op, PostgresOptions, PostgresStore, Precondition, Snapshot, SqliteOptions, SqliteStore, Store, Write,
};

pub(super) struct Database {
    pub(super) store: Arc<dyn Store>,
    /// What the database goes with: its folder, or its server.
    _holder: Arc<dyn Any + Send + Sync>,
}

impl Database {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteOptions::new(dir.path().join("fairway.db")), MasterKey::random()).await;
        Self { store: Arc::new(store.unwrap()), _holder: Arc::new(dir) }
    }

    /// On a server that replicas can share, each with a picture of its own.
    pub(super) async fn shared() -> [Self; 2] {
        let server = Arc::new(Postgres::start());
        let master = MasterKey::random();
        let open = async || {
            let store = PostgresStore::open(PostgresOptions::new(server.url()), master.clone()).await;
            Self { store: Arc::new(store.unwrap()), _holder: server.clone() }
        };
        [open().await, open().await]
    }
}

/// How long the certificates of proxies are good here.
pub(super) const CERT_TTL: Duration = Duration::from_hours(2);

pub(super) struct Replica {
    pub(super) snapshot: Snapshot,
    pub(super) service: Arc<PushService>,
    /// What proxies trust, as PEM.
    pub(super) ca: String,
    address: String,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    following: Option<JoinHandle<()>>,
}

impl Replica {
    pub(super) async fn start(database: &Database) -> Self {
        Self::start_with(database, Leases::default()).await
    }

    pub(super) async fn start_with(database: &Database, leases: Leases) -> Self {
        let snapshot = Snapshot::load(database.store.clone()).await.unwrap();
        let following = tokio::spawn(snapshot.clone().run());
        Self::serve(snapshot, Some(following), leases).await
    }

    /// Another replica on the same picture. An embedded database has one follower, so they share the picture of it.
    pub(super) async fn beside(&self) -> Self {
        Self::serve(self.snapshot.clone(), None, Leases::default()).await
    }

    async fn serve(snapshot: Snapshot, following: Option<JoinHandle<()>>, leases: Leases) -> Self {
        let ca = Arc::new(Ca::open(snapshot.store().clone(), None).await.unwrap());
        let authority = ca.current();
        let issued = authority.issue_server(&server_names(&[], &[])).unwrap();
        let acceptor = super::super::tls(ServerKey::new(issued).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopping) = watch::channel(false);
        let service = PushService::with_leases(snapshot.clone(), ca, CERT_TTL, leases);
        let serving = tokio::spawn(service.clone().serve(listener, acceptor, stopping));
        Self { snapshot, service, ca: authority.root_pem().to_owned(), address, stop, serving, following }
    }

    pub(super) async fn end(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(DEADLINE, self.serving).await.unwrap().unwrap();
        if let Some(following) = self.following {
            following.abort();
        }
    }

    /// Ends it without anything being said or written any more.
    pub(super) async fn kill(self) {
        self.serving.abort();
        let _ = self.serving.await;
        self.snapshot.store().close().await;
        if let Some(following) = self.following {
            following.abort();
        }
    }

    pub(super) fn pipe(&self) -> Arc<dyn Connect> {
        Arc::new(self.service.local_transport())
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(super) fn tls(&self, ca: &str) -> Arc<dyn Connect> {
        Arc::new(TlsTransport::new(&self.url(), ca.as_bytes()).unwrap())
    }

    /// Writes an object that is in no namespace.
    pub(super) async fn put_cluster(&self, kind: Kind, name: &str, spec: Value) -> Revision {
        let object = json!({
            "apiVersion": kind.info().api_version(kind.info().preferred_version()),
            "kind": kind.name(),
            "metadata": {"name": name},
            "spec": spec,
        });
        self.write(ResourceKey::new(kind, "", name), Op::Put(object)).await
    }

    pub(super) async fn put(&self, kind: Kind, name: &str, spec: Value) -> Revision {
        let (namespace, name) = name.split_once('/').unwrap();
        let object = json!({
            "apiVersion": kind.info().api_version(kind.info().preferred_version()),
            "kind": kind.name(),
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        });
        self.write(ResourceKey::new(kind, namespace, name), Op::Put(object)).await
    }

    pub(super) async fn delete(&self, kind: Kind, name: &str) -> Revision {
        let (namespace, name) = name.split_once('/').unwrap();
        self.write(ResourceKey::new(kind, namespace, name), Op::Delete).await
    }

    async fn write(&self, key: ResourceKey, op: Op) -> Revision {
        let write = Write { key, precondition: Precondition::None, op };
        let changes = ChangeSet {
            author: "test".into(),
            via: "test".into(),
            message: String::new(),
            writes: vec![write],
            require: Vec::new(),
        };
        self.snapshot.commit(changes).await.unwrap().revision
    }

    pub(super) async fn gateway(&self, name: &str) -> Revision {
        let servers = json!([{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]);
        self.put(Kind::Gateway, name, json!({"selector": {"istio": "ingressgateway"}, "servers": servers})).await
    }

    pub(super) async fn route(&self, name: &str, body: &str) -> Revision {
        let http = json!([{"directResponse": {"status": 200, "body": {"string": body}}}]);
        self.put(Kind::VirtualService, name, json!({"hosts": ["*"], "gateways": ["edge"], "http": http})).await
    }

    pub(super) async fn until_acked(&self, node: &str, revision: Revision) {
        let mut acks = self.service.acks();
        let acked = acks.wait_for(|acks| acks.iter().any(|ack| *ack.node == *node && ack.acked >= revision));
        let reached = tokio::time::timeout(DEADLINE, acked).await.map(|found| found.is_ok());
        assert_eq!(reached, Ok(true), "{node} did not acknowledge revision {revision}");
    }

    pub(super) async fn call(&self, method: &str, path: &str, body: Option<&str>) -> (StatusCode, Value) {
        let body = Body::from(body.unwrap_or_default().to_owned());
        let mut request = Request::builder().method(method).uri(path).body(body).unwrap();
        request.extensions_mut().insert(Identity::admin());
        let response = self.service.router().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Makes a token and waits until proxies can use it.
    pub(super) async fn join_token(&self, body: &Value) -> String {
        let (status, created) = self.call("POST", "/api/fairway/v1/join-tokens", Some(&body.to_string())).await;
        assert_eq!(status, StatusCode::CREATED, "{created}");
        created["token"].as_str().unwrap().to_owned()
    }
}

pub(super) async fn next(subscriber: &mut Subscriber) -> Update {
    tokio::time::timeout(DEADLINE, subscriber.next_update()).await.unwrap()
}

/// Acknowledges everything up to this revision.
pub(super) async fn follow_to(subscriber: &mut Subscriber, revision: Revision) -> Update {
    loop {
        let update = next(subscriber).await;
        subscriber.ack(update.revision(), vec![]);
        if update.revision() >= revision {
            return update;
        }
    }
}

/// The reason for which a subscriber waits.
pub(super) async fn until_waiting(subscriber: &Subscriber) -> String {
    let mut status = subscriber.status();
    let waiting = status.wait_for(|status| matches!(status, Status::Waiting { .. }));
    match tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap().clone() {
        Status::Waiting { reason, .. } => reason,
        other => unreachable!("{other:?}"),
    }
}

pub(super) fn options(node: &str, namespace: &str) -> SubscriberOptions {
    let labels = BTreeMap::from([("istio".to_owned(), "ingressgateway".to_owned())]);
    let scope = ProxyScope { role: ProxyRole::Gateway, namespace: namespace.into(), labels };
    SubscriberOptions {
        backoff: Backoff { first: Duration::from_millis(10), max: Duration::from_millis(200) },
        ..SubscriberOptions::new(Node { id: node.into(), scope, build: "test".into() })
    }
}

pub(super) fn names(held: &Held) -> Vec<String> {
    held.set().iter().map(|resource| resource.key.to_string()).collect()
}
