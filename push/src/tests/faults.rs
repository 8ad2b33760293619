//! Connections that break, control planes that restart, proxies that may not join.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use route_model::compile::Changed;
use route_model::kind::Kind;
use route_model::meta::Revision;

use super::support::{
    Fault, FaultyTransport, Plane, Switch, gateway, key, names, options, service_entry, until_waiting,
};
use crate::client::{Held, Status, Subscriber, SubscriberOptions, Token};
use crate::message::{Ack, Issue};
use crate::server::{Event, Scope};
use crate::transport::pipe;

/// A proxy that acknowledged revision 3, and the set it holds.
async fn proxy_at_3(switch: &Arc<Switch>, plane: &Plane) -> Subscriber {
    plane.scope.publish(Revision(3), [gateway("a"), gateway("b")], []);
    let mut proxy = Subscriber::start(options("p1"), switch.clone());
    proxy.next_update().await;
    proxy.ack(Revision(3), vec![Issue::new(None, "PortInUse", "port 80 is taken")]);
    plane.until_acked(3).await;
    proxy
}

fn switch(plane: &Plane) -> Arc<Switch> {
    Arc::new(Switch(Mutex::new((*plane.transport()).clone())))
}

fn restart(switch: &Switch, old: &Plane) -> Plane {
    let new = Plane::start();
    *switch.0.lock().unwrap() = (*new.transport()).clone();
    old.server.end();
    new
}

#[tokio::test]
async fn a_restarted_control_plane_in_the_same_state_sends_nothing_and_knows_all() {
    let old = Plane::start();
    let switch = switch(&old);
    let proxy = proxy_at_3(&switch, &old).await;
    let new = restart(&switch, &old);
    new.scope.replace(Revision(3), [gateway("b"), gateway("a")]);

    let issues = new.until_acked(3).await;
    assert_eq!(issues[0].reason, "PortInUse");
    assert_eq!(new.until_connected(1).await.resume.as_ref().map(|resume| resume.revision), Some(3));
    assert_eq!(new.sent(), [0; 0]);
    drop(proxy);
    let left = |event: &Event| if let Event::Disconnected { reason } = event { Some(reason.clone()) } else { None };
    new.until("the proxy's end", left).await;
}

#[tokio::test]
async fn a_restarted_control_plane_in_another_state_sends_it_and_the_proxy_finds_the_difference() {
    let old = Plane::start();
    let switch = switch(&old);
    let mut proxy = proxy_at_3(&switch, &old).await;
    let new = restart(&switch, &old);
    new.scope.replace(Revision(5), [gateway("a"), gateway("c")]);

    let update = proxy.next_update().await;
    assert_eq!(update.revision(), Revision(5));
    assert_eq!(names(&update), ["a", "c"]);
    let Changed::Keys(changed) = update.changed else { panic!("the proxy holds most of it") };
    let changed: Vec<_> = changed.iter().map(|key| key.name.to_string()).collect();
    assert_eq!(changed, ["b", "c"]);
}

#[tokio::test]
async fn the_same_control_plane_resumes_with_a_delta() {
    let plane = Plane::start();
    let transport = FaultyTransport {
        inner: (*plane.transport()).clone(),
        fault: Fault::Break,
        // Enough for the greeting and revision 1, not for revision 2.
        bytes: AtomicUsize::new(10_000),
    };
    plane.scope.publish(Revision(1), [gateway("a")], []);
    let mut proxy = Subscriber::start(options("p1"), Arc::new(transport));
    proxy.next_update().await;
    proxy.ack(Revision(1), vec![]);
    plane.until_acked(1).await;

    plane.scope.publish(Revision(2), [service_entry("big", 500_000)], []);
    let update = proxy.next_update().await;
    assert_eq!(names(&update), ["a", "big"]);
    let hello = plane.until_connected(2).await;
    assert_eq!(hello.resume.as_ref().map(|resume| resume.revision), Some(1));
    assert_eq!(hello.applied.as_ref().map(|ack| ack.revision), Some(1));
    assert!(matches!(update.changed, Changed::Keys(keys) if keys.len() == 1));
}

#[tokio::test]
async fn a_break_in_the_middle_of_a_delta_leaves_nothing_behind() {
    let plane = Plane::start();
    let transport = FaultyTransport {
        inner: (*plane.transport()).clone(),
        fault: Fault::Break,
        // About three of twelve parts.
        bytes: AtomicUsize::new(3_500_000),
    };
    plane.scope.publish(Revision(1), (0..600).map(|i| service_entry(&format!("s{i}"), 20_000)), []);
    let mut proxy = Subscriber::start(options("p1"), Arc::new(transport));
    plane.until_connected(2).await;
    // The set changes before the proxy is back: what the broken delta brought must not show.
    plane.scope.replace(Revision(2), (300..900).map(|i| service_entry(&format!("s{i}"), 20_000)));
    let mut update = proxy.next_update().await;
    while update.revision() < Revision(2) {
        proxy.ack(update.revision(), vec![]);
        update = proxy.next_update().await;
    }
    let held = names(&update);
    assert_eq!(held.len(), 600);
    assert!(!held.contains(&"s0".to_owned()) && held.contains(&"s899".to_owned()));
}

