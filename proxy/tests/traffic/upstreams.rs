//! What clusters do with requests: ceilings, endpoints that fail, keys that stay where they are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proxy::Proxy;
use route_model::table::Cluster;
use route_model::table::cluster::LoadBalancer;
use route_model::table::hash::{ConsistentHash, HashAlgorithm, HashCookie, HashKey};
use route_model::table::upstream::{CircuitBreakers, ConnectionSettings, OutlierDetection, UpstreamPolicy};

use crate::client::{Http1, Reply};
use crate::origin::{OK, Origin, Scripted};
use crate::table::{cluster, everything_to};
use crate::{addr, apply, start};

const BAD: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

async fn proxying(cluster: Cluster) -> Proxy {
    let proxy = start(1);
    apply(&proxy, everything_to(cluster)).await;
    proxy
}

fn governed(cluster: Cluster, policy: UpstreamPolicy) -> Cluster {
    Cluster { policy, ..cluster }
}

fn limited(cluster: Cluster, limits: CircuitBreakers) -> Cluster {
    governed(cluster, UpstreamPolicy { limits, ..UpstreamPolicy::default() })
}

fn assert_overflow(reply: &Reply) {
    assert_eq!((reply.status, reply.header("x-envoy-overloaded")), (503, Some("true")));
    assert!(reply.text().ends_with("overflow"), "{}", reply.text());
}

#[tokio::test]
async fn requests_beyond_the_ceiling_are_turned_away_at_once() {
    let origin = Scripted::new().await;
    let limits = CircuitBreakers { requests: 1, ..CircuitBreakers::default() };
    let proxy = proxying(limited(cluster("o", &[origin.addr]), limits)).await;
    let (mut first, mut second) = (Http1::connect(addr(&proxy, 80)).await, Http1::connect(addr(&proxy, 80)).await);
    first.send(GET).await;
    let mut upstream = origin.accept_request().await;
    second.send(GET).await;
    assert_overflow(&second.reply().await);
    upstream.send(OK).await;
    assert_eq!(first.reply().await.status, 200);
    // There is room again.
    second.send(GET).await;
    upstream.request().await;
    upstream.send(OK).await;
    assert_eq!(second.reply().await.status, 200);
}

#[tokio::test]
async fn requests_wait_for_a_connection_and_only_so_many() {
    let origin = Scripted::new().await;
    let limits = CircuitBreakers { connections: 1, pending: 1, ..CircuitBreakers::default() };
    let proxy = proxying(limited(cluster("o", &[origin.addr]), limits)).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Http1::connect(addr(&proxy, 80)).await);
    }
    clients[0].send(GET).await;
    let mut upstream = origin.accept_request().await;
    clients[1].send(GET).await;
    assert!(origin.is_left_alone().await);
    clients[2].send(GET).await;
    assert_overflow(&clients[2].reply().await);
    upstream.send(OK).await;
    assert_eq!(clients[0].reply().await.status, 200);
    // The one that waited takes over the connection.
    upstream.request().await;
    upstream.send(OK).await;
    assert_eq!(clients[1].reply().await.status, 200);
}

#[tokio::test]
async fn a_connection_carries_no_more_than_it_may() {
    let origin = Origin::http1("o").await;
    let connections = ConnectionSettings { max_requests: Some(2), ..ConnectionSettings::default() };
    let policy = UpstreamPolicy { connections, ..UpstreamPolicy::default() };
    let proxy = proxying(governed(cluster("o", &[origin.addr]), policy)).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for _ in 0..6 {
        assert_eq!(client.get("h", "/").await.status, 200);
    }
    assert_eq!(origin.connections(), 3);
}

fn outlier(interval: Duration) -> UpstreamPolicy {
    let outlier = OutlierDetection {
        consecutive_5xx: 2,
        consecutive_gateway_errors: 0,
        local_failures: None,
        codes: Box::default(),
        interval,
        base_ejection_time: interval,
        max_ejection_percent: 50,
        min_health_percent: 0,
    };
    UpstreamPolicy { outlier: Some(outlier), ..UpstreamPolicy::default() }
}

/// Sends requests until one reaches the scripted origin, which gives it this answer.
async fn until_it_reaches(client: &mut Http1, bad: &Scripted, answer: &str) -> Http1 {
    loop {
        client.send(GET).await;
        tokio::select! {
            mut upstream = bad.accept() => {
                upstream.request().await;
                upstream.send(answer).await;
                client.reply().await;
                return upstream;
            }
            reply = client.reply() => assert_eq!(reply.status, 200),
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_again_and_again_is_left_alone_for_a_while() {
    let (good, bad) = (Origin::http1("good").await, Scripted::new().await);
    let cluster = governed(cluster("o", &[good.addr, bad.addr]), outlier(Duration::from_millis(200)));
    let proxy = proxying(Cluster { load_balancer: LoadBalancer::RoundRobin, ..cluster }).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for _ in 0..2 {
        drop(until_it_reaches(&mut client, &bad, BAD).await);
    }
    for _ in 0..6 {
        assert_eq!(client.get("h", "/").await.status, 200);
    }
    // Its time passes, and it has its turn again.
    until_it_reaches(&mut client, &bad, OK).await;
}

fn hashed(cluster: Cluster, key: HashKey) -> Cluster {
    let hash = ConsistentHash { key, algorithm: HashAlgorithm::Ring(1024) };
    Cluster { load_balancer: LoadBalancer::Hash(Arc::new(hash)), ..cluster }
}

#[tokio::test]
async fn requests_of_one_key_stay_together() {
    let origins = [Origin::http1("a").await, Origin::http1("b").await, Origin::http1("c").await];
    let addresses = origins.each_ref().map(|origin| origin.addr);
    let key = HashKey::Header(http::HeaderName::from_static("x-user"));
    let proxy = proxying(hashed(cluster("o", &addresses), key)).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    let mut used = BTreeSet::new();
    for user in 0..30 {
        let mut places = BTreeSet::new();
        for _ in 0..3 {
            client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nX-User: {user}\r\n\r\n")).await;
            places.insert(client.reply().await.header("x-origin").unwrap().to_owned());
        }
        assert_eq!(places.len(), 1, "user {user}: {places:?}");
        used.append(&mut places);
    }
    assert_eq!(used.len(), 3, "{used:?}");
}

#[tokio::test]
async fn a_client_is_given_the_cookie_that_brings_it_back() {
    let origins = [Origin::http1("a").await, Origin::http1("b").await, Origin::http1("c").await];
    let addresses = origins.each_ref().map(|origin| origin.addr);
    let ttl = Some(Duration::from_mins(1));
    let cookie = HashCookie { name: "at".into(), ttl, path: "/".into(), attributes: Box::default() };
    let proxy = proxying(hashed(cluster("o", &addresses), HashKey::Cookie(cookie))).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for _ in 0..10 {
        let first = client.get("h", "/").await;
        let issued = first.header("set-cookie").unwrap().to_owned();
        assert!(issued.ends_with("; Max-Age=60; Path=/; HttpOnly"), "{issued}");
        let sent = issued.split(';').next().unwrap();
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nCookie: {sent}\r\n\r\n")).await;
        let again = client.reply().await;
        assert_eq!(again.header("x-origin"), first.header("x-origin"));
        assert_eq!(again.header("set-cookie"), None);
    }
}
