//! Sidecars that register their applications: services find each other, for as long as they can serve.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use e2e::process::joined_sidecar;
use e2e::{Fairway, Start, eventually};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const ENTRY: &str = "/apis/networking.istio.io/v1/namespaces/shop/workloadentries/reviews-1";
const SERVICE: &str = "/apis/networking.istio.io/v1/namespaces/shop/serviceentries/reviews";
const GROUPS: &str = "/apis/networking.istio.io/v1/namespaces/shop/workloadgroups";

/// Answers every GET with 200 while it is healthy, else with 503.
struct Application {
    address: SocketAddr,
    healthy: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Application {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let healthy = Arc::new(AtomicBool::new(false));
        let state = healthy.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let status = if state.load(Ordering::Relaxed) { "200 OK" } else { "503 Service Unavailable" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, healthy, task }
    }

    fn is_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn until_there(control_plane: &Fairway, path: &str) -> Value {
    eventually(&format!("{path} is there"), async || {
        let (status, object) = control_plane.api().get(path).await;
        if status == 200 { Ok(object) } else { Err(proxies(control_plane).await) }
    })
    .await
}

async fn until_gone(control_plane: &Fairway, path: &str) {
    eventually(&format!("{path} is gone"), async || control_plane.api().get(path).await.0 == 404).await;
}

async fn proxies(control_plane: &Fairway) -> Value {
    control_plane.api().get("/api/fairway/v1/proxies").await.1
}

/// Waits until the sidecar says for this reason that its workload is not ready.
async fn until_unready(control_plane: &Fairway, reason: &str) {
    eventually(&format!("it is not ready: {reason}"), async || {
        let (_, proxy) = control_plane.api().get("/api/fairway/v1/proxies/reviews-1").await;
        let workload = &proxy["workload"];
        let is_it = workload["ready"] == false && workload["reason"].as_str().is_some_and(|why| why.contains(reason));
        if is_it { Ok(()) } else { Err(proxy) }
    })
    .await;
}

/// A sidecar of the service account `books`, with the node id `reviews-1`.
async fn sidecar(control_plane: &Fairway, words: &[&str]) -> Start {
    let start = joined_sidecar(control_plane, "shop", "books").await.arg("--node-id").arg("reviews-1");
    words.iter().fold(start, |start, word| start.arg(*word))
}

#[tokio::test]
async fn an_application_is_an_endpoint_while_it_answers() {
    let control_plane = Start::admin().run().await;
    let application = Application::start().await;
    let port = application.address.port();
    let (named, check) = (format!("http={port}"), format!("http://:{port}/healthz"));
    let words = ["--service", "reviews", "--port", &named, "--readiness", &check, "--labels", "app=reviews,version=v2"];
    let mut sidecar = sidecar(&control_plane, &words).await.run().await;
    until_unready(&control_plane, &format!("GET http://127.0.0.1:{port}/healthz: 503 Service Unavailable")).await;
    let service = until_there(&control_plane, SERVICE).await;
    assert_eq!(service["spec"]["hosts"], json!(["reviews.shop.svc.cluster.local"]));
    assert_eq!(service["spec"]["ports"], json!([{"number": port, "name": "http", "protocol": "HTTP"}]));
    assert_eq!(control_plane.api().get(ENTRY).await.0, 404);

    application.is_healthy(true);
    let entry = until_there(&control_plane, ENTRY).await;
    assert_eq!(
        entry["spec"],
        json!({
            "address": "127.0.0.1", "ports": {"http": port}, "serviceAccount": "books",
            "labels": {"app": "reviews", "version": "v2", "security.istio.io/tlsMode": "istio"},
        })
    );
    application.is_healthy(false);
    until_gone(&control_plane, ENTRY).await;
    application.is_healthy(true);
    until_there(&control_plane, ENTRY).await;

    assert_eq!(sidecar.stop().await.code(), Some(0));
    // It said so before it ended, and for a moment longer the service could still have come back.
    assert_eq!(proxies(&control_plane).await["items"][0]["workload"]["reason"], "its sidecar is ending");
    until_gone(&control_plane, ENTRY).await;
    until_gone(&control_plane, SERVICE).await;
}

#[tokio::test]
async fn a_sidecar_that_cannot_listen_is_no_endpoint_and_says_why() {
    let control_plane = Start::admin().run().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let start = sidecar(&control_plane, &["--service", "reviews", "--port", "http=9080"]).await;
    let mut sidecar = start.replace("--inbound-addr", &address).run().await;
    let ready_at = format!("http://{}/readyz", sidecar.address("metrics"));
    until_unready(&control_plane, &format!("its sidecar cannot listen on {address}")).await;
    let issues = async || {
        let (_, proxy) = control_plane.api().get("/api/fairway/v1/proxies/reviews-1").await;
        proxy["issues"].clone()
    };
    eventually("it says so with its revision", async || {
        let found = issues().await;
        let says = |part: &str| found[0]["message"].as_str().is_some_and(|message| message.contains(part));
        if says(&address) && says("in use by another program") { Ok(()) } else { Err(found) }
    })
    .await;
    assert_eq!(control_plane.api().get(ENTRY).await.0, 404);
    assert_eq!(reqwest::get(&ready_at).await.unwrap().status(), 503);

    drop(taken);
    until_there(&control_plane, ENTRY).await;
    eventually("nothing is wrong any more", async || {
        let found = issues().await;
        if found.as_array().is_none_or(Vec::is_empty) { Ok(()) } else { Err(found) }
    })
    .await;
    assert_eq!(reqwest::get(&ready_at).await.unwrap().status(), 200);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_is_killed_leaves_nothing_behind() {
    let control_plane = Start::admin().run().await;
    let words = ["--service", "reviews", "--port", "http=9080"];
    let mut sidecar = sidecar(&control_plane, &words).await.standalone().run().await;
    // There is no check, so it is ready as soon as it is configured.
    until_there(&control_plane, ENTRY).await;
    let shown = eventually("the sidecar says how it is doing", async || {
        let shown = proxies(&control_plane).await["items"][0].clone();
        if shown["connections"] == 0 { Ok(shown) } else { Err(shown) }
    })
    .await;
    assert!(shown["uptimeSeconds"].is_u64() && shown["started"].is_string(), "{shown}");
    assert_eq!((&shown["ackedRevision"], &shown["lagMilliseconds"]), (&shown["wantedRevision"], &json!(0)));
    sidecar.kill();
    until_gone(&control_plane, ENTRY).await;
    until_gone(&control_plane, SERVICE).await;
}

#[tokio::test]
async fn an_application_that_is_told_to_end_is_no_endpoint_any_more() {
    let control_plane = Start::admin().run().await;
    // It takes its time: until the test lets it go.
    let folder = tempfile::TempDir::new().unwrap();
    let end = folder.path().join("end");
    let script = format!("trap : TERM; while [ ! -e {} ]; do sleep 0.02; done", end.display());
    let start = sidecar(&control_plane, &["--service", "reviews", "--port", "http=9080"]).await;
    let mut sidecar = start.application(&["sh", "-c", &script]).run().await;
    until_there(&control_plane, ENTRY).await;
    sidecar.signal(15);
    until_unready(&control_plane, "it was told to end").await;
    until_gone(&control_plane, ENTRY).await;
    std::fs::write(end, "").unwrap();
    assert_eq!(sidecar.wait_exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_group_says_how_its_members_are_probed() {
    let control_plane = Start::admin().run().await;
    let api = control_plane.api();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("ready").display().to_string();
    let group = |probe: Value| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup", "metadata": {"name": "reviews"},
            "spec": {
                "metadata": {"labels": {"app": "reviews"}},
                "template": {"labels": {"security.istio.io/tlsMode": "disabled"}},
                "probe": probe,
            },
        })
    };
    let exec = json!({"exec": {"command": ["test", "-e", &file]}, "periodSeconds": 1, "failureThreshold": 1});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    assert_eq!(api.post("/api/v1/namespaces", &namespace).await.0, 201);
    let (status, made) = api.post(GROUPS, &group(exec)).await;
    assert_eq!(status, 201, "{made}");
    let words = ["--service", "reviews", "--port", "http=9080", "--workload-group", "reviews"];
    let mut sidecar = sidecar(&control_plane, &words).await.run().await;
    until_unready(&control_plane, &format!("test -e {file}: exit status: 1")).await;
    std::fs::write(&file, "").unwrap();
    let entry = until_there(&control_plane, ENTRY).await;
    let labels = json!({"app": "reviews", "security.istio.io/tlsMode": "disabled"});
    assert_eq!(entry["spec"]["labels"], labels, "the template has the last word on TLS");

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let change = json!({"spec": {"probe": {"exec": null, "tcpSocket": {"port": closed}}}});
    let path = format!("{GROUPS}/reviews");
    let patch = api.request(Method::PATCH, &path).header("content-type", "application/merge-patch+json");
    assert_eq!(patch.body(change.to_string()).send().await.unwrap().status(), 200);
    until_unready(&control_plane, &format!("a connection to localhost:{closed}: Connection refused")).await;
    until_gone(&control_plane, ENTRY).await;

    // Without a group nobody asks.
    assert_eq!(api.request(Method::DELETE, &path).send().await.unwrap().status(), 200);
    until_there(&control_plane, ENTRY).await;
    let problems = proxies(&control_plane).await["items"][0]["workload"]["problems"].clone();
    assert!(problems[0].as_str().unwrap().contains("there is no WorkloadGroup shop/reviews"), "{problems}");
    sidecar.stop().await;
}

#[tokio::test]
async fn with_explicit_capture_the_listener_of_the_sidecar_is_registered() {
    let control_plane = Start::admin().run().await;
    let (port, listen) = (Application::start().await.address.port(), Application::start().await.address);
    let named = format!("http={port}@{listen}");
    let words = ["--service", "reviews", "--capture", "explicit", "--port", &named];
    let mut sidecar = sidecar(&control_plane, &words).await.run().await;
    let entry = until_there(&control_plane, ENTRY).await;
    assert_eq!(entry["spec"]["address"], "127.0.0.1");
    assert_eq!(entry["spec"]["ports"], json!({"http": listen.port()}), "what others connect to");
    let service = until_there(&control_plane, SERVICE).await;
    assert_eq!(service["spec"]["ports"][0]["number"], port, "what others call it by");
    sidecar.stop().await;
}

#[tokio::test]
async fn a_workload_that_no_control_plane_would_take_does_not_start() {
    let control_plane = Start::admin().run().await;
    for (words, reason) in [
        (["--labels", "fairway.dev/generated=true"], "the label fairway.dev/generated is the control plane's"),
        (["--address", "0.0.0.0"], "not one that clients can connect to"),
    ] {
        let mut sidecar = sidecar(&control_plane, &words).await.without_waiting().run().await;
        assert_eq!(sidecar.wait_exit().await.code(), Some(1), "{words:?}");
        assert!(sidecar.log().contains(reason), "{}", sidecar.log());
    }
}