#[tokio::test]
async fn an_update_that_is_not_taken_is_merged_with_the_next() {
    let old = Plane::start();
    let switch = switch(&old);
    old.scope.publish(Revision(3), [gateway("a")], []);
    let mut proxy = Subscriber::start(options("p1"), switch.clone());
    old.until_connected(1).await;
    old.until("revision 3", |event| matches!(event, Event::Sent { .. }).then_some(())).await;
    let mut status = proxy.status();
    status.wait_for(|status| *status == Status::Connected).await.unwrap();

    let new = restart(&switch, &old);
    new.scope.replace(Revision(4), [gateway("a"), gateway("b")]);
    new.until("revision 4", |event| matches!(event, Event::Sent { .. }).then_some(())).await;
    let mut update = proxy.next_update().await;
    if update.revision() == Revision(3) {
        update = proxy.next_update().await;
    }
    assert_eq!(names(&update), ["a", "b"]);
    proxy.ack(Revision(4), vec![]);
    new.until_acked(4).await;
}

#[tokio::test]
async fn a_late_acknowledgement_counts_on_the_next_connection() {
    let old = Plane::start();
    let switch = switch(&old);
    old.scope.publish(Revision(3), [gateway("a")], []);
    let mut proxy = Subscriber::start(options("p1"), switch.clone());
    let update = proxy.next_update().await;

    let new = restart(&switch, &old);
    new.scope.replace(Revision(3), [gateway("a")]);
    assert_eq!(new.until_connected(1).await.applied, None);
    proxy.ack(update.revision(), vec![]);
    new.until_acked(3).await;
    assert_eq!(new.sent(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_a_moment_behind_does_not_send_a_proxy_back() {
    let old = Plane::start();
    let switch = switch(&old);
    let mut proxy = proxy_at_3(&switch, &old).await;
    let new = restart(&switch, &old);
    new.scope.replace(Revision(2), [gateway("a")]);
    new.until_connected(1).await;
    new.scope.publish(Revision(3), [gateway("b")], []);
    new.scope.publish(Revision(4), [gateway("c")], []);
    assert_eq!(names(&proxy.next_update().await), ["a", "b", "c"]);
    assert_eq!(new.sent(), [4]);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_was_set_back_is_followed() {
    let old = Plane::start();
    let switch = switch(&old);
    let mut proxy = proxy_at_3(&switch, &old).await;
    let new = restart(&switch, &old);
    new.scope.replace(Revision(2), [gateway("a")]);
    let update = proxy.next_update().await;
    assert_eq!((update.revision(), names(&update)), (Revision(2), vec!["a".to_owned()]));
    proxy.ack(Revision(2), vec![]);
    new.until_acked(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_noticed_by_its_silence() {
    let plane = Plane::start();
    let transport =
        FaultyTransport { inner: (*plane.transport()).clone(), fault: Fault::Stall, bytes: AtomicUsize::new(100_000) };
    plane.scope.publish(Revision(1), [service_entry("big", 200_000)], []);
    let mut proxy = Subscriber::start(options("p1"), Arc::new(transport));
    assert_eq!(names(&proxy.next_update().await), ["big"]);
    plane.until_connected(2).await;
}

#[tokio::test]
async fn a_wrong_token_is_refused_with_a_reason_and_a_right_one_is_taken() {
    let plane = Plane::with(Scope::new("gateway/edge"), Some("right"));
    for token in [None, Some(Token::new("wrong").unwrap())] {
        let proxy = Subscriber::start(SubscriberOptions { token, ..options("p1") }, plane.transport());
        assert_eq!(until_waiting(&proxy).await, "the control plane refused: the join token is not known");
    }
    let token = Some(Token::new("right").unwrap());
    let _proxy = Subscriber::start(SubscriberOptions { token, ..options("p1") }, plane.transport());
    plane.until_connected(1).await;
}

#[tokio::test]
async fn a_hello_that_makes_no_sense_is_refused() {
    let plane = Plane::start();
    let mut proxy = options("p1");
    proxy.node.id = String::new();
    let reason = until_waiting(&Subscriber::start(proxy, plane.transport())).await;
    assert!(reason.contains("the node must have 1 to 253 bytes"), "{reason}");

    let mut proxy = options("p1");
    proxy.node.scope.labels = (0..100).map(|i| (format!("l{i}"), String::new())).collect();
    let reason = until_waiting(&Subscriber::start(proxy, plane.transport())).await;
    assert!(reason.contains("at most 64 labels"), "{reason}");
}

#[tokio::test]
async fn a_proxy_moves_to_another_connection_and_nobody_sees_it_leave() {
    let plane = Plane::start();
    plane.scope.publish(Revision(3), [gateway("a")], []);
    let mut proxy = Subscriber::start(options("p1"), plane.transport());
    proxy.next_update().await;
    proxy.ack(Revision(3), vec![]);
    plane.until_acked(3).await;
    let mut status = proxy.status();
    status.mark_unchanged();
    for session in 2..5 {
        proxy.reconnect();
        let hello = plane.until_connected(session).await;
        assert_eq!(hello.resume.as_ref().map(|resume| resume.revision), Some(3));
        assert_eq!(hello.applied.as_ref().map(|ack| ack.revision), Some(3));
    }
    let left = || {
        let events = plane.events();
        let left = |event: &&Event| matches!(event, Event::Disconnected { .. });
        (events.iter().filter(left).count() == 3).then_some(())
    };
    plane.until("the ends of the earlier sessions", |_| left()).await;
    let mut here = 0;
    for event in plane.events() {
        match event {
            Event::Connected { .. } => here += 1,
            Event::Disconnected { .. } => here -= 1,
            _ => {}
        }
        assert!(here > 0, "it left before it came");
    }
    plane.scope.publish(Revision(4), [gateway("b")], []);
    assert_eq!(names(&proxy.next_update().await), ["a", "b"]);
    proxy.ack(Revision(4), vec![]);
    plane.until_acked(4).await;
    assert_eq!(plane.sent(), [3, 4], "nothing came twice");
    assert!(!status.has_changed().unwrap(), "it was connected all the time");
}

#[tokio::test]
async fn a_proxy_that_cannot_open_another_connection_stays_on_the_one_it_has() {
    let plane = Plane::start();
    let switch = switch(&plane);
    let mut proxy = proxy_at_3(&switch, &plane).await;
    *switch.0.lock().unwrap() = pipe().0;
    proxy.reconnect();
    plane.scope.publish(Revision(4), [gateway("c")], []);
    assert_eq!(names(&proxy.next_update().await), ["a", "b", "c"]);
    assert_eq!(*proxy.status().borrow(), Status::Connected);
}

#[tokio::test]
async fn a_second_connection_of_a_node_replaces_the_first() {
    let plane = Plane::start();
    let first = Subscriber::start(options("p1"), plane.transport());
    plane.until_connected(1).await;
    let _second = Subscriber::start(options("p1"), plane.transport());
    assert_eq!(until_waiting(&first).await, "another connection came with the same node id");
}

#[tokio::test]
async fn without_a_control_plane_a_proxy_waits_and_says_why() {
    let (transport, listener) = crate::transport::pipe();
    drop(listener);
    let proxy = Subscriber::start(options("p1"), Arc::new(transport));
    assert_eq!(until_waiting(&proxy).await, "cannot connect: the control plane has ended");
}

#[tokio::test]
async fn a_stored_set_is_resumed_from() {
    let plane = Plane::start();
    plane.scope.publish(Revision(3), [gateway("a"), service_entry("s", 10)], []);
    let mut proxy = Subscriber::start(options("p1"), plane.transport());
    let update = proxy.next_update().await;
    proxy.ack(Revision(3), vec![]);
    plane.until_acked(3).await;
    let stored = update.held.to_bytes();
    drop(proxy);

    plane.scope.publish(Revision(4), [gateway("b")], [key(Kind::ServiceEntry, "s")]);
    let held = Held::from_bytes(&stored).unwrap();
    assert_eq!(held.set().revision, Revision(3));
    assert_eq!(held.set().len(), 2);
    let applied = Some(Ack::new(Revision(3), vec![]));
    let mut proxy =
        Subscriber::start(SubscriberOptions { held: Some(held), applied, ..options("p1") }, plane.transport());
    let update = proxy.next_update().await;
    assert_eq!(names(&update), ["a", "b"]);
    assert!(matches!(update.changed, Changed::Keys(keys) if keys.len() == 2));
    assert_eq!(plane.until_connected(2).await.resume.as_ref().map(|resume| resume.revision), Some(3));
}

#[test]
fn bytes_that_are_no_set_are_told_apart() {
    assert!(Held::from_bytes(b"\xff\xff\xff").is_err());
    assert!(Held::from_bytes(b"").unwrap().set().is_empty());
}

#[tokio::test]
async fn a_control_plane_that_ends_says_so() {
    let plane = Plane::start();
    let proxy = Subscriber::start(options("p1"), plane.transport());
    plane.until_connected(1).await;
    plane.server.end();
    let reason = tokio::time::timeout(Duration::from_secs(10), until_waiting(&proxy)).await.unwrap();
    assert_eq!(reason, "the control plane is going down");
}
