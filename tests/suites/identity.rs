//! The proxies' certificates of the mesh, on real processes: how they come, how they are renewed, and what happens when
//! they are not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use e2e::process::{joined_gateway, joined_sidecar};
use e2e::{Authority, Fairway, Start, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Long enough to be renewed on a loaded machine, short enough to wait for its end.
const TTL: &str = "10s";

fn control_plane(ttl: &str) -> Start {
    Start::admin().arg("--cert-ttl").arg(ttl)
}

/// A metric without labels, or with these in braces.
async fn metric(proxy: &Fairway, name: &str) -> Option<f64> {
    let text = reqwest::get(format!("http://{}/metrics", proxy.address("metrics"))).await.ok()?.text().await.ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

async fn signed(proxy: &Fairway) -> f64 {
    metric(proxy, "fairway_certificate_requests_total{result=\"signed\"}").await.unwrap_or_default()
}

async fn until_signed(proxy: &Fairway, times: f64) {
    eventually(&format!("{times} certificates"), async || {
        let signed = signed(proxy).await;
        if signed >= times { Ok(()) } else { Err((signed, proxy.log())) }
    })
    .await;
}

async fn until_logged(proxy: &Fairway, text: &str) {
    eventually(&format!("{text:?} is logged"), async || {
        let log = proxy.log();
        if log.contains(text) { Ok(()) } else { Err(log) }
    })
    .await;
}

/// What the control plane says of a proxy.
async fn seen(control_plane: &Fairway, node: &str) -> Value {
    control_plane.api().get(&format!("/api/fairway/v1/proxies/{node}")).await.1
}

async fn until_connected_by_certificate(control_plane: &Fairway, node: &str, id: &str) {
    eventually(&format!("{node} is there with its certificate"), async || {
        let proxy = seen(control_plane, node).await;
        if proxy["connected"] == true && proxy["identity"] == id { Ok(()) } else { Err(proxy) }
    })
    .await;
}

async fn revoke_all_tokens(control_plane: &Fairway) {
    let (_, tokens) = control_plane.api().get("/api/fairway/v1/join-tokens").await;
    for token in tokens["items"].as_array().unwrap() {
        let path = format!("/api/fairway/v1/join-tokens/{}", token["id"].as_str().unwrap());
        assert!(control_plane.api().request(Method::DELETE, &path).send().await.unwrap().status().is_success());
    }
}

fn identity(folder: &Path) -> String {
    fs::read_to_string(folder.join("identity.pem")).unwrap_or_default()
}

/// The roots that a proxy trusts, as it keeps them.
fn roots(folder: &Path) -> usize {
    fs::read_to_string(folder.join("trust.json")).unwrap_or_default().matches("BEGIN CERTIFICATE").count()
}

const REVIEWS: &str = "spiffe://cluster.local/ns/shop/sa/reviews";
const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/default";

#[tokio::test]
async fn sidecars_and_gateways_renew_their_certificates_and_never_leave() {
    let control_plane = Start::serve(&[]).arg("--cert-ttl").arg(TTL).run().await;
    let sidecar = joined_sidecar(&control_plane, "shop", "reviews").await.arg("--node-id").arg("reviews-1").run().await;
    let gateway = joined_gateway(&control_plane, &[]).await.arg("--node-id").arg("edge-1").standalone().run().await;
    for proxy in [&sidecar, &gateway, &control_plane] {
        until_signed(proxy, 1.0).await;
        let left = metric(proxy, "fairway_certificate_expiry_seconds").await.unwrap();
        assert!((0.0..=10.0).contains(&left), "{left}");
    }
    until_connected_by_certificate(&control_plane, "reviews-1", REVIEWS).await;
    until_connected_by_certificate(&control_plane, "edge-1", GATEWAY).await;

    // From here on the certificates have to do.
    revoke_all_tokens(&control_plane).await;
    let before = identity(&sidecar.data_dir);
    for proxy in [&sidecar, &gateway, &control_plane] {
        until_signed(proxy, 3.0).await;
    }
    assert_ne!(identity(&sidecar.data_dir), before, "the newest is kept");
    until_connected_by_certificate(&control_plane, "reviews-1", REVIEWS).await;
    until_connected_by_certificate(&control_plane, "edge-1", GATEWAY).await;
    for proxy in [&sidecar, &gateway] {
        let log = proxy.log();
        assert!(!log.contains("lost the control plane"), "a renewal must not interrupt the stream: {log}");
    }
}

#[tokio::test]
async fn a_control_plane_that_was_away_past_an_expiry_renews_when_it_is_back() {
    let mut control = control_plane(TTL).run().await;
    let (push, folder) = (control.address("push"), control.data_dir.clone());
    // Kept when the first control plane's process is gone.
    let copy = TempDir::new().unwrap();
    let sidecar = joined_sidecar(&control, "shop", "reviews").await.data_dir(&copy.path().join("sidecar"));
    let sidecar = sidecar.arg("--node-id").arg("reviews-1").run().await;
    until_signed(&sidecar, 1.0).await;
    until_connected_by_certificate(&control, "reviews-1", REVIEWS).await;

    control.stop().await;
    until_logged(&sidecar, "cannot renew the certificate, the one there is is good").await;
    until_logged(&sidecar, "the certificate has expired: no proxy of the mesh accepts this one now").await;
    assert!(metric(&sidecar, "fairway_certificate_expiry_seconds").await.unwrap() <= 0.0);
    assert!(metric(&sidecar, "fairway_certificate_requests_total{result=\"failed\"}").await.unwrap() > 0.0);

    let before = signed(&sidecar).await;
    let control = control_plane(TTL).push_at(&push).data_dir(&folder).run().await;
    until_signed(&sidecar, before + 1.0).await;
    until_connected_by_certificate(&control, "reviews-1", REVIEWS).await;
    eventually("a good certificate", async || metric(&sidecar, "fairway_certificate_expiry_seconds").await > Some(0.0))
        .await;
}

#[tokio::test]
async fn a_sidecar_starts_again_without_its_control_plane_and_without_its_token() {
    let mut control = control_plane("24h").run().await;
    let copy = TempDir::new().unwrap();
    let own = copy.path().join("sidecar");
    let started = copy.path().join("started").display().to_string();
    let start = async |control: &Fairway| {
        let words = ["sh", "-c", "echo x > $0; exec sleep 1000", &started];
        let start = joined_sidecar(control, "shop", "reviews").await.data_dir(&own);
        start.arg("--wait-ready").application(&words)
    };
    let (first, again) = (start(&control).await, start(&control).await);
    let mut sidecar = first.run().await;
    eventually("the application is started", async || Path::new(&started).exists()).await;
    sidecar.stop().await;
    let kept = identity(&own);
    fs::remove_file(&started).unwrap();
    control.stop().await;
    fs::remove_file(control.data_dir.join("join.token")).unwrap();

    let mut sidecar = again.run().await;
    eventually("the application is started again", async || Path::new(&started).exists()).await;
    let log = sidecar.log();
    for said in ["using the certificate that was kept", "there is no join token any more", "cannot reach the control"] {
        until_logged(&sidecar, said).await;
    }
    assert!(!log.contains("cannot get a certificate"), "{log}");
    assert_eq!(identity(&own), kept);
    sidecar.stop().await;
}

#[tokio::test]
async fn a_new_sidecar_without_a_control_plane_of_the_right_ca_waits_and_says_so() {
    let control = control_plane("24h").run().await;
    let folder = TempDir::new().unwrap();
    let (ca, started) = (folder.path().join("ca.crt"), folder.path().join("started").display().to_string());
    let start = joined_sidecar(&control, "shop", "reviews").await;
    fs::write(&ca, Authority::default().pem()).unwrap();
    let start = start.replace("--control-plane-ca", &ca.display().to_string());
    let mut sidecar = start.arg("--wait-ready").application(&["touch", &started]).run().await;
    until_logged(&sidecar, "cannot get a certificate; until there is one no proxy of the mesh accepts this one").await;
    until_logged(&sidecar, "UnknownIssuer").await;
    until_logged(&sidecar, "the application is started when there is a configuration and a certificate").await;
    assert!(!Path::new(&started).exists());
    assert_eq!(metric(&sidecar, "fairway_certificate_expiry_seconds").await, None);
    assert_eq!(sidecar.stop().await.code(), Some(143));
}

#[tokio::test]
async fn a_token_for_one_use_is_refused_to_a_second_proxy_and_enough_for_the_first() {
    let control = control_plane("24h").run().await;
    let folder = TempDir::new().unwrap();
    let start = async |name: &str, token: &str| {
        let file = folder.path().join("token");
        fs::write(&file, token).unwrap();
        let start = joined_sidecar(&control, "shop", "reviews").await.data_dir(&folder.path().join(name));
        start.replace("--join-token-file", &file.display().to_string()).arg("--node-id").arg(name)
    };
    let body = json!({"namespace": "shop", "serviceAccount": "reviews", "ttl": "1h", "singleUse": true});
    let (_, answer) = control.api().post("/api/fairway/v1/join-tokens", &body).await;
    let token = answer["token"].as_str().unwrap().to_owned();

    let mut first = start("reviews-1", &token).await.run().await;
    until_connected_by_certificate(&control, "reviews-1", REVIEWS).await;
    let thief = start("reviews-2", &token).await.run().await;
    until_logged(&thief, "was used already; make another").await;
    assert_eq!(identity(&thief.data_dir), "");
    assert_ne!(seen(&control, "reviews-2").await["connected"], true);

    // Its certificate lets the first one in again.
    first.stop().await;
    let first = start("reviews-1", &token).await.run().await;
    until_logged(&first, "using the certificate that was kept").await;
    until_connected_by_certificate(&control, "reviews-1", REVIEWS).await;
    assert!(signed(&first).await < 1.0, "nothing had to be signed");
}

#[tokio::test]
async fn a_denied_proxy_is_not_renewed_and_says_why_until_it_is_allowed_again() {
    let control = control_plane(TTL).run().await;
    let sidecar = joined_sidecar(&control, "shop", "reviews").await.arg("--node-id").arg("reviews-1").run().await;
    let other = joined_sidecar(&control, "shop", "ratings").await.run().await;
    until_connected_by_certificate(&control, "reviews-1", REVIEWS).await;
    let (status, answer) = control.api().post("/api/fairway/v1/denied-identities", &json!({"identity": REVIEWS})).await;
    assert!(status.is_success(), "{answer}");
    let denied = "the identity spiffe://cluster.local/ns/shop/sa/reviews is denied";
    until_logged(&sidecar, denied).await;
    until_logged(&sidecar, "the certificate has expired: no proxy of the mesh accepts this one now").await;
    eventually("the others know whom to refuse", async || {
        fs::read_to_string(other.data_dir.join("trust.json")).unwrap_or_default().contains(REVIEWS)
    })
    .await;

    let before = signed(&sidecar).await;
    let path = format!("/api/fairway/v1/denied-identities/{}", REVIEWS.replace('/', "%2F").replace(':', "%3A"));
    assert!(control.api().request(Method::DELETE, &path).send().await.unwrap().status().is_success());
    until_signed(&sidecar, before + 1.0).await;
    until_connected_by_certificate(&control, "reviews-1", REVIEWS).await;
}

#[tokio::test]
async fn proxies_follow_from_one_root_to_the_next_and_find_their_control_plane_by_it() {
    let mut control = control_plane(TTL).run().await;
    let (push, folder) = (control.address("push"), control.data_dir.clone());
    let copy = TempDir::new().unwrap();
    let own = copy.path().join("sidecar");
    // The root of the first day, which nobody replaces in its file.
    let ca = copy.path().join("ca.crt");
    fs::copy(control.data_dir.join("ca.crt"), &ca).unwrap();
    let start = joined_sidecar(&control, "shop", "reviews").await.data_dir(&own).arg("--node-id").arg("reviews-1");
    let sidecar = start.replace("--control-plane-ca", &ca.display().to_string()).run().await;
    until_connected_by_certificate(&control, "reviews-1", REVIEWS).await;

    let (status, answer) = control.api().post("/api/fairway/v1/ca/rotate", &json!({"overlap": TTL})).await;
    assert!(status.is_success(), "{answer}");
    eventually("both roots", async || roots(&own) == 2).await;
    eventually("the new root alone", async || roots(&own) == 1).await;
    let before = signed(&sidecar).await;
    until_signed(&sidecar, before + 1.0).await;
    assert!(!sidecar.log().contains("lost the control plane"), "{}", sidecar.log());

    control.stop().await;
    let control = control_plane(TTL).push_at(&push).data_dir(&folder).run().await;
    until_connected_by_certificate(&control, "reviews-1", REVIEWS).await;
    let before = signed(&sidecar).await;
    until_signed(&sidecar, before + 1.0).await;
}
