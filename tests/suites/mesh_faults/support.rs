//! A mesh on loopback whose members can be ended and started again where they were.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::process::joined_sidecar;
use e2e::{Fairway, Origin, Relay, Resources, Start, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// The namespace of the services, and mutual TLS everywhere.
pub(crate) const STRICT: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
";

/// A service that somebody wrote, with an endpoint of the mesh of this service account.
pub(crate) fn written(host: &str, account: &str, endpoint: SocketAddr) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {host}, namespace: shop}}
spec:
  hosts: [{host}.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints:
  - address: {}
    ports: {{http: {}}}
    labels: {{security.istio.io/tlsMode: istio}}
    serviceAccount: {account}
",
        endpoint.ip(),
        endpoint.port()
    )
}

/// A control plane whose certificates last so long.
pub(crate) async fn control_plane(ttl: &str) -> Fairway {
    let control = Start::admin().arg("--cert-ttl").arg(ttl).run().await;
    apply(&control, STRICT).await;
    control
}

pub(crate) async fn apply(control: &Fairway, yaml: &str) {
    control.api().apply_without_waiting(&Resources::default().yaml(yaml)).await;
}

/// A sidecar's own address on loopback, so that everybody has the usual ports.
fn host() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// Where a sidecar runs, and runs again: its address, its folder and its token.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) address: IpAddr,
    pub(crate) start: Start,
    folder: TempDir,
}

impl Place {
    /// With the service account's name as its node id.
    pub(crate) async fn new(control: &Fairway, account: &str) -> Self {
        let (address, folder) = (host(), TempDir::new().unwrap());
        let start = joined_sidecar(control, "shop", account).await;
        std::fs::copy(control.data_dir.join("join.token"), folder.path().join("join.token")).unwrap();
        let start = start
            .replace("--join-token-file", &folder.path().join("join.token").display().to_string())
            .replace("--outbound-addr", &SocketAddr::new(address, 15001).to_string())
            .data_dir(&folder.path().join("data"));
        let place = Self { address, start, folder };
        place.with(&["--capture", "explicit", "--access-log", "text", "--node-id", account])
    }

    /// The sidecar of a client, with a listener that stands for a service.
    pub(crate) async fn client(control: &Fairway, account: &str, service: &str, port: u16) -> Self {
        Self::new(control, account).await.standing_for(service, port, 9080)
    }

    /// A listener on another port that stands for a service.
    pub(crate) fn standing_for(mut self, service: &str, port: u16, listen: u16) -> Self {
        let listen = SocketAddr::new(self.address, listen);
        self.start = self.start.arg("--bind-service").arg(format!("{service}:{port}={listen}"));
        self
    }

    pub(crate) fn with(mut self, words: &[&str]) -> Self {
        self.start = words.iter().fold(self.start, |start, word| start.arg(*word));
        self
    }

    /// Shows another join token.
    pub(crate) fn has_token(&self, token: &str) {
        std::fs::write(self.folder.path().join("join.token"), token).unwrap();
    }

    /// Reaches its control plane by a relay.
    pub(crate) fn through(mut self, relay: &Relay) -> Self {
        self.start = self.start.replace("--control-plane", &format!("https://{}", relay.address));
        self
    }

    /// Where the listener of a client is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", SocketAddr::new(self.address, 9080))
    }

    pub(crate) async fn run(&self) -> Fairway {
        self.start.clone().run().await
    }
}

/// A service, and where its sidecar runs.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) origin: Origin,
    pub(crate) place: Place,
    /// Where others reach its application: at its sidecar.
    pub(crate) inbound: SocketAddr,
}

impl Service {
    /// A service of the account of its name, with the port of its origin.
    pub(crate) async fn new(control: &Fairway, name: &str) -> Self {
        let origin = Origin::start(name).await;
        let mut place = Place::new(control, name).await;
        let inbound = SocketAddr::new(place.address, 19080);
        let port = format!("http={}@{inbound}", origin.port());
        let words = ["--service", name, "--port", &port, "--labels", &format!("app={name}")];
        place = place.with(&words);
        Self { origin, place, inbound }
    }
}

/// Another join token of a service account: its id and its text.
pub(crate) async fn join_token(control: &Fairway, account: &str, single_use: bool) -> (String, String) {
    let body = json!({"namespace": "shop", "serviceAccount": account, "ttl": "1h", "singleUse": single_use});
    let (_, answer) = control.api().post("/api/fairway/v1/join-tokens", &body).await;
    let part = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    (part("id"), part("token"))
}

/// A relay to a control plane.
pub(crate) async fn relay_to(control: &Fairway) -> Relay {
    Relay::start(control.address("push").parse().unwrap()).await
}

