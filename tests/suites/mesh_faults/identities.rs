//! Peers that are not who they should be.

use std::net::SocketAddr;

use e2e::{Fairway, eventually};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::support::{
    Load, Place, Service, apply, control_plane, join_token, lines_with, seen, status, until_logged,
    until_nothing_is_left, until_requests_log, until_status, written,
};

const RATINGS: &str = "spiffe://cluster.local/ns/shop/sa/ratings";

#[tokio::test]
async fn a_peer_of_another_ca_or_another_account_is_no_peer() {
    let control = control_plane("24h").await;
    let reviews = Service::new(&control, "reviews").await;
    let server = reviews.place.run().await;
    // Somebody says that books answers where reviews does.
    apply(&control, &written("books", "books", reviews.inbound)).await;
    let client = Place::client(&control, "ratings", "books", 80).await;
    let caller = client.run().await;
    until_status(&client.url(), 503).await;
    let found =
        "the server is spiffe://cluster.local/ns/shop/sa/reviews, expected spiffe://cluster.local/ns/shop/sa/books";
    until_requests_log(&client.url(), &caller, &["there is no mutual TLS with an endpoint of the mesh", found]).await;

    // Another mesh of the same trust domain, which has a CA of its own.
    let other = control_plane("24h").await;
    apply(&other, &written("reviews", "reviews", reviews.inbound)).await;
    let stranger = Place::client(&other, "ratings", "reviews", 80).await;
    let strange = stranger.run().await;
    until_status(&stranger.url(), 503).await;
    let failed = ["there is no mutual TLS with an endpoint of the mesh", "UnknownIssuer"];
    until_requests_log(&stranger.url(), &strange, &failed).await;
    let refused = ["refused a connection that is not mutual TLS of the mesh", "UnknownCA"];
    until_requests_log(&stranger.url(), &server, &refused).await;
    assert_eq!(reviews.origin.requests(), 0);
    for proxy in [&caller, &strange] {
        until_nothing_is_left(proxy, 0.0, 0.0).await;
    }
}

#[tokio::test]
async fn a_stolen_token_is_of_no_use() {
    let control = control_plane("24h").await;
    let reviews = Service::new(&control, "reviews").await;
    let client = Place::client(&control, "ratings", "reviews", reviews.origin.port()).await;
    let ((used_id, used), (revoked_id, revoked)) =
        (join_token(&control, "ratings", true).await, join_token(&control, "ratings", false).await);
    client.has_token(&used);
    let (_server, caller) = (reviews.place.run().await, client.run().await);
    until_status(&client.url(), 200).await;
    let path = format!("/api/fairway/v1/join-tokens/{revoked_id}");
    assert!(control.api().request(Method::DELETE, &path).send().await.unwrap().status().is_success());

    let other_account = format!("{used_id} is for service account ratings in namespace shop");
    for (node, account, token, why) in [
        ("another", "reviews", &used, &*other_account),
        ("again", "ratings", &used, "was used already"),
        ("revoked", "ratings", &revoked, "it may have been revoked"),
    ] {
        let mut thief = Place::new(&control, node).await;
        thief.start = thief.start.replace("--service-account", account);
        thief.has_token(token);
        let thief = thief.run().await;
        until_logged(&thief, &["cannot get a certificate", why]).await;
        assert!(!thief.data_dir.join("identity.pem").exists());
        // Whoever looks after the control plane is told too.
        until_logged(&control, &["a proxy was refused", &format!("node=\"{node}\""), why]).await;
        assert_ne!(seen(&control, node).await["connected"], true);
    }
    // Whom it was stolen from goes on.
    assert_eq!(status(&client.url()).await, Ok(200));
    until_nothing_is_left(&caller, 0.0, 1.0).await;
}

#[tokio::test]
async fn who_speaks_plain_text_over_and_over_is_logged_once() {
    let control = control_plane("24h").await;
    let reviews = Service::new(&control, "reviews").await;
    let server = reviews.place.run().await;
    let client = Place::client(&control, "ratings", "reviews", reviews.origin.port()).await;
    let _caller = client.run().await;
    until_status(&client.url(), 200).await;
    for _ in 0..50 {
        assert!(status(&format!("http://{}/", reviews.inbound)).await.is_err());
    }
    until_logged(&server, &["refused a connection that is not mutual TLS of the mesh", "it speaks plain text"]).await;
    assert_eq!(lines_with(&server, "not mutual TLS of the mesh"), 1, "{}", server.log());
    assert_eq!(reviews.origin.requests(), 1);
    until_nothing_is_left(&server, 1.0, 1.0).await;
}

