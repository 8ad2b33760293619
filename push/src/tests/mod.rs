//! The two ends against each other, in memory.

mod faults;
mod layers;
mod reports;
mod support;
mod workloads;

use std::sync::Arc;
use std::time::Duration;

use route_model::compile::Changed;
use route_model::kind::Kind;
use route_model::meta::{ResourceKey, Revision};

use self::support::{PATIENCE, Plane, gateway, key, names, options, service_entry};
use crate::client::{Limits, SignError, Status, Subscriber, SubscriberOptions, Token, sign};
use crate::message::{Issue, Key, Trust};
use crate::server::{Entry, Event, Scope};
use crate::sign::SignRequest;

#[tokio::test]
async fn a_proxy_receives_the_set_then_only_what_changes() {
    let plane = Plane::start();
    plane.scope.publish(Revision(3), [gateway("a"), gateway("b")], []);
    let mut proxy = Subscriber::start(options("p1"), plane.transport());

    let update = proxy.next_update().await;
    assert_eq!(update.revision(), Revision(3));
    assert!(matches!(update.changed, Changed::Everything));
    assert_eq!(names(&update), ["a", "b"]);
    assert_eq!(*proxy.status().borrow(), Status::Connected);
    proxy.ack(Revision(3), vec![]);
    plane.until_acked(3).await;

    plane.scope.publish(Revision(4), [service_entry("c", 0)], [key(Kind::Gateway, "a")]);
    let update = proxy.next_update().await;
    assert_eq!(names(&update), ["b", "c"]);
    let Changed::Keys(changed) = update.changed else { panic!("only two keys changed") };
    assert_eq!(
        changed,
        [ResourceKey::new(Kind::Gateway, "edge", "a"), ResourceKey::new(Kind::ServiceEntry, "edge", "c")]
    );
    proxy.ack(Revision(4), vec![Issue::new(Some(key(Kind::Gateway, "b")), "PortInUse", "port 80 is taken")]);
    let issues = plane.until_acked(4).await;
    assert_eq!(issues[0].to_string(), "Gateway edge/b: port 80 is taken (PortInUse)");
}

#[tokio::test]
async fn an_acknowledgement_may_be_given_again_when_its_issues_changed() {
    let plane = Plane::start();
    plane.scope.publish(Revision(3), [gateway("a")], []);
    let mut proxy = Subscriber::start(options("p1"), plane.transport());
    proxy.next_update().await;
    let taken = Issue::new(Some(key(Kind::Gateway, "a")), "PortInUse", "port 80 is taken");
    for issues in [vec![taken.clone()], vec![], vec![taken]] {
        proxy.ack(Revision(3), issues);
    }
    let acks = || {
        let issues = |event| if let Event::Acked { issues, .. } = event { Some(issues.len()) } else { None };
        plane.events().into_iter().filter_map(issues).collect::<Vec<_>>()
    };
    plane.until("three acks", |_| (acks().len() == 3).then_some(())).await;
    assert_eq!(acks(), [1, 0, 1]);
    // What came before the newest revision is no longer of interest.
    plane.scope.publish(Revision(4), [gateway("b")], []);
    proxy.next_update().await;
    proxy.ack(Revision(4), vec![]);
    proxy.ack(Revision(3), vec![]);
    proxy.ack(Revision(4), vec![]);
    plane.until("five acks", |_| (acks().len() == 5).then_some(())).await;
}

#[tokio::test]
async fn an_empty_scope_is_told_and_acknowledged_like_any_other() {
    let plane = Plane::start();
    let mut proxy = Subscriber::start(options("p1"), plane.transport());
    plane.until_connected(1).await;
    assert_eq!(plane.sent(), [0; 0], "nothing is known of the scope yet");

    plane.scope.replace(Revision(9), []);
    let update = proxy.next_update().await;
    assert_eq!((update.revision(), names(&update).len()), (Revision(9), 0));
    proxy.ack(Revision(9), vec![]);
    plane.until_acked(9).await;
}

#[tokio::test]
async fn revisions_that_bring_nothing_to_a_scope_are_not_sent() {
    let plane = Plane::start();
    plane.scope.publish(Revision(3), [gateway("a")], []);
    let mut proxy = Subscriber::start(options("p1"), plane.transport());
    proxy.next_update().await;
    proxy.ack(Revision(3), vec![]);
    plane.until_acked(3).await;

    plane.scope.publish(Revision(4), [gateway("a")], [key(Kind::Gateway, "never-was")]);
    plane.scope.publish(Revision(5), [], []);
    plane.scope.publish(Revision(6), [gateway("b")], []);
    assert_eq!(proxy.next_update().await.revision(), Revision(6));
    assert_eq!(plane.sent(), [3, 6]);
    assert_eq!(plane.scope.effective(Revision(3)), Revision(5));
    assert_eq!(plane.scope.effective(Revision(6)), Revision(6));
}