/// The status of a GET over a new connection.
pub(crate) async fn status(url: &str) -> Result<u16, String> {
    reqwest::get(url).await.map(|answer| answer.status().as_u16()).map_err(|error| format!("{error:?}"))
}

pub(crate) async fn until_status(url: &str, wanted: u16) {
    eventually(&format!("{url} answers {wanted}"), async || {
        let found = status(url).await;
        if found == Ok(wanted) { Ok(()) } else { Err(found) }
    })
    .await;
}

pub(crate) async fn until_logged(proxy: &Fairway, words: &[&str]) {
    eventually(&format!("{words:?} in one line of the log"), async || {
        let log = proxy.log();
        if log.lines().any(|line| words.iter().all(|word| line.contains(word))) { Ok(()) } else { Err(log) }
    })
    .await;
}

/// The same of what requests make a proxy log, of which one may come to nothing for another reason.
pub(crate) async fn until_requests_log(url: &str, proxy: &Fairway, words: &[&str]) {
    eventually(&format!("{words:?} in one line of the log, by requests"), async || {
        let found = status(url).await;
        let log = proxy.log();
        if log.lines().any(|line| words.iter().all(|word| line.contains(word))) { Ok(()) } else { Err((found, log)) }
    })
    .await;
}

/// Lines of the log that contain this.
pub(crate) fn lines_with(proxy: &Fairway, text: &str) -> usize {
    proxy.log().lines().filter(|line| line.contains(text)).count()
}

/// A metric without labels, or with these in braces.
pub(crate) async fn metric(proxy: &Fairway, name: &str) -> f64 {
    let url = format!("http://{}/metrics", proxy.address("metrics"));
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
}

pub(crate) async fn signed(proxy: &Fairway) -> f64 {
    metric(proxy, "fairway_certificate_requests_total{result=\"signed\"}").await
}

/// What the control plane says of a proxy.
pub(crate) async fn seen(control: &Fairway, node: &str) -> Value {
    control.api().get(&format!("/api/fairway/v1/proxies/{node}")).await.1
}

/// Waits until nothing is left of requests, and of connections no more than this many from and to others.
pub(crate) async fn until_nothing_is_left(proxy: &Fairway, from: f64, to: f64) {
    eventually("nothing is left of the fault", async || {
        let mut left = Vec::new();
        for (name, most) in [
            ("fairway_requests_active", 0.0),
            ("fairway_downstream_connections_active", from),
            ("fairway_upstream_connections_active", to),
        ] {
            let now = metric(proxy, name).await;
            if now > most {
                left.push((name, now));
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

/// Clients that ask again and again, each on one connection, until this is stopped.
#[derive(Debug)]
pub(crate) struct Load {
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(u16),
    /// The connection was refused, or broke off.
    Broken,
    Silence,
}

impl Load {
    pub(crate) fn start(url: &str) -> Self {
        let (outcomes, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let tasks = (0..4).map(|_| tokio::spawn(ask(url.to_owned(), Arc::clone(&outcomes), Arc::clone(&stop))));
        Self { tasks: tasks.collect(), outcomes, stop }
    }

    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.outcomes.lock().unwrap().clone()
    }

    /// Waits until so many further requests in a row were answered 200.
    pub(crate) async fn until_fine(&self, many: usize) {
        let before = self.outcomes().len();
        eventually("requests are answered", async || {
            let outcomes = self.outcomes();
            let last = &outcomes[before.max(outcomes.len().saturating_sub(many))..];
            last.len() == many && last.iter().all(|outcome| *outcome == Outcome::Status(200))
        })
        .await;
    }

    /// Waits for an outcome from here on that is not 200.
    pub(crate) async fn until_noticed(&self) {
        let before = self.outcomes().len();
        eventually("the fault is noticed", async || {
            self.outcomes()[before..].iter().any(|outcome| *outcome != Outcome::Status(200))
        })
        .await;
    }

    /// Ends it and answers everything but the answers that were fine.
    pub(crate) async fn stop(self) -> Vec<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let outcomes = self.outcomes.lock().unwrap();
        outcomes.iter().filter(|outcome| **outcome != Outcome::Status(200)).cloned().collect()
    }
}

async fn ask(url: String, outcomes: Arc<Mutex<Vec<Outcome>>>, stop: Arc<AtomicBool>) {
    // Nobody waits that long for a fault to be told.
    let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
    while !stop.load(Ordering::Relaxed) {
        let outcome = match http.get(&url).send().await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                match answer.bytes().await {
                    Ok(_) => Outcome::Status(status),
                    Err(_) => Outcome::Broken,
                }
            }
            Err(error) if error.is_timeout() => Outcome::Silence,
            Err(_) => Outcome::Broken,
        };
        outcomes.lock().unwrap().push(outcome);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
