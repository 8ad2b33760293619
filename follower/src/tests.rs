//! A proxy, here a gateway, against a control plane in the same process.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use push::message::{Hello, Issue, Key};
use push::server::{Caller, ControlPlane, Entry, Event, Peer, PushServer, Refusal, Scope, SessionId};
use push::sign::{SignRequest, SignResponse};
use push::transport::{Connect, Io, PipeTransport, pipe};
use route_model::compile::{ProxyRole, ProxyScope};
use route_model::meta::Revision;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Follower, Options, Transport};

/// How long anything in these tests may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Recorder {
    scope: Arc<Scope>,
    events: Mutex<Vec<Event>>,
}

impl ControlPlane for Recorder {
    async fn admit(&self, _: &Caller, _: &Hello) -> Result<Arc<Scope>, Refusal> {
        Ok(self.scope.clone())
    }

    async fn sign(&self, _: &Caller, _: SignRequest) -> Result<SignResponse, Refusal> {
        Err(Refusal::Invalid("no certificates here".into()))
    }

    fn trust(&self) -> tokio::sync::watch::Receiver<Arc<push::message::Trust>> {
        tokio::sync::watch::Sender::default().subscribe()
    }

    fn observe(&self, _: SessionId, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

struct Plane {
    scope: Arc<Scope>,
    recorder: Arc<Recorder>,
    server: PushServer<Recorder>,
    transport: PipeTransport,
}

impl Plane {
    fn start() -> Self {
        let (transport, mut listener) = pipe();
        let scope = Arc::new(Scope::new("gateway/istio-system"));
        let recorder = Arc::new(Recorder { scope: scope.clone(), events: Mutex::default() });
        let server = PushServer::new(recorder.clone());
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Some(io) = listener.accept().await {
                let server = accepting.clone();
                tokio::spawn(async move { server.serve_connection(io, Peer::InProcess).await });
            }
        });
        Self { scope, recorder, server, transport }
    }

    async fn until<T>(&self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        let found = async || self.recorder.events.lock().unwrap().iter().find_map(&pick);
        until(what, found).await
    }

    fn has_sent(&self) -> bool {
        self.recorder.events.lock().unwrap().iter().any(|event| matches!(event, Event::Sent { .. }))
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

/// Leads to one control plane after another.
#[derive(Debug)]
struct Switch(Mutex<PipeTransport>);

impl Switch {
    fn to(plane: &Plane) -> Arc<Self> {
        Arc::new(Self(Mutex::new(plane.transport.clone())))
    }

    fn turn(&self, transport: PipeTransport) {
        *self.0.lock().unwrap() = transport;
    }
}

impl Connect for Switch {
    fn connect(&self) -> Pin<Box<dyn Future<Output = std::io::Result<Box<dyn Io>>> + Send + '_>> {
        let transport = self.0.lock().unwrap().clone();
        Box::pin(async move { transport.connect().await })
    }

    fn origin(&self) -> &'static str {
        "https://switch"
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
    running: JoinHandle<()>,
}

impl Gateway {
    fn start(data_dir: &Path, transport: PipeTransport) -> Self {
        Self::over(data_dir, Arc::new(transport))
    }

    fn over(data_dir: &Path, connect: Arc<dyn Connect>) -> Self {
        let (shutdown, ended) = oneshot::channel::<()>();
        let transport = Transport { connect, token: None, credential: None };
        let follower = Follower::start(options(data_dir), transport).unwrap();
        let running = tokio::spawn(follower.run(async move {
            let _ = ended.await;
        }));
        Self { shutdown, running }
    }

    async fn end(self) {
        self.shutdown.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap();
    }
}

fn options(data_dir: &Path) -> Options {
    Options {
        node_id: None,
        scope: ProxyScope {
            role: ProxyRole::Gateway,
            namespace: "istio-system".into(),
            labels: BTreeMap::from([("istio".into(), "ingressgateway".into())]),
        },
        service_account: String::new(),
        proxy: proxy::Options {
            bind: "127.0.0.1".parse().unwrap(),
            port_map: BTreeMap::from([(80, 0)]),
            workers: 1,
            drain_time: Duration::from_secs(1),
            metrics_addr: Some(proxy::ListenAddr { addr: "127.0.0.1:0".parse().unwrap(), explicit: true }),
            ..proxy::Options::default()
        },
        data_dir: data_dir.to_owned(),
        sidecar: None,
        other_ports: Map::new(),
        workload: None,
    }
}

fn object(kind: &str, name: &str, spec: serde_json::Value) -> (Arc<Key>, Entry) {
    let body = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "istio-system"},
        "spec": spec,
    });
    let key = Key { kind: kind.into(), namespace: "istio-system".into(), name: name.into() };
    (key.into(), Entry::new(body.to_string()).unwrap())
}

