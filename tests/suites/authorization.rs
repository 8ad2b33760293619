//! Who may do what: AuthorizationPolicies after the tasks in Istio's documentation, from the API to the answer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::resources::to;
use e2e::{Fairway, Origin, Resources, Start, eventually};
use tokio::io::AsyncReadExt as _;

/// A gateway that answers everything, and these policies, which are in the gateway's namespace.
fn under(policies: &str) -> Resources {
    Resources::edge(&[8080]).answers("edge", 200).yaml(policies)
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: istio-system}}
spec: {spec}
"
    )
}

async fn start(policies: &str) -> (Fairway, String) {
    let fairway = Start::serve(&[8080]).run().await;
    fairway.api().apply(&under(policies)).await;
    let base = format!("http://{}", fairway.listener(8080).await);
    (fairway, base)
}

async fn ask(base: &str, request: &str, headers: &[(&str, &str)]) -> u16 {
    let (method, path) = request.split_once(' ').unwrap();
    let mut request = reqwest::Client::new().request(method.parse().unwrap(), format!("{base}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn nothing_is_allowed_until_a_policy_says_so() {
    let (fairway, base) = start("").await;
    assert_eq!(ask(&base, "GET /", &[]).await, 200);
    let nothing = policy("allow-nothing", "{}");
    fairway.api().apply(&under(&nothing)).await;
    let denied = reqwest::get(format!("{base}/")).await.unwrap();
    assert_eq!((denied.status().as_u16(), denied.headers()["content-type"].as_bytes()), (403, &b"text/plain"[..]));
    assert_eq!(denied.text().await.unwrap(), "RBAC: access denied");
    let viewer = policy("viewer", "{rules: [{to: [{operation: {methods: [GET], hosts: ['*']}}]}]}");
    fairway.api().apply(&under(&(nothing + &viewer))).await;
    for (request, status) in [("GET /a", 200), ("POST /a", 403), ("HEAD /a", 403)] {
        assert_eq!(ask(&base, request, &[]).await, status, "{request}");
    }
    // A whole policy says what a half did.
    let deny =
        policy("no-admin", "{action: DENY, rules: [{to: [{operation: {paths: ['/admin*'], notPaths: [/admin/ok]}}]}]}");
    fairway.api().apply(&under(&deny)).await;
    for (request, status) in [("GET /admin", 403), ("GET /x/../admin/users", 403), ("GET /admin/ok", 200)] {
        assert_eq!(ask(&base, request, &[]).await, status, "{request}");
    }
}

#[tokio::test]
async fn an_address_list_holds_against_spoofed_headers() {
    let list = "{selector: {matchLabels: {istio: ingressgateway}}, \
                rules: [{from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]}]}";
    let (fairway, base) = start(&policy("ingress-list", list)).await;
    let from = async |forwarded: &str| ask(&base, "GET /", &[("x-forwarded-for", forwarded)]).await;
    assert_eq!(from("203.0.113.9").await, 403, "nobody is trusted to say so");
    let trusting = "---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {numTrustedProxies: 1}
";
    fairway.api().apply(&under(&(policy("ingress-list", list) + trusting))).await;
    assert_eq!(from("203.0.113.9").await, 200);
    assert_eq!(from("203.0.113.9, 198.51.100.1").await, 403, "the trusted proxy saw another address");
    assert_eq!(ask(&base, "GET /", &[]).await, 403);
    let peers = policy("peers", "{action: DENY, rules: [{from: [{source: {ipBlocks: [127.0.0.0/8]}}]}]}");
    fairway.api().apply(&under(&(peers + trusting))).await;
    assert_eq!(from("203.0.113.9").await, 403, "ipBlocks are of the peer");
}

#[tokio::test]
async fn headers_and_dry_runs_decide_and_count() {
    let token = "{action: DENY, rules: [{when: [{key: 'request.headers[x-token]', notValues: [admin]}]}]}";
    let trial =
        policy("trial", token).replace("istio-system}", "istio-system, annotations: {istio.io/dry-run: 'true'}}");
    let (fairway, base) = start(&trial).await;
    assert_eq!(ask(&base, "GET /", &[]).await, 200);
    let metrics = format!("http://{}/metrics", fairway.address("metrics"));
    let line = "fairway_authorization_verdicts_total{policy=\"istio-system/trial\",result=\"shadow_denied\"} 1\n";
    eventually("the trial is counted", async || {
        let text = reqwest::get(&metrics).await.unwrap().text().await.unwrap();
        if text.contains(line) { Ok(()) } else { Err(text) }
    })
    .await;
    // It comes into force with no other edit than that of its annotation.
    fairway.api().apply(&under(&policy("trial", token))).await;
    assert_eq!(ask(&base, "GET /", &[]).await, 403);
    assert_eq!(ask(&base, "GET /", &[("x-token", "admin")]).await, 200);
    let log = "rbac_access_denied_matched_policy[ns[istio-system]-policy[trial]-rule[0]]";
    eventually("the access log names the rule", async || {
        let text = fairway.log();
        if text.contains(log) { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn a_denied_connection_is_closed() {
    let tcp = "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: raw}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: tcp, protocol: TCP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: raw}
spec:
  hosts: ['*']
  gateways: [raw]
  tcp: [{route: [{destination: {host: greeter.test, port: {number: 80}}}]}]
";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello").await;
        }
    });
    let resources =
        |policies: &str| Resources::default().service_of("greeter", port, "TCP").yaml(&format!("{tcp}{policies}"));
    let fairway = Start::serve(&[8080]).run().await;
    fairway.api().apply(&resources("")).await;
    let address = fairway.listener(8080).await;
    let read = async || {
        let mut text = String::new();
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let _ = stream.read_to_string(&mut text).await;
        text
    };
    assert_eq!(read().await, "hello");
    let allow = |block: &str| policy("peers", &format!("{{rules: [{{from: [{{source: {{ipBlocks: [{block}]}}}}]}}]}}"));
    fairway.api().apply(&resources(&allow("10.0.0.0/8"))).await;
    assert_eq!(read().await, "");
    fairway.api().apply(&resources(&allow("127.0.0.0/8"))).await;
    assert_eq!(read().await, "hello");
    // What only HTTP has allows no connection, and a denial goes without it.
    fairway.api().apply(&resources(&policy("peers", "{rules: [{to: [{operation: {methods: [GET]}}]}]}"))).await;
    assert_eq!(read().await, "");
    let deny = "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}";
    fairway.api().apply(&resources(&policy("peers", deny))).await;
    assert_eq!(read().await, "");
}

#[tokio::test]
async fn bodies_are_as_long_as_the_closest_policy_says() {
    let origin = Origin::start("echo").await;
    let rules =
        format!("- {{name: upload, match: [{{uri: {{prefix: /upload}}}}], {}}}\n- {{{}}}\n", to("echo"), to("echo"));
    let resources =
        |policies: &str| Resources::edge(&[8080]).service("echo", origin.port()).routes("edge", &rules).yaml(policies);
    let fairway = Start::serve(&[8080]).run().await;
    fairway.api().apply(&resources("")).await;
    let base = format!("http://{}", fairway.listener(8080).await);
    let post = async |path: &str, length: usize| {
        let response = reqwest::Client::new().post(format!("{base}{path}")).body("x".repeat(length)).send().await;
        response.unwrap().status().as_u16()
    };
    assert_eq!((post("/", 200_000).await, post("/upload", 200_000).await), (200, 200));
    let mesh = "---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {maxRequestBodyBytes: 100}
";
    fairway.api().apply(&resources(mesh)).await;
    assert_eq!((post("/", 100).await, post("/", 101).await, post("/upload", 101).await), (200, 413, 413));
    let upload = "---
apiVersion: fairway.dev/v1
kind: BackendPolicy
metadata: {name: upload}
spec:
  targetRefs: [{kind: VirtualService, name: edge, sectionName: upload}]
  requestBody: {maxBytes: 100000}
";
    fairway.api().apply(&resources(&format!("{mesh}{upload}"))).await;
    assert_eq!((post("/", 101).await, post("/upload", 100_000).await, post("/upload", 100_001).await), (413, 200, 413));
}
