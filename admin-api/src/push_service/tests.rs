//! Proxies against a control plane: over the pipe and over TLS, on an embedded store.

mod identity;
mod proxies;
mod support;
mod workloads;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use push::MODEL_VERSION;
use push::message::{Ack, Hello, Issue, Key};
use push::server::{Caller, ControlPlane, Event, Peer, SessionId};
use route_model::kind::Kind;
use route_model::meta::{ResourceKey, Revision};
use serde_json::{Value, json};
use testkit::eventually;
use tokio::time::Instant;

use self::support::{Database, Replica, follow_to, names, next, options, until_waiting};
use crate::store::TokenHash;
use push::client::{Subscriber, SubscriberOptions, Token};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_acknowledged_within_a_moment() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let revision = replica.gateway("shop/edge").await;
    let mut proxy = Subscriber::start(options("edge-1", "istio-system"), replica.pipe());
    let update = follow_to(&mut proxy, revision).await;
    assert_eq!(names(&update.held), ["Gateway shop/edge"]);

    let mut times = Vec::new();
    for number in 0..40 {
        let began = Instant::now();
        let revision = replica.route("shop/site", &format!("answer {number}")).await;
        let update = next(&mut proxy).await;
        assert_eq!(update.revision(), revision);
        proxy.ack(revision, vec![]);
        replica.until_acked("edge-1", revision).await;
        times.push(began.elapsed());
    }
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_millis(100), "{times:?}");
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_proxy_runs_and_what_not_is_seen() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let revision = replica.gateway("shop/edge").await;
    let mut proxy = Subscriber::start(options("edge-1", "istio-system"), replica.pipe());
    let mut update = next(&mut proxy).await;
    while update.revision() < revision {
        proxy.ack(update.revision(), vec![]);
        update = next(&mut proxy).await;
    }
    let key = Key { kind: "Gateway".into(), namespace: "shop".into(), name: "edge".into() };
    proxy.ack(revision, vec![Issue::new(Some(key), "PortInUse", "port 80 is taken")]);
    replica.until_acked("edge-1", revision).await;

    let acks = replica.service.acks().borrow().clone();
    assert_eq!((acks.len(), acks[0].connected, acks[0].acked), (1, true, revision));
    assert_eq!(acks[0].issues[0].resource.to_string(), "Gateway shop/edge");

    let (status, list) = replica.call("GET", "/api/fairway/v1/proxies", None).await;
    assert_eq!(status, StatusCode::OK);
    let shown = &list["items"][0];
    assert_eq!((shown["id"].as_str(), shown["connected"].as_bool()), (Some("edge-1"), Some(true)));
    assert_eq!(shown["ackedRevision"], revision.0);
    assert_eq!((shown["namespace"].as_str(), shown["address"].as_str()), (Some("istio-system"), Some("in-process")));
    assert_eq!(shown["issues"][0]["reason"], "PortInUse");
    assert_eq!(shown["issues"][0]["resource"]["name"], "edge");
    let (_, alone) = replica.call("GET", "/api/fairway/v1/proxies/edge-1", None).await;
    assert_eq!((&alone["id"], &alone["issues"]), (&shown["id"], &shown["issues"]));
    let (status, problem) = replica.call("GET", "/api/fairway/v1/proxies/edge-2", None).await;
    assert_eq!((status, problem["detail"].as_str()), (StatusCode::NOT_FOUND, Some("no proxy \"edge-2\" is known")));

    // A revision that brings this proxy nothing is in force there at once.
    let beside = replica.put(Kind::WorkloadEntry, "shop/vm", json!({"address": "10.0.0.1"})).await;
    replica.until_acked("edge-1", beside).await;

    drop(proxy);
    let gone = async || replica.service.acks().borrow().iter().all(|ack| !ack.connected);
    eventually("the proxy to be gone", gone).await;
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_lets_proxies_of_its_namespace_in_and_nobody_else() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let revision = replica.gateway("shop/edge").await;
    let token = replica.join_token(&json!({"namespace": "edge", "ttl": "1h"})).await;

    let with = |text: Option<&str>, namespace: &str| SubscriberOptions {
        token: text.map(|text| Token::new(text).unwrap()),
        ..options("edge-1", namespace)
    };
    for (text, namespace, reason) in [
        (None, "edge", "a join token is required"),
        (Some("fwj_guessed"), "edge", "the join token is not known"),
        (Some(token.as_str()), "other", "is for proxies in namespace edge, this one says it is in other"),
    ] {
        let proxy = Subscriber::start(with(text, namespace), replica.tls(&replica.ca));
        let refused = until_waiting(&proxy).await;
        assert!(refused.starts_with("the control plane refused:") && refused.contains(reason), "{refused}");
    }
    for name in ["edge-1", "edge-2"] {
        let proxy = SubscriberOptions { token: Some(Token::new(&token).unwrap()), ..options(name, "edge") };
        let mut proxy = Subscriber::start(proxy, replica.tls(&replica.ca));
        follow_to(&mut proxy, revision).await;
        replica.until_acked(name, revision).await;
    }
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_claims_the_service_account_of_its_token_and_no_other() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let revision = replica.gateway("shop/edge").await;
    let token = replica.join_token(&json!({"namespace": "shop", "serviceAccount": "reviews"})).await;
    let start = |node: &str, service_account: &str| {
        let token = Some(Token::new(&token).unwrap());
        let service_account = service_account.to_owned();
        Subscriber::start(
            SubscriberOptions { token, service_account, ..options(node, "shop") },
            replica.tls(&replica.ca),
        )
    };
    for (claimed, shown) in [("ratings", "ratings"), ("", "default")] {
        let refused = until_waiting(&start("reviews-1", claimed)).await;
        let reason = format!("is for service account reviews in namespace shop, this proxy says it runs as {shown}");
        assert!(refused.contains(&reason), "{refused}");
    }
    follow_to(&mut start("reviews-1", "reviews"), revision).await;
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_another_ca_signed_is_not_trusted() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let other = Replica::start(&Database::new().await).await;
    let proxy = Subscriber::start(options("edge-1", "edge"), replica.tls(&other.ca));
    let reason = until_waiting(&proxy).await;
    assert!(reason.contains("certificate"), "{reason}");
    replica.end().await;
    other.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_one_lets_one_in_who_may_come_back() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let revision = replica.gateway("shop/edge").await;
    let token = replica.join_token(&json!({"namespace": "edge", "singleUse": true})).await;
    let start = |node: &str, replica: &Replica| {
        let token = Some(Token::new(&token).unwrap());
        Subscriber::start(SubscriberOptions { token, ..options(node, "edge") }, replica.tls(&replica.ca))
    };
    let mut first = start("edge-1", &replica);
    follow_to(&mut first, revision).await;
    replica.until_acked("edge-1", revision).await;
    let refused = until_waiting(&start("edge-2", &replica)).await;
    assert!(refused.contains("was used already"), "{refused}");
    drop(first);
    replica.end().await;

    // After a restart, too.
    let replica = Replica::start(&database).await;
    next(&mut start("edge-1", &replica)).await;
    let refused = until_waiting(&start("edge-2", &replica)).await;
    assert!(refused.contains("was used already"), "{refused}");
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_lets_nobody_new_in_but_members_back() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let revision = replica.gateway("shop/edge").await;
    let token = replica.join_token(&json!({"namespace": "edge", "ttl": "2s"})).await;
    let hash = TokenHash::of(&token);
    let start = |node: &str| {
        let token = Some(Token::new(&token).unwrap());
        Subscriber::start(SubscriberOptions { token, ..options(node, "edge") }, replica.tls(&replica.ca))
    };
    let mut member = start("edge-1");
    follow_to(&mut member, revision).await;
    replica.until_acked("edge-1", revision).await;
    drop(member);

    let expired = async || {
        let token = replica.snapshot.view().token(&hash).cloned()?;
        (!token.is_valid(jiff::Timestamp::now())).then_some(())
    };
    eventually("the token to expire", expired).await;
    let refused = until_waiting(&start("edge-2")).await;
    assert!(refused.contains("has expired; make another"), "{refused}");
    next(&mut start("edge-1")).await;

    let (_, tokens) = replica.call("GET", "/api/fairway/v1/join-tokens", None).await;
    assert_eq!(tokens["items"][0]["valid"], false);
    let id = tokens["items"][0]["id"].as_str().unwrap().to_owned();
    let revoke = format!("/api/fairway/v1/join-tokens/{id}");
    assert_eq!(replica.call("DELETE", &revoke, None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(replica.call("DELETE", &revoke, None).await.0, StatusCode::NOT_FOUND);
    eventually("the token to be gone", async || replica.snapshot.view().token(&hash).is_none()).await;
    let refused = until_waiting(&start("edge-1")).await;
    assert!(refused.contains("it may have been revoked"), "{refused}");
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_at_one_replica_is_known_at_the_other_within_a_moment() {
    let databases = Database::shared().await;
    let (one, two) = (Replica::start(&databases[0]).await, Replica::start(&databases[1]).await);
    let revision = one.gateway("shop/edge").await;
    let mut proxy = Subscriber::start(options("edge-1", "istio-system"), two.pipe());
    follow_to(&mut proxy, revision).await;
    one.until_acked("edge-1", revision).await;
    let mut times = Vec::new();
    for number in 0..20 {
        let began = Instant::now();
        let revision = one.route("shop/site", &format!("answer {number}")).await;
        follow_to(&mut proxy, revision).await;
        one.until_acked("edge-1", revision).await;
        times.push(began.elapsed());
    }
    times.sort();
    println!("written at one, acknowledged at the other, known at the first: {:?} … {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(300), "{times:?}");
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_meant_for_a_proxy_is_known_at_every_replica() {
    let databases = Database::shared().await;
    let (one, two) = (Replica::start(&databases[0]).await, Replica::start(&databases[1]).await);
    one.gateway("shop/edge").await;
    one.put(Kind::VirtualService, "shop/mesh", json!({"hosts": ["a.example"], "gateways": ["mesh"]})).await;
    one.put(Kind::WorkloadGroup, "shop/group", json!({"template": {}})).await;
    let revision = one.route("shop/site", "hello").await;
    let mut proxy = Subscriber::start(options("edge-1", "istio-system"), one.pipe());
    follow_to(&mut proxy, revision).await;
    for replica in [&one, &two] {
        replica.until_acked("edge-1", revision).await;
        let meant = async |kind, name| {
            let key = ResourceKey::new(kind, "shop", name);
            eventually("the scope to be known", async || {
                replica.service.acks().borrow()[0].reach.contains(&key, revision)
            })
            .await
        };
        assert!(meant(Kind::Gateway, "edge").await && meant(Kind::VirtualService, "site").await);
        assert!(!meant(Kind::VirtualService, "mesh").await && !meant(Kind::WorkloadGroup, "group").await);
    }
    // What is bound to a Gateway that is gone is meant for nobody.
    let removal = one.delete(Kind::Gateway, "shop/edge").await;
    for replica in [&one, &two] {
        let site = ResourceKey::new(Kind::VirtualService, "shop", "site");
        let left =
            async || (replica.service.acks().borrow()[0].reach.contains(&site, removal) == Some(false)).then_some(());
        eventually("the route to be meant for nobody", left).await;
    }
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_too_old_for_a_kind_is_not_sent_it_and_that_is_seen() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    replica.gateway("shop/edge").await;
    let service = &replica.service;
    for (node, model_version) in [("old", 0), ("new", MODEL_VERSION)] {
        let hello = Hello {
            node: node.into(),
            namespace: "istio-system".into(),
            role: "gateway".into(),
            labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
            model_version,
            ..Hello::default()
        };
        let caller = Caller { peer: Peer::InProcess, certificate: Arc::default(), token: None };
        let scope = service.admit(&caller, &hello).await.unwrap();
        let connected = Event::Connected { hello: hello.into(), caller, scope };
        service.observe(SessionId(u64::from(model_version) + 1), connected);
    }
    eventually("the Gateway is held back from the old one alone", async || {
        let (_, list) = replica.call("GET", "/api/fairway/v1/proxies", None).await;
        let held_back: Vec<_> = list["items"].as_array().unwrap().iter().map(|proxy| &proxy["heldBack"]).collect();
        if held_back == [&Value::Null, &json!(["Gateway"])] { Ok(()) } else { Err(list) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoking_a_token_ends_what_joined_by_it_at_every_replica() {
    let databases = Database::shared().await;
    let (one, two) = (Replica::start(&databases[0]).await, Replica::start(&databases[1]).await);
    let revision = one.gateway("shop/edge").await;
    two.snapshot.reached(revision).await;
    let wanted = json!({"namespace": "edge"}).to_string();
    let (_, revoked) = one.call("POST", "/api/fairway/v1/join-tokens", Some(&wanted)).await;
    let expiring = two.join_token(&json!({"namespace": "edge", "ttl": "1s"})).await;
    let mut proxies = Vec::new();
    for (node, replica) in [("a", &one), ("b", &two), ("c", &one), ("d", &two)] {
        let token = if node < "c" { revoked["token"].as_str().unwrap() } else { &expiring };
        let options = SubscriberOptions { token: Some(Token::new(token).unwrap()), ..options(node, "edge") };
        let mut proxy = Subscriber::start(options, replica.tls(&replica.ca));
        follow_to(&mut proxy, revision).await;
        replica.until_acked(node, revision).await;
        proxies.push(proxy);
    }
    let revoke = format!("/api/fairway/v1/join-tokens/{}", revoked["id"].as_str().unwrap());
    assert_eq!(one.call("DELETE", &revoke, None).await.0, StatusCode::NO_CONTENT);
    for proxy in &proxies[..2] {
        let reason = until_waiting(proxy).await;
        assert!(reason.starts_with("the control plane refused: the join token"), "{reason}");
    }

    // A token that is over is not a token that is revoked: what joined by it is a member.
    let hash = TokenHash::of(&expiring);
    let expired = async || {
        let token = one.snapshot.view().token(&hash).cloned()?;
        (!token.is_valid(jiff::Timestamp::now())).then_some(())
    };
    eventually("the token to expire", expired).await;
    let revision = one.route("shop/site", "hello").await;
    for ((proxy, node), replica) in proxies[2..].iter_mut().zip(["c", "d"]).zip([&one, &two]) {
        follow_to(proxy, revision).await;
        replica.until_acked(node, revision).await;
    }
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_token_is_refused() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    for (body, detail) in [
        ("{", "the body is not valid"),
        (r#"{"ttl": "soon"}"#, "is not a time"),
        (r#"{"ttl": "0s"}"#, "more than 0"),
        (r#"{"ttl": "400d"}"#, "at most 366d"),
        (r#"{"namespace": "A b"}"#, "is not the name of a namespace"),
        (r#"{"serviceAccount": "a/b"}"#, "is not the name of a service account"),
        (r#"{"name": "x"}"#, "unknown field"),
    ] {
        let (status, problem) = replica.call("POST", "/api/fairway/v1/join-tokens", Some(body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
    }
    let token = replica.join_token(&json!({})).await;
    let kept = database.store.tokens().await.unwrap();
    assert!(!format!("{kept:?}").contains(&token), "only the hash is kept");
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_control_plane_takes_its_proxies_back_without_sending_anything() {
    let database = Database::new().await;
    let replica = Replica::start(&database).await;
    let revision = replica.gateway("shop/edge").await;
    let mut proxy = Subscriber::start(options("edge-1", "istio-system"), replica.pipe());
    let update = follow_to(&mut proxy, revision).await;
    replica.until_acked("edge-1", revision).await;
    drop(proxy);
    replica.end().await;

    let replica = Replica::start(&database).await;
    let options = SubscriberOptions {
        held: Some((*update.held).clone()),
        applied: Some(Ack::new(revision, vec![])),
        ..options("edge-1", "istio-system")
    };
    let mut proxy = Subscriber::start(options, replica.pipe());
    replica.until_acked("edge-1", revision).await;
    assert_eq!(replica.service.proxies()[0].sent_revision, revision.0);
    let newer = replica.route("shop/site", "hello").await;
    assert_eq!(next(&mut proxy).await.revision(), newer);
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_serve_their_own_proxies_and_know_of_all() {
    let database = Database::new().await;
    let one = Replica::start(&database).await;
    let two = one.beside().await;
    let revision = one.gateway("shop/edge").await;
    let mut first = Subscriber::start(options("edge-1", "istio-system"), one.pipe());
    let mut second = Subscriber::start(options("edge-2", "istio-system"), two.pipe());
    for proxy in [&mut first, &mut second] {
        follow_to(proxy, revision).await;
    }

    let began = Instant::now();
    let revision = one.route("shop/site", "hello").await;
    for proxy in [&mut first, &mut second] {
        follow_to(proxy, revision).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    for replica in [&one, &two] {
        replica.until_acked("edge-1", revision).await;
        replica.until_acked("edge-2", revision).await;
    }
    let replicas: Vec<String> = one.service.proxies().into_iter().map(|proxy| proxy.replica).collect();
    assert_ne!(replicas[0], replicas[1]);
    assert_eq!(Revision(one.service.proxies()[1].acked_revision), revision);
    two.end().await;
    one.end().await;
}
