//! The edge, as a newcomer meets it: write a route, send a request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::process::{TOKEN, binary};
use e2e::resources::to;
use e2e::{Authority, Fairway, Origin, Resources, Start, eventually};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A gateway on port 8080 for every host, one service `echo` on the origin, and these rules.
fn resources(origin: &Origin, rules: &str) -> Resources {
    Resources::edge(&[8080]).service("echo", origin.port()).routes("edge", rules)
}

fn all_to_echo() -> String {
    format!("[{{{}}}]", to("echo"))
}

async fn start(rules: &str) -> (Fairway, Origin, String) {
    let origin = Origin::start("echo").await;
    let fairway = Start::serve(&[8080]).run().await;
    fairway.api().apply(&resources(&origin, rules)).await;
    let address = fairway.listener(8080).await;
    (fairway, origin, format!("http://{address}"))
}

#[tokio::test]
async fn a_route_written_through_the_api_serves_at_once() {
    let (_fairway, origin, base) = start(&all_to_echo()).await;
    let response = reqwest::Client::new().post(format!("{base}/a/b?c=d")).body("hello").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-origin"], "echo");
    let got: Value = response.json().await.unwrap();
    assert_eq!((&got["method"], &got["target"], &got["body"]), (&json!("POST"), &json!("/a/b?c=d"), &json!("hello")));
    let headers = got["headers"].as_array().unwrap();
    let header = |name: &str| headers.iter().find(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap());
    assert_eq!(header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header("x-forwarded-proto"), Some("http"));
    assert_eq!(header("x-request-id").map(str::len), Some(36));
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn curl_speaks_http2_with_prior_knowledge_and_by_the_handshake() {
    let origin = Origin::start("echo").await;
    let fairway = Start::serve(&[8080, 8443]).run().await;
    let (certificate, key) = Authority::default().certificate("shop.test");
    let resources = resources(&origin, &all_to_echo())
        .tls_secret("pair", &certificate.pem(), &key.serialize_pem())
        .https_gateway("secure", 8443, "pair")
        .routes("secure", &all_to_echo());
    fairway.api().apply(&resources).await;
    let (plain, secure) = (fairway.listener(8080).await, fairway.listener(8443).await);
    let ca = fairway.data_dir.join("shop.pem");
    std::fs::write(&ca, certificate.pem()).unwrap();
    let ca = ca.display().to_string();
    let connect = format!("shop.test:443:{secure}");
    let trust = ["--cacert", &ca, "--connect-to", &connect];
    let plain = format!("http://{plain}/a");
    for (arguments, url, version) in [
        (["--http2-prior-knowledge"].as_slice(), &*plain, "2"),
        // An offer to upgrade by a header is not taken (RFC 9113 section 3.1), and the answer comes all the same.
        (&["--http2"], &plain, "1.1"),
        (&["--http1.1"], &plain, "1.1"),
        (&["--http2"], "https://shop.test/a", "2"),
        (&["--http1.1"], "https://shop.test/a", "1.1"),
    ] {
        let trust = if url.starts_with("https") { trust.as_slice() } else { &[] };
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--data", "hello"]);
        curl.args(["--write-out", "\n%{http_version} %{response_code}"]);
        let output = curl.args(arguments).args(trust).arg(url).output().await.unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let (body, said) = out.rsplit_once('\n').unwrap_or_else(|| panic!("{arguments:?} {url}: {out} {err}"));
        assert_eq!(said, format!("{version} 200"), "{arguments:?} {url}: {err}");
        let got: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&got["method"], &got["target"], &got["body"]), (&json!("POST"), &json!("/a"), &json!("hello")));
    }
}

#[tokio::test]
async fn an_edit_reaches_the_next_request_of_an_open_connection() {
    let (fairway, origin, base) = start(&all_to_echo()).await;
    // One client, one kept connection.
    let client = reqwest::Client::builder().pool_max_idle_per_host(1).build().unwrap();
    assert_eq!(client.get(&base).send().await.unwrap().status(), StatusCode::OK);
    fairway.api().apply(&resources(&origin, "[{directResponse: {status: 418}}]")).await;
    assert_eq!(client.get(&base).send().await.unwrap().status(), StatusCode::IM_A_TEAPOT);
}

