//! Services that find each other and speak by mutual TLS, because each has a sidecar: with explicit capture, on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use e2e::process::{joined_gateway, joined_sidecar};
use e2e::{Fairway, Origin, Resources, Start, eventually};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// The namespace of the services, and mutual TLS everywhere.
const STRICT: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
";

/// A sidecar's own address on loopback, so that everybody has the usual ports.
fn host() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// A service with its sidecar.
struct Member {
    origin: Origin,
    sidecar: Fairway,
    /// Where others reach its application: at its sidecar.
    inbound: SocketAddr,
}

/// A service on an application's port 9080, of the service account of its name, and of a version.
async fn service(control_plane: &Fairway, name: &str, version: &str) -> Member {
    let address = host();
    let origin = Origin::bind(&format!("{name}-{version}"), "127.0.0.1:0".parse().unwrap()).await;
    let inbound = SocketAddr::new(address, 19080);
    let sidecar = start(control_plane, name, address)
        .await
        .arg("--service")
        .arg(name)
        .arg("--port")
        .arg(format!("http={}@{inbound}", origin.port()))
        .arg("--labels")
        .arg(format!("app={name},version={version}"))
        .run()
        .await;
    Member { origin, sidecar, inbound }
}

async fn start(control_plane: &Fairway, account: &str, address: IpAddr) -> Start {
    let start = joined_sidecar(control_plane, "shop", account).await;
    start.arg("--capture").arg("explicit").replace("--outbound-addr", &SocketAddr::new(address, 15001).to_string())
}

/// A client's sidecar, with a listener that stands for a service.
async fn client(control_plane: &Fairway, account: &str, service: &str, port: u16) -> (Fairway, String) {
    let address = host();
    let listen = SocketAddr::new(address, 9080);
    let start = start(control_plane, account, address).await;
    let sidecar = start.arg("--bind-service").arg(format!("{service}:{port}={listen}")).run().await;
    (sidecar, format!("http://{listen}"))
}

async fn apply(control_plane: &Fairway, yaml: &str) {
    control_plane.api().apply_without_waiting(&Resources::default().yaml(yaml)).await;
}

/// What a service answers once it is reached.
async fn reached(url: &str) -> Value {
    eventually(&format!("{url} answers"), async || {
        let answer = reqwest::get(url).await.map_err(|error| error.to_string())?;
        let (status, text) = (answer.status(), answer.text().await.map_err(|error| error.to_string())?);
        if status == StatusCode::OK {
            Ok(serde_json::from_str(&text).unwrap())
        } else {
            Err(format!("{status} {text}"))
        }
    })
    .await
}

