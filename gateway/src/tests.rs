//! A gateway against a control plane in the same process.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use push::message::{Hello, Issue, Key};
use push::server::{ControlPlane, Entry, Event, Peer, PushServer, Refusal, Scope, SessionId};
use push::transport::{PipeTransport, pipe};
use route_model::meta::Revision;
use serde_json::{Map, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Error, Options, Transport, run};

/// How long anything in these tests may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Recorder {
    scope: Arc<Scope>,
    events: Mutex<Vec<Event>>,
}

impl ControlPlane for Recorder {
    async fn admit(&self, _: Peer, _: Option<&str>, _: &Hello) -> Result<Arc<Scope>, Refusal> {
        Ok(self.scope.clone())
    }

    fn observe(&self, _: SessionId, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

struct Plane {
    scope: Arc<Scope>,
    recorder: Arc<Recorder>,
    transport: PipeTransport,
}

impl Plane {
    fn start() -> Self {
        let scope = Arc::new(Scope::new("gateway/istio-system"));
        let recorder = Arc::new(Recorder { scope: scope.clone(), events: Mutex::default() });
        let server = PushServer::new(recorder.clone());
        let (transport, mut listener) = pipe();
        tokio::spawn(async move {
            while let Some(io) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve_connection(io, Peer::InProcess).await });
            }
        });
        Self { scope, recorder, transport }
    }

    async fn until<T>(&self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        let found = async || self.recorder.events.lock().unwrap().iter().find_map(&pick);
        until(what, found).await
    }

    async fn until_connected(&self) -> Arc<Hello> {
        self.until("a connection", |event| match event {
            Event::Connected { hello, .. } => Some(hello.clone()),
            _ => None,
        })
        .await
    }

    async fn until_acked(&self, revision: u64) -> Vec<Issue> {
        self.until("an acknowledgement", |event| match event {
            Event::Acked { revision: acked, issues } if *acked == Revision(revision) => Some(issues.clone()),
            _ => None,
        })
        .await
    }
}

async fn until<T>(what: &str, found: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Gateway {
    shutdown: oneshot::Sender<()>,
    running: JoinHandle<Result<(), Error>>,
}

impl Gateway {
    fn start(data_dir: &Path, transport: PipeTransport) -> Self {
        let (shutdown, ended) = oneshot::channel::<()>();
        let transport = Transport { connect: Arc::new(transport), token: None };
        let running = tokio::spawn(run(options(data_dir), transport, async move {
            let _ = ended.await;
        }));
        Self { shutdown, running }
    }

    async fn end(self) {
        self.shutdown.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap().unwrap();
    }
}

fn options(data_dir: &Path) -> Options {
    Options {
        node_id: None,
        namespace: "istio-system".into(),
        labels: BTreeMap::from([("istio".into(), "ingressgateway".into())]),
        proxy: proxy::Options {
            bind: "127.0.0.1".parse().unwrap(),
            port_map: BTreeMap::from([(80, 0)]),
            workers: 1,
            drain_time: Duration::from_secs(1),
            ..proxy::Options::default()
        },
        data_dir: data_dir.to_owned(),
        other_ports: Map::new(),
    }
}

fn object(kind: &str, name: &str, spec: serde_json::Value) -> (Key, Entry) {
    let body = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "istio-system"},
        "spec": spec,
    });
    let key = Key { kind: kind.into(), namespace: "istio-system".into(), name: name.into() };
    (key, Entry::new(body.to_string()).unwrap())
}

fn gateway() -> (Key, Entry) {
    let servers = json!([{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]);
    object("Gateway", "edge", json!({"selector": {"istio": "ingressgateway"}, "servers": servers}))
}

fn answer(body: &str) -> (Key, Entry) {
    let http = json!([{"directResponse": {"status": 200, "body": {"string": body}}}]);
    object("VirtualService", "site", json!({"hosts": ["*"], "gateways": ["edge"], "http": http}))
}

/// A control plane that is not there.
fn nobody() -> PipeTransport {
    pipe().0
}

#[tokio::test]
async fn a_gateway_says_who_it_is_and_acknowledges_what_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway(), answer("one")], []);
    let edge = Gateway::start(dir.path(), plane.transport.clone());
    let hello = plane.until_connected().await;
    assert_eq!((hello.role.as_str(), hello.namespace.as_str()), ("gateway", "istio-system"));
    assert_eq!(hello.labels["istio"], "ingressgateway");
    assert_eq!(plane.until_acked(1).await, []);
    edge.end().await;
    let left = |event: &Event| matches!(event, Event::Disconnected { .. }).then_some(());
    plane.until("the end", left).await;
}

#[tokio::test]
async fn a_restarted_gateway_resumes_from_what_it_kept() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start();
    plane.scope.publish(Revision(7), [gateway(), answer("one")], []);
    let edge = Gateway::start(dir.path(), plane.transport.clone());
    let first = plane.until_connected().await;
    plane.until_acked(7).await;
    edge.end().await;
    let sealed = fs::read(dir.path().join("last-good")).unwrap();
    assert!(!sealed.windows(4).any(|window| window == b"edge"), "the file is readable");

    let again = Plane::start();
    again.scope.publish(Revision(7), [gateway(), answer("one")], []);
    let edge = Gateway::start(dir.path(), again.transport.clone());
    let hello = again.until_connected().await;
    assert_eq!(hello.node, first.node);
    assert_eq!(hello.resume.as_ref().map(|resume| resume.revision), Some(7));
    again.until_acked(7).await;
    let sent = again.recorder.events.lock().unwrap().iter().any(|event| matches!(event, Event::Sent { .. }));
    assert!(!sent, "there was nothing to send");
    edge.end().await;
}

#[tokio::test]
async fn a_damaged_last_good_file_is_set_aside_and_not_fatal() {
    for damage in ["flipped", "cut", "empty", "foreign", "other key"] {
        let dir = tempfile::tempdir().unwrap();
        let plane = Plane::start();
        plane.scope.publish(Revision(7), [gateway(), answer("one")], []);
        let edge = Gateway::start(dir.path(), plane.transport.clone());
        plane.until_acked(7).await;
        edge.end().await;

        let path = dir.path().join("last-good");
        let mut file = fs::read(&path).unwrap();
        match damage {
            "flipped" => {
                let middle = file.len() / 2;
                file[middle] ^= 1;
            }
            "cut" => file.truncate(file.len() - 1),
            "empty" => file.clear(),
            "foreign" => file = b"{\"revision\": 7}".to_vec(),
            _ => fs::write(dir.path().join("last-good.key"), [7; 32]).unwrap(),
        }
        fs::write(&path, &file).unwrap();

        let again = Plane::start();
        again.scope.publish(Revision(7), [gateway(), answer("one")], []);
        let edge = Gateway::start(dir.path(), again.transport.clone());
        assert_eq!(again.until_connected().await.resume, None, "{damage}");
        again.until_acked(7).await;
        assert_eq!(fs::read(dir.path().join("last-good.corrupt")).unwrap(), file, "{damage}");
        edge.end().await;
    }
}

#[tokio::test]
async fn a_gateway_whose_data_folder_cannot_be_used_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let transport = Transport { connect: Arc::new(nobody()), token: None };
    let error = run(options(&file), transport, async {}).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot use the data folder {}", file.display())), "{error}");
}