#[tokio::test]
async fn what_a_proxy_is_too_old_for_is_held_back() {
    let key = Key { kind: "TrafficWeaver".into(), namespace: "edge".into(), name: "x".into() };
    let newer = |body: &str| (Arc::new(key.clone()), Entry::new(body.to_owned()).unwrap().since(2));
    let plane = Plane::with(Scope::new("gateway/edge").of_model(1), None);
    plane.scope.publish(Revision(1), [gateway("a"), newer("{}")], []);
    let mut proxy = Subscriber::start(options("p1"), plane.transport());
    let update = proxy.next_update().await;
    assert_eq!((update.revision(), names(&update)), (Revision(1), vec!["a".to_owned()]));
    assert_eq!(update.held.skipped().count(), 0, "it never came");
    proxy.ack(Revision(1), vec![]);
    plane.until_acked(1).await;
    assert_eq!(plane.scope.held_back().into_iter().collect::<Vec<_>>(), ["TrafficWeaver"]);

    // A change of it is no news, and when it is gone nothing is held back any more.
    plane.scope.publish(Revision(2), [newer("{\"spec\": {}}")], []);
    assert_eq!(plane.scope.effective(Revision(1)), Revision(2));
    plane.scope.replace(Revision(3), [gateway("a"), newer("{}")]);
    assert_eq!(plane.scope.held_back().len(), 1);
    plane.scope.replace(Revision(4), [gateway("a")]);
    assert!(plane.scope.held_back().is_empty());
    assert_eq!(plane.sent(), [1]);

    let newer_proxies = Scope::new("gateway/edge").of_model(2);
    newer_proxies.publish(Revision(1), [newer("{}")], []);
    assert_eq!((newer_proxies.len(), newer_proxies.held_back().len()), (1, 0));
}

#[tokio::test]
async fn a_large_set_comes_in_parts_and_counts_as_one() {
    let plane = Plane::start();
    plane.scope.publish(Revision(1), (0..600).map(|i| service_entry(&format!("s{i}"), 20_000)), []);
    let mut proxy = Subscriber::start(options("p1"), plane.transport());
    let update = proxy.next_update().await;
    assert_eq!((update.revision(), names(&update).len()), (Revision(1), 600));
    assert_eq!(plane.sent(), [1]);

    proxy.ack(Revision(1), vec![]);
    plane.until_acked(1).await;
    plane.scope.replace(Revision(2), []);
    let update = proxy.next_update().await;
    assert_eq!(names(&update).len(), 0);
    let Changed::Keys(changed) = update.changed else { panic!("keys expected") };
    assert_eq!(changed.len(), 600);
}

#[tokio::test]
async fn a_proxy_that_is_behind_gets_one_merged_delta() {
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway("a")], []);
    let mut proxy = Subscriber::start(options("p1"), plane.transport());
    proxy.next_update().await;

    for revision in 2..=100 {
        let removed = (revision > 2).then(|| key(Kind::ServiceEntry, &format!("s{}", revision - 1)));
        plane.scope.publish(Revision(revision), [service_entry(&format!("s{revision}"), 10)], removed);
    }
    proxy.ack(Revision(1), vec![]);
    let update = proxy.next_update().await;
    assert_eq!(update.revision(), Revision(100));
    assert_eq!(names(&update), ["a", "s100"]);
    assert_eq!(plane.sent(), [1, 100]);
}

#[tokio::test]
async fn what_cannot_be_decoded_is_refused_by_name_and_the_next_good_state_heals_it() {
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway("a")], []);
    let mut proxy = Subscriber::start(options("p1"), plane.transport());
    proxy.next_update().await;
    proxy.ack(Revision(1), vec![]);
    plane.until_acked(1).await;

    let broken = (Arc::new(key(Kind::Gateway, "broken")), Entry::new("{\"spec\":").unwrap());
    plane.scope.publish(Revision(2), [broken, gateway("b")], []);
    let issues = plane.until_nacked(2).await;
    assert_eq!(issues.len(), 1);
    assert_eq!(issues[0].key, Some(key(Kind::Gateway, "broken")));
    assert!(issues[0].message.starts_with("the resource's body is not JSON"), "{}", issues[0].message);

    let other_body = gateway("someone-else").1;
    plane.scope.publish(Revision(3), [(Arc::new(key(Kind::Gateway, "broken")), other_body)], []);
    let issues = plane.until_nacked(3).await;
    assert_eq!(issues[0].message, "the resource's body is that of Gateway edge/someone-else");

    plane.scope.publish(Revision(4), [gateway("broken")], []);
    let update = proxy.next_update().await;
    assert_eq!(update.revision(), Revision(4));
    assert_eq!(names(&update), ["a", "b", "broken"]);
    assert_eq!(plane.sent(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_set_that_is_decoded_but_not_put_in_force_is_what_the_next_delta_builds_on() {
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway("a")], []);
    let mut proxy = Subscriber::start(options("p1"), plane.transport());
    proxy.next_update().await;
    proxy.nack(Revision(1), vec![Issue::new(None, "InternalError", "the compiler panicked")]);
    plane.until_nacked(1).await;

    plane.scope.publish(Revision(2), [gateway("b")], []);
    let update = proxy.next_update().await;
    assert_eq!(names(&update), ["a", "b"]);
    assert!(matches!(update.changed, Changed::Keys(keys) if keys.len() == 1));
}