#[tokio::test]
async fn a_new_trust_domain_takes_over_from_its_alias_without_a_token_or_a_lost_request() {
    let control = control_plane("10s").await;
    let reviews = Service::new(&control, "reviews").await;
    let client = Place::client(&control, "ratings", "reviews", reviews.origin.port()).await;
    let (server, caller) = (reviews.place.run().await, client.run().await);
    until_status(&client.url(), 200).await;
    let (_, tokens) = control.api().get("/api/fairway/v1/join-tokens").await;
    for token in tokens["items"].as_array().unwrap() {
        let path = format!("/api/fairway/v1/join-tokens/{}", token["id"].as_str().unwrap());
        assert!(control.api().request(Method::DELETE, &path).send().await.unwrap().status().is_success());
    }
    let load = Load::start(&client.url());
    let change = "
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: shop.example, trustDomainAliases: [cluster.local]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/ratings]}}]}]
";
    apply(&control, change).await;
    for (sidecar, account) in [(&server, "reviews"), (&caller, "ratings")] {
        let id = format!("spiffe://shop.example/ns/shop/sa/{account}");
        until_logged(sidecar, &["the control plane signed a certificate", &id]).await;
    }
    load.until_fine(20).await;
    assert_eq!(load.stop().await, []);
}

/// Sends back what it gets.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

async fn echoed(stream: &mut TcpStream) -> Result<(), String> {
    let said = async {
        stream.write_all(b"hello").await?;
        stream.read_exact(&mut [0; 5]).await.map(drop)
    };
    said.await.map_err(|error: std::io::Error| error.to_string())
}

async fn set_denied(control: &Fairway, denied: bool) {
    let (api, list) = (control.api(), "/api/fairway/v1/denied-identities");
    let answer = if denied {
        api.request(Method::POST, list).json(&json!({"identity": RATINGS})).send().await
    } else {
        let path = format!("{list}/{}", RATINGS.replace('/', "%2F").replace(':', "%3A"));
        api.request(Method::DELETE, &path).send().await
    };
    assert!(answer.unwrap().status().is_success());
}

#[tokio::test]
async fn what_a_denied_identity_has_open_ends_and_the_others_go_on() {
    let control = control_plane("24h").await;
    let mut reviews = Service::new(&control, "reviews").await;
    let (port, listen) = (echo().await, SocketAddr::new(reviews.place.address, 19081));
    reviews.place.start = reviews.place.start.arg("--port").arg(format!("tcp={port}@{listen}"));
    let server = reviews.place.run().await;
    let (mut places, mut sidecars, mut streams) = (Vec::new(), Vec::new(), Vec::new());
    for account in ["ratings", "details"] {
        let client = Place::client(&control, account, "reviews", reviews.origin.port()).await;
        let client = client.standing_for("reviews", port, 9081);
        sidecars.push(client.run().await);
        until_status(&client.url(), 200).await;
        let to = SocketAddr::new(client.address, 9081);
        let stream = eventually("bytes go through", async || {
            let mut stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
            echoed(&mut stream).await.map(|()| stream)
        })
        .await;
        streams.push(stream);
        places.push(client);
    }
    let [mut denied, mut other] = <[TcpStream; 2]>::try_from(streams).unwrap();

    set_denied(&control, true).await;
    // Nobody says a word, and it ends all the same.
    assert!(matches!(denied.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    until_logged(&server, &["closed connections with another of the mesh", RATINGS, "denied"]).await;
    until_status(&places[0].url(), 503).await;
    let refused = ["refused a connection that is not mutual TLS of the mesh", RATINGS, "denied"];
    until_requests_log(&places[0].url(), &server, &refused).await;
    assert_eq!(echoed(&mut other).await, Ok(()), "{}", server.log());
    assert_eq!(status(&places[1].url()).await, Ok(200));

    set_denied(&control, false).await;
    until_status(&places[0].url(), 200).await;
    drop((denied, other));
    for sidecar in &sidecars {
        until_nothing_is_left(sidecar, 0.0, 1.0).await;
    }
}