#[tokio::test]
async fn what_is_not_routed_is_told_apart() {
    let rules = format!(
        "- {{match: [{{uri: {{prefix: /known}}}}], {}}}\n\
         - {{match: [{{uri: {{prefix: /nowhere}}}}], \
            route: [{{destination: {{host: echo.test, subset: missing, port: {{number: 80}}}}}}]}}\n",
        to("echo")
    );
    let (_fairway, _origin, base) = start(&rules).await;
    let status = async |path: &str| reqwest::get(format!("{base}{path}")).await.unwrap().status().as_u16();
    assert_eq!(status("/known").await, 200);
    assert_eq!(status("/unknown").await, 404, "no rule takes it");
    assert_eq!(status("/nowhere").await, 503, "its subset does not exist");
}

#[tokio::test]
async fn an_upstream_that_is_gone_answers_503_and_comes_back_by_itself() {
    let (_fairway, origin, base) = start(&all_to_echo()).await;
    assert_eq!(reqwest::get(&base).await.unwrap().status(), StatusCode::OK);
    let address = origin.address;
    drop(origin);
    eventually("the upstream's absence shows", async || {
        let status = reqwest::get(&base).await.unwrap().status();
        if status == StatusCode::SERVICE_UNAVAILABLE { Ok(()) } else { Err(status) }
    })
    .await;
    let _origin = Origin::bind("echo", address).await;
    eventually("the upstream's return shows", async || {
        let status = reqwest::get(&base).await.unwrap().status();
        if status == StatusCode::OK { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn a_restart_serves_what_was_stored() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let origin = Origin::start("echo").await;
    let mut fairway = Start::serve(&[8080]).data_dir(&data).run().await;
    fairway.api().apply(&resources(&origin, &all_to_echo())).await;
    assert!(fairway.stop().await.success(), "SIGTERM ends it cleanly");
    let fairway = Start::serve(&[8080]).data_dir(&data).run().await;
    let base = format!("http://{}", fairway.listener(8080).await);
    assert_eq!(reqwest::get(&base).await.unwrap().status(), StatusCode::OK);
}

/// The status line's number that the gateway answers raw bytes with.
async fn status_of(address: &str, head: String) -> u16 {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head:?}: {answer:?}"))
}

#[tokio::test]
async fn commands_need_no_certificate_authorities_for_plain_http() {
    let fairway = Start::admin().run().await;
    let folder = tempfile::tempdir().unwrap();
    // As on a system without any.
    let bundle = folder.path().join("none.pem");
    std::fs::write(&bundle, "").unwrap();
    let run = |server: &str| {
        let mut command = std::process::Command::new(binary("fairway"));
        command.args(["get", "gateways", "--server", server]).env("FAIRWAY_ADMIN_TOKEN", TOKEN);
        command.env("SSL_CERT_FILE", &bundle).env("SSL_CERT_DIR", folder.path()).output().unwrap()
    };
    let plain = run(&format!("http://{}", fairway.address("admin")));
    assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
    let secure = run(&format!("https://{}", fairway.address("adminTls")));
    let said = String::from_utf8_lossy(&secure.stderr);
    assert!(!secure.status.success() && said.contains("--ca-file") && said.contains("ca-certificates"), "{said}");
}

/// What `fairway explain` prints.
fn explained(fairway: &Fairway, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(binary("fairway"));
    command.arg("explain").arg("--data-dir").arg(&fairway.data_dir).env("FAIRWAY_ADMIN_TOKEN", TOKEN).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn an_explanation_says_what_the_gateway_does() {
    let rules = "[
        {match: [{uri: {prefix: /admin}}], directResponse: {status: 403}},
        {match: [{headers: {x-forwarded-proto: {exact: https}}}], directResponse: {status: 201}},
        {match: [{headers: {x-envoy-internal: {exact: 'true'}}}], directResponse: {status: 202}},
        {match: [{headers: {upgrade: {exact: websocket}}}], directResponse: {status: 203}},
        {match: [{headers: {who: {exact: jason}}}], directResponse: {status: 205}},
        {match: [{queryParams: {q: {exact: 'a%3Cb'}}}], directResponse: {status: 206}},
        {match: [{authority: {prefix: 'h:'}}], directResponse: {status: 207}},
        {match: [{uri: {prefix: '/%22'}}], directResponse: {status: 208}},
        {match: [{uri: {prefix: /old}}], redirect: {uri: /new, redirectCode: 308}},
        {match: [{method: {exact: GET}}], directResponse: {status: 200}}
    ]";
    let (fairway, _origin, base) = start(rules).await;
    let address = base.trim_start_matches("http://");
    for (method, target, headers) in [
        ("GET", "/", &[][..]),
        ("POST", "/", &[]),
        ("GET", "/a/../admin", &[]),
        ("GET", "/a/%2e%2e/%61dmin", &[]),
        ("GET", "/\\admin", &[]),
        ("GET", "/a\\..\\admin?x=/..", &[]),
        ("GET", "/a/%2e%2e;/admin", &[]),
        ("GET", "/a/..;x/admin", &[]),
        ("GET", "/a%00", &[]),
        ("GET", "/a\u{e9}", &[]),
        ("GET", "/a\u{1}", &[]),
        ("GET", "/<\"^`{|}>", &[]),
        ("GET", "/\"x", &[]),
        ("GET", "/?q=a<b", &[]),
        ("GET", "/?q=a%3Cb", &[]),
        ("GET", "/./old/x", &[]),
        ("get", "/", &[]),
        ("QUERY", "/", &[]),
        ("CONNECT", "/", &[]),
        ("GET", "/", &["x-forwarded-proto: https"]),
        ("GET", "/", &["x-envoy-internal: true"]),
        ("GET", "/", &["connection: close, upgrade", "upgrade: websocket"]),
        ("GET", "/", &["connection: close, upgrade", "upgrade: h2c"]),
        ("GET", "/", &["who: bob", "who: jason"]),
        ("GET", "/", &["connection: close, who", "who: jason"]),
        ("GET", "/", &["host: h:1"]),
        ("GET", "/", &["host: h h"]),
    ] {
        let host = if headers.iter().any(|line| line.starts_with("host")) { "" } else { "host: h\r\n" };
        let close =
            if headers.iter().any(|line| line.starts_with("connection")) { "" } else { "connection: close\r\n" };
        let lines: String = headers.iter().flat_map(|line| [line, "\r\n"]).collect();
        let answered = status_of(address, format!("{method} {target} HTTP/1.1\r\n{host}{close}{lines}\r\n")).await;
        let url = format!("http://h{target}");
        let mut arguments = vec!["--json", "--port", "8080", "--method", method, "--url", &url];
        arguments.extend(headers.iter().flat_map(|line| ["-H", line]));
        let explanation: Value = serde_json::from_str(&explained(&fairway, &arguments)).unwrap();
        assert_eq!(explanation["outcome"]["status"], answered, "{method} {target} {headers:?}: {explanation:#}");
    }
    assert_eq!(
        explained(&fairway, &["--url", "http://h:8080/a/../%61dmin#x", "-H", "X-Envoy-Internal: true"]),
        "server   Gateway default/edge servers[0]
path     /a/../%61dmin is taken as /admin
header   x-envoy-internal is dropped
host     *
  match  VirtualService default/edge spec.http[0].match[0]
direct   403 with 0 bytes
"
    );
    assert_eq!(
        explained(&fairway, &["--url", "http://h:8080/%00"]),
        "server   Gateway default/edge servers[0]\nrefused  400: the path holds %00, an escaped NUL byte\n"
    );
}

/// A TCP service that answers each connection with its name and a space before everything it is told.
async fn tcp_echo(name: &'static str) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(format!("{name} ").as_bytes()).await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    port
}

/// What a TCP port answers to a line; empty if it closes the connection.
async fn told(address: &str, line: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut answer = String::new();
    // A connection that leads nowhere may be reset.
    let _ = stream.write_all(line.as_bytes()).await;
    let _ = stream.shutdown().await;
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn istios_tcp_echo_shifts_connections_from_one_version_to_the_other() {
    let versions = [("v1", tcp_echo("one").await), ("v2", tcp_echo("two").await)];
    let endpoints: Vec<Value> = versions
        .iter()
        .map(|(version, port)| json!({"address": "127.0.0.1", "ports": {"tcp": port}, "labels": {"version": version}}))
        .collect();
    let host = "tcp-echo.default.svc.cluster.local";
    let port = json!({"number": 31400, "name": "tcp", "protocol": "TCP"});
    let documents = |v2: u32| {
        let subset = |version: &str, weight: u32| json!({"destination": {"host": "tcp-echo", "port": {"number": 9000}, "subset": version}, "weight": weight});
        let tcp = json!([{"match": [{"port": 31400}], "route": [subset("v1", 100 - v2), subset("v2", v2)]}]);
        let subsets = versions.map(|(name, _)| json!({"name": name, "labels": {"version": name}}));
        let gateway = json!({"selector": {"istio": "ingressgateway"}, "servers": [{"port": port, "hosts": ["*"]}]});
        let ports = json!([{"number": 9000, "name": "tcp", "protocol": "TCP"}]);
        Resources::default()
            .resource("Gateway", "tcp-echo-gateway", gateway)
            .resource("DestinationRule", "tcp-echo-destination", json!({"host": "tcp-echo", "subsets": subsets}))
            .resource(
                "ServiceEntry",
                "tcp-echo",
                json!({"hosts": [host], "resolution": "STATIC", "ports": ports, "endpoints": endpoints}),
            )
            .resource(
                "VirtualService",
                "tcp-echo",
                json!({"hosts": ["*"], "gateways": ["tcp-echo-gateway"], "tcp": tcp}),
            )
    };
    let fairway = Start::serve(&[31400]).run().await;
    fairway.api().apply(&documents(0)).await;
    let address = fairway.listener(31400).await;
    for _ in 0..10 {
        assert_eq!(told(&address, "hello").await, "one hello");
    }
    let mut running = tokio::net::TcpStream::connect(&address).await.unwrap();
    let mut greeting = [0; 4];
    running.read_exact(&mut greeting).await.unwrap();
    fairway.api().apply(&documents(100)).await;
    for _ in 0..10 {
        assert_eq!(told(&address, "hello").await, "two hello");
    }
    running.write_all(b"here").await.unwrap();
    running.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"here", "a connection stays where it was made to");
    let text = explained(&fairway, &["--url", "http://any.test:31400/"]);
    assert!(text.contains("connect  100.0% to outbound|9000|v2|tcp-echo.default.svc.cluster.local"), "{text}");
    assert!(text.contains("tcp-echo-gateway servers[0]") && text.contains("spec.tcp[0].match[0]"), "{text}");
}

#[tokio::test]
async fn a_gateway_behind_a_balancer_learns_who_the_client_is() {
    let origin = Origin::start("echo").await;
    let fairway = Start::serve(&[8080]).run().await;
    let topology = r#"{"gatewayTopology": {"proxyProtocol": {}}}"#;
    let edge = |gateway: Resources| gateway.service("echo", origin.port()).routes("edge", &all_to_echo());
    fairway.api().apply(&edge(Resources::edge(&[8080]).annotate("proxy.istio.io/config", topology))).await;
    let address = fairway.listener(8080).await;
    let ask = async |header: &str| {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let request = format!("{header}GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // A connection that is refused may be reset.
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    let answer = ask("PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n").await;
    assert!(answer.contains(r#"["x-forwarded-for","192.0.2.7"]"#), "{answer}");
    assert_eq!(ask("").await, "", "nobody comes past the balancer");

    // The annotation alone is an edit like any other.
    fairway.api().apply(&edge(Resources::edge(&[8080]).annotate("proxy.istio.io/config", "{}"))).await;
    let answer = ask("").await;
    assert!(answer.contains(r#"["x-forwarded-for","127.0.0.1"]"#), "{answer}");
}