#[tokio::test]
async fn a_kind_that_is_too_new_is_left_out_and_reported() {
    let plane = Plane::start();
    let newer = Key { kind: "TrafficWeaver".into(), ..key(Kind::Gateway, "w") };
    plane.scope.publish(Revision(1), [(Arc::new(newer.clone()), Entry::new("{}").unwrap()), gateway("a")], []);
    let mut proxy = Subscriber::start(options("p1"), plane.transport());
    let update = proxy.next_update().await;
    assert_eq!(names(&update), ["a"]);
    proxy.ack(Revision(1), vec![]);
    let issues = plane.until_acked(1).await;
    assert_eq!((issues[0].key.clone(), issues[0].reason.as_str()), (Some(newer.clone()), "UnknownKind"));

    plane.scope.publish(Revision(2), [], [newer]);
    proxy.next_update().await;
    proxy.ack(Revision(2), vec![]);
    assert_eq!(plane.until_acked(2).await, []);
}

#[tokio::test]
async fn a_set_beyond_the_limits_is_refused() {
    let plane = Plane::start();
    plane.scope.publish(Revision(1), (0..20).map(|i| service_entry(&format!("s{i}"), 10)), []);
    let limits = Limits { max_resources: 10, ..Limits::default() };
    let _proxy = Subscriber::start(SubscriberOptions { limits, ..options("p1") }, plane.transport());
    let issues = plane.until_nacked(1).await;
    assert_eq!((issues.len(), issues[0].reason.as_str()), (1, "TooLarge"));
}

#[tokio::test]
async fn a_thousand_proxies_share_one_serialised_delta() {
    let plane = Plane::start();
    plane.scope.publish(Revision(1), (0..50).map(|i| service_entry(&format!("s{i}"), 100)), []);
    let proxies: Vec<_> = (0..1000)
        .map(|i| {
            let mut proxy = Subscriber::start(options(&format!("p{i}")), plane.transport());
            tokio::spawn(async move {
                for revision in [1, 2] {
                    let update = proxy.next_update().await;
                    assert_eq!(update.revision(), Revision(revision));
                    proxy.ack(update.revision(), vec![]);
                }
                proxy
            })
        })
        .collect();
    let acked = |revision| {
        let of = move |event: &Event| matches!(event, Event::Acked { revision: r, .. } if *r == Revision(revision));
        plane.events().iter().filter(|event| of(event)).count()
    };
    for revision in [1, 2] {
        let deadline = tokio::time::Instant::now() + PATIENCE * 3;
        while acked(revision) < 1000 {
            assert!(tokio::time::Instant::now() < deadline, "{} acks of revision {revision}", acked(revision));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if revision == 1 {
            plane.scope.publish(Revision(2), [gateway("a")], []);
        }
    }
    assert_eq!(plane.scope.serialised(), 2);
    for proxy in proxies {
        proxy.await.unwrap();
    }
}

#[tokio::test]
async fn a_certificate_is_signed_beside_the_stream_for_who_shows_the_token() {
    let plane = Plane::with(Scope::new("gateway/edge"), Some("secret"));
    let request =
        SignRequest { csr: "request".into(), node: "p1".into(), namespace: "edge".into(), ..Default::default() };
    let token = Token::new("secret").unwrap();
    let signed = sign(&*plane.transport(), Some(&token), request.clone()).await.unwrap();
    assert_eq!((&*signed.chain[0], &*signed.roots[0]), (&b"request"[..], &b"root"[..]));

    let refused = sign(&*plane.transport(), None, request.clone()).await.unwrap_err();
    assert!(matches!(refused, SignError::Refused(_)), "{refused:?}");
    assert_eq!(refused.to_string(), "the control plane refused: the join token is not known");
    let huge = SignRequest { csr: vec![0; 1024 * 1024].into(), ..request };
    assert!(sign(&*plane.transport(), Some(&token), huge).await.is_err());
}

#[tokio::test]
async fn what_is_trusted_comes_with_the_greeting_and_whenever_it_changes() {
    let plane = Plane::start();
    let trust = |denied: &[&str]| Trust {
        trust_domains: Vec::new(),
        roots: vec!["root".into()],
        denied: denied.iter().map(|id| (*id).to_owned()).collect(),
    };
    plane.trusts(trust(&[]));
    let proxy = Subscriber::start(options("p1"), plane.transport());
    let mut known = proxy.trust();
    for denied in [&[][..], &["spiffe://cluster.local/ns/shop/sa/reviews"], &[]] {
        plane.trusts(trust(denied));
        let is = |known: &Option<Arc<Trust>>| known.as_deref() == Some(&trust(denied));
        tokio::time::timeout(PATIENCE, known.wait_for(is)).await.unwrap().unwrap();
    }
    // It is no new connection.
    plane.until_connected(1).await;
    let connected = plane.events().iter().filter(|event| matches!(event, Event::Connected { .. })).count();
    assert_eq!(connected, 1, "{:?}", plane.events());
}
