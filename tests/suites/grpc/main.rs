//! gRPC through the gateway, with the client and the server that most of the world uses (`grpcio`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use e2e::resources::to;
use e2e::{Fairway, Resources, Start, eventually, python};
use serde_json::{Value, json};

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("suites/grpc").join(name)
}

/// A gRPC server on loopback; it ends when dropped.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let mut command = Command::new(python::interpreter());
        command.arg(script("server.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the server said {line:?}"));
        Self { process, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs the client and answers what it printed.
fn client(arguments: &[&str]) -> String {
    let output = Command::new(python::interpreter()).arg(script("client.py")).args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the client {arguments:?} printed\n{out}\n{err}");
    out.trim().to_owned()
}

/// One gateway with the service behind it, on a plain port.
async fn start(server: &Server) -> (Fairway, String) {
    let fairway = Start::serve(&[8080]).run().await;
    let rules = format!(
        "- {{match: [{{uri: {{prefix: /test.Test/}}}}], {}}}\n\
         - {{match: [{{uri: {{prefix: /closed.}}}}], directResponse: {{status: 403, body: {{string: \"not today: 5 %\"}}}}}}\n",
        to("grpc")
    );
    let resources = Resources::edge(&[8080]).service_of("grpc", server.port, "GRPC").routes("edge", &rules);
    fairway.api().apply(&resources).await;
    let address = fairway.listener(8080).await;
    (fairway, address)
}

#[tokio::test]
async fn every_kind_of_call_passes_with_prior_knowledge() {
    let server = Server::start();
    let (_fairway, address) = start(&server).await;
    client(&[&address]);
}

#[tokio::test]
async fn every_kind_of_call_passes_over_tls() {
    let server = Server::start();
    let fairway = Start::serve(&[8443]).run().await;
    let pair = rcgen::generate_simple_self_signed(vec!["grpc.example".to_owned()]).unwrap();
    let resources = Resources::default()
        .tls_secret("pair", &pair.cert.pem(), &pair.signing_key.serialize_pem())
        .https_gateway("edge", 8443, "pair")
        .service_of("grpc", server.port, "GRPC")
        .routes("edge", &format!("[{{{}}}]", to("grpc")));
    fairway.api().apply(&resources).await;
    let ca = fairway.data_dir.join("pair.pem");
    std::fs::write(&ca, pair.cert.pem()).unwrap();
    client(&[&fairway.listener(8443).await, &ca.display().to_string()]);
}

#[tokio::test]
async fn what_the_gateway_answers_itself_is_a_grpc_status() {
    let server = Server::start();
    let (fairway, address) = start(&server).await;
    assert_eq!(client(&[&address, "status", "/test.Test/Unary"]), "OK");
    let no_route = client(&[&address, "status", "/other.Service/Call"]);
    assert!(no_route.starts_with("UNIMPLEMENTED"), "{no_route}");
    assert_eq!(client(&[&address, "status", "/closed.Service/Call"]), "PERMISSION_DENIED not today: 5 %");
    drop(server);
    let down = client(&[&address, "status", "/test.Test/Unary"]);
    assert!(down.starts_with("UNAVAILABLE upstream connect error"), "{down}");

    // A status of the gateway's own counts like one from upstream.
    let metrics = metrics(&fairway).await;
    for (service, status) in [("unknown", "12"), ("unknown", "7"), ("grpc.test", "14"), ("grpc.test", "0")] {
        assert_eq!(requests(&metrics, service, status), 1, "{service} {status}: {metrics}");
    }
}

#[tokio::test]
async fn a_call_is_tried_again_while_the_service_is_unavailable() {
    let server = Server::start();
    let fairway = Start::serve(&[8080]).run().await;
    for (attempts, retry_on, status) in
        [(2, "unavailable", "OK"), (1, "unavailable", "UNAVAILABLE try 2"), (2, "cancelled", "UNAVAILABLE try 1")]
    {
        let rules = format!("[{{retries: {{attempts: {attempts}, retryOn: {retry_on}}}, {}}}]", to("grpc"));
        let resources = Resources::edge(&[8080]).service_of("grpc", server.port, "GRPC").routes("edge", &rules);
        fairway.api().apply(&resources).await;
        let address = fairway.listener(8080).await;
        assert_eq!(client(&[&address, "status", "/test.Test/ThirdTime"]), status, "{attempts} {retry_on}");
    }
}

#[tokio::test]
async fn the_log_and_the_metrics_show_the_status_of_a_call() {
    let server = Server::start();
    let fairway = Start::serve(&[8080]).arg("--access-log").arg("json").run().await;
    let port = json!({"number": 8080, "name": "grpc", "protocol": "GRPC"});
    let gateway = json!({"selector": {"istio": "ingressgateway"}, "servers": [{"port": port, "hosts": ["*"]}]});
    let resources = Resources::default()
        .resource("Gateway", "edge", gateway)
        .service_of("grpc", server.port, "HTTP2")
        .routes("edge", &format!("[{{{}}}]", to("grpc")));
    fairway.api().apply(&resources).await;
    let address = fairway.listener(8080).await;
    assert_eq!(client(&[&address, "status", "/test.Test/Unary"]), "OK");
    assert!(client(&[&address, "status", "/test.Test/Fail"]).starts_with("FAILED_PRECONDITION"));
    // The status of a call without an answer comes in the head, that of one with an answer in the trailers.
    for (path, status) in [("/test.Test/Unary", 0), ("/test.Test/Fail", 9)] {
        let line = eventually("the call is logged", async || logged(&fairway.log(), path).ok_or(fairway.log())).await;
        assert_eq!((&line["response_code"], &line["grpc_status"]), (&Value::from(200), &Value::from(status)), "{line}");
    }
    let metrics = metrics(&fairway).await;
    for status in ["0", "9"] {
        assert_eq!(requests(&metrics, "grpc.test", status), 1, "{status}: {metrics}");
    }
}

/// The access log's line for a path.
fn logged(log: &str, path: &str) -> Option<Value> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["path"] == path)
}

async fn metrics(fairway: &Fairway) -> String {
    let url = format!("http://{}/metrics", fairway.address("metrics"));
    reqwest::get(url).await.unwrap().text().await.unwrap()
}

/// The gRPC requests counted for a service with this status.
fn requests(metrics: &str, service: &str, status: &str) -> u64 {
    let wanted = [
        format!("destination_service=\"{service}\""),
        format!("grpc_response_status=\"{status}\""),
        "request_protocol=\"grpc\"".to_owned(),
    ];
    let counted = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
    let counted = counted.filter(|line| wanted.iter().all(|label| line.contains(label)));
    counted.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}