async fn until_status(url: &str, wanted: u16) {
    eventually(&format!("{url} answers {wanted}"), async || {
        let status = reqwest::get(url).await.map_err(|error| error.to_string())?.status();
        if status == wanted { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

fn header<'a>(answer: &'a Value, name: &str) -> Option<&'a str> {
    let pairs = answer["headers"].as_array().unwrap();
    pairs.iter().find(|pair| pair[0] == name).and_then(|pair| pair[1].as_str())
}

#[tokio::test]
async fn services_find_each_other_and_show_who_they_are() {
    let control_plane = Start::admin().run().await;
    apply(&control_plane, STRICT).await;
    let reviews = service(&control_plane, "reviews", "v1").await;
    let (_ratings, base) = client(&control_plane, "ratings", "reviews", reviews.origin.port()).await;
    let answer = reached(&format!("{base}/api?q=1")).await;
    assert_eq!((&answer["origin"], &answer["target"]), (&json!("reviews-v1"), &json!("/api?q=1")), "{answer}");
    let certificate = header(&answer, "x-forwarded-client-cert").unwrap();
    assert!(certificate.contains("By=spiffe://cluster.local/ns/shop/sa/reviews;"), "{certificate}");
    assert!(certificate.ends_with("URI=spiffe://cluster.local/ns/shop/sa/ratings"), "{certificate}");

    // Whoever has no certificate of the mesh is turned away before a byte of HTTP.
    let error = reqwest::get(format!("http://{}/", reviews.inbound)).await.unwrap_err();
    assert!(error.is_request(), "{error:?}");
    eventually("the log says why", async || reviews.sidecar.log().contains("refused a connection")).await;
}

#[tokio::test]
async fn the_rules_of_the_edge_hold_between_services() {
    let control_plane = Start::admin().run().await;
    apply(&control_plane, STRICT).await;
    let first = service(&control_plane, "reviews", "v1").await;
    let (_ratings, base) = client(&control_plane, "ratings", "reviews", first.origin.port()).await;
    reached(&base).await;
    let rules = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /fault}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 418}}
    route: [{destination: {host: reviews, subset: v1}}]
  - match: [{headers: {tester: {exact: 'yes'}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - match: [{uri: {prefix: /old}}]
    rewrite: {uri: /new}
    route: [{destination: {host: reviews, subset: v1}}]
  - route: [{destination: {host: reviews, subset: v1}}]
";
    apply(&control_plane, rules).await;
    until_status(&format!("{base}/fault"), 418).await;
    assert_eq!(reached(&format!("{base}/old/1")).await["target"], "/new/1");
    let tester = reqwest::Client::new();
    let ask = async || tester.get(format!("{base}/x")).header("tester", "yes").send().await.unwrap();
    assert_eq!(ask().await.status(), 503, "nobody is v2 yet");
    let _second = service(&control_plane, "reviews", "v2").await;
    eventually("testers are answered by v2", async || {
        let answer = ask().await;
        if answer.status() == 200 { Ok(answer.text().await.unwrap()) } else { Err(answer.status().to_string()) }
    })
    .await;
}

#[tokio::test]
async fn who_may_ask_is_decided_by_identity() {
    let control_plane = Start::admin().run().await;
    let rules = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/ratings]}}]
    to: [{operation: {methods: [GET], paths: [/open/*]}}]
";
    apply(&control_plane, &format!("{STRICT}---{rules}")).await;
    let reviews = service(&control_plane, "reviews", "v1").await;
    let (_ratings, ratings) = client(&control_plane, "ratings", "reviews", reviews.origin.port()).await;
    let (_details, details) = client(&control_plane, "details", "reviews", reviews.origin.port()).await;
    reached(&format!("{ratings}/open/1")).await;
    until_status(&format!("{ratings}/closed"), 403).await;
    until_status(&format!("{details}/open/1"), 403).await;
    assert_eq!(reviews.origin.requests(), 1);
}

#[tokio::test]
async fn a_gateway_leads_into_the_mesh() {
    let control_plane = Start::admin().run().await;
    apply(&control_plane, STRICT).await;
    let reviews = service(&control_plane, "reviews", "v1").await;
    let gateway = joined_gateway(&control_plane, &[8080]).await.run().await;
    let port = reviews.origin.port();
    let edge = Resources::edge(&[8080]).routes(
        "edge",
        &format!("[{{route: [{{destination: {{host: reviews.shop.svc.cluster.local, port: {{number: {port}}}}}}}]}}]"),
    );
    control_plane.api().apply_without_waiting(&edge).await;
    let answer = reached(&format!("http://{}/", gateway.listener(8080).await)).await;
    let certificate = header(&answer, "x-forwarded-client-cert").unwrap();
    assert!(certificate.contains("URI=spiffe://cluster.local/ns/istio-system/sa/"), "{certificate}");
}

#[tokio::test]
async fn a_forward_proxy_reaches_services_and_the_rest_of_the_world() {
    let control_plane = Start::admin().run().await;
    apply(&control_plane, STRICT).await;
    let reviews = service(&control_plane, "reviews", "v1").await;
    let elsewhere = Origin::start("elsewhere").await;
    let address = host();
    let _sidecar = start(&control_plane, "ratings", address).await.run().await;
    let proxy = reqwest::Proxy::http(format!("http://{}", SocketAddr::new(address, 15001))).unwrap();
    let http = reqwest::Client::builder().proxy(proxy).build().unwrap();
    let get = async |url: String| {
        eventually(&format!("{url} answers"), async || {
            let answer = http.get(&url).send().await.map_err(|error| error.to_string())?;
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            if status == 200 {
                Ok(serde_json::from_str::<Value>(&text).unwrap())
            } else {
                Err(format!("{status} {text}"))
            }
        })
        .await
    };
    for host in ["reviews", "reviews.shop", "reviews.shop.svc.cluster.local"] {
        let answer = get(format!("http://{host}:{}/", reviews.origin.port())).await;
        assert_eq!(answer["origin"], "reviews-v1", "{host}");
        assert!(header(&answer, "x-forwarded-client-cert").is_some(), "{answer}");
    }
    let answer = get(format!("http://{}/", elsewhere.address)).await;
    assert_eq!((&answer["origin"], header(&answer, "x-forwarded-client-cert")), (&json!("elsewhere"), None));
    let closed = "
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
";
    apply(&control_plane, closed).await;
    eventually("what is not declared is refused", async || {
        http.get(format!("http://{}/", elsewhere.address)).send().await.is_ok_and(|answer| answer.status() == 502)
    })
    .await;
    get(format!("http://reviews:{}/", reviews.origin.port())).await;
}