fn gateway() -> (Arc<Key>, Entry) {
    gateway_on("edge", 80)
}

fn gateway_on(name: &str, port: u16) -> (Arc<Key>, Entry) {
    let servers = json!([{"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]);
    object("Gateway", name, json!({"selector": {"istio": "ingressgateway"}, "servers": servers}))
}

fn answer(body: &str) -> (Arc<Key>, Entry) {
    let http = json!([{"directResponse": {"status": 200, "body": {"string": body}}}]);
    object("VirtualService", "site", json!({"hosts": ["*"], "gateways": ["edge"], "http": http}))
}

/// What the file says that tells where the process listens.
fn ports(data_dir: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(data_dir.join("ports.json")).ok()?).ok()
}

async fn until_listening(data_dir: &Path) -> String {
    until("a listener", async || Some(ports(data_dir)?["listeners"]["80"].as_str()?.to_owned())).await
}

/// The response to one request on a connection of its own.
async fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}

async fn until_answered(address: &str, body: &str) {
    let answered = async || get(address, "/").await.ok().filter(|response| response.ends_with(body)).map(|_| ());
    until(&format!("the answer {body:?}"), answered).await;
}

/// A control plane that is not there.
fn nobody() -> PipeTransport {
    pipe().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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
    assert!(!again.has_sent(), "there was nothing to send");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_served_before_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway(), answer("one")], []);
    let edge = Gateway::start(dir.path(), plane.transport.clone());
    plane.until_acked(1).await;
    let address = until_listening(dir.path()).await;
    assert!(get(&address, "/").await.unwrap().ends_with("one"));

    for (revision, body) in [(2, "two"), (3, "three"), (4, "four")] {
        plane.scope.publish(Revision(revision), [answer(body)], []);
        plane.until_acked(revision).await;
        assert!(get(&address, "/").await.unwrap().ends_with(body), "revision {revision}");
    }
    let metrics = ports(dir.path()).unwrap()["metrics"].as_str().unwrap().to_owned();
    assert!(get(&metrics, "/readyz").await.unwrap().starts_with("HTTP/1.1 200"));
    edge.end().await;
    assert!(get(&address, "/").await.is_err(), "nobody listens after the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_control_plane_the_last_good_configuration_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway(), answer("one")], []);
    let edge = Gateway::start(dir.path(), plane.transport.clone());
    plane.until_acked(1).await;
    edge.end().await;
    fs::remove_file(dir.path().join("ports.json")).unwrap();

    let edge = Gateway::start(dir.path(), nobody());
    let address = until_listening(dir.path()).await;
    assert!(get(&address, "/").await.unwrap().ends_with("one"));
    edge.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_serves_on_while_its_control_plane_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway(), answer("one")], []);
    let switch = Switch::to(&plane);
    let edge = Gateway::over(dir.path(), switch.clone());
    plane.until_acked(1).await;
    let address = until_listening(dir.path()).await;

    switch.turn(nobody());
    plane.server.end();
    plane.until("the end", |event| matches!(event, Event::Disconnected { .. }).then_some(())).await;
    assert!(get(&address, "/").await.unwrap().ends_with("one"));

    let again = Plane::start();
    again.scope.publish(Revision(1), [gateway(), answer("one")], []);
    switch.turn(again.transport.clone());
    again.until_acked(1).await;
    assert!(!again.has_sent(), "the gateway holds it all");
    again.scope.publish(Revision(2), [answer("two")], []);
    again.until_acked(2).await;
    until_answered(&address, "two").await;
    edge.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_another_program_holds_is_reported_and_the_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway(), answer("one"), gateway_on("blocked", port)], []);
    let edge = Gateway::start(dir.path(), plane.transport.clone());
    let issues = plane.until_acked(1).await;
    assert_eq!(issues.len(), 1, "{issues:?}");
    assert_eq!(issues[0].reason, "PortInUse");
    assert_eq!(issues[0].key.as_ref().map(ToString::to_string).as_deref(), Some("Gateway istio-system/blocked"));
    let address = until_listening(dir.path()).await;
    assert!(get(&address, "/").await.unwrap().ends_with("one"));
    edge.end().await;
}

#[tokio::test]
async fn a_gateway_whose_data_folder_cannot_be_used_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let transport = Transport { connect: Arc::new(nobody()), token: None, credential: None };
    let error = Follower::start(options(&file), transport).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot use the data folder {}", file.display())), "{error}");
}
