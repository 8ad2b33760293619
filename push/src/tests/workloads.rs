//! What sidecars register.

use std::time::Duration;

use route_model::compile::{ProxyRole, ProxyScope};
use route_model::meta::Revision;

use super::support::{PATIENCE, Plane, gateway, options, until_waiting};
use crate::client::{Node, Subscriber, SubscriberOptions};
use crate::server::Event;
use crate::workload::{DeclaredService, Workload, WorkloadPort};

fn workload() -> Workload {
    Workload {
        address: "10.0.0.7".into(),
        ports: vec![WorkloadPort { name: "http".into(), number: 9080, ..WorkloadPort::default() }],
        services: vec![DeclaredService { host: "reviews".into(), ports: vec![] }],
        ..Workload::default()
    }
}

fn sidecar(workload: Option<Workload>) -> SubscriberOptions {
    let options = options("reviews-1");
    let scope = ProxyScope { role: ProxyRole::Sidecar, ..options.node.scope.clone() };
    SubscriberOptions { workload, node: Node { scope, ..options.node.clone() }, ..options }
}

fn readiness(plane: &Plane) -> Vec<bool> {
    let of = |event| if let Event::Ready { ready, .. } = event { Some(ready) } else { None };
    plane.events().into_iter().filter_map(of).collect()
}

#[tokio::test]
async fn a_workload_is_registered_and_its_readiness_followed() {
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway("a")], []);
    let proxy = Subscriber::start(sidecar(Some(workload())), plane.transport());
    assert_eq!(plane.until_connected(1).await.workload, Some(workload()));

    proxy.ready(true, "");
    proxy.ready(true, "again");
    proxy.ready(false, "the probe of port 9080 failed: connection refused");
    let why = plane
        .until("the workload to be unready", |event| match event {
            Event::Ready { ready: false, reason } => Some(reason.clone()),
            _ => None,
        })
        .await;
    assert_eq!(why, "the probe of port 9080 failed: connection refused");
    assert_eq!(readiness(&plane), [true, false], "what is no news is not said");
}

#[tokio::test]
async fn a_sidecar_that_comes_back_says_how_ready_it_is_now() {
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway("a")], []);
    let proxy = Subscriber::start(sidecar(Some(workload())), plane.transport());
    assert!(!plane.until_connected(1).await.workload.as_ref().unwrap().ready);
    proxy.ready(true, "");
    plane.until("readiness", |event| matches!(event, Event::Ready { ready: true, .. }).then_some(())).await;
    // Another connection of the same node ends the first one, which comes again.
    let other = Subscriber::start(sidecar(None), plane.transport());
    plane.until_connected(2).await;
    drop(other);
    assert!(plane.until_connected(3).await.workload.as_ref().unwrap().ready);
}

#[tokio::test]
async fn why_a_workload_is_not_ready_is_said_when_it_changes_and_after_a_reconnect() {
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway("a")], []);
    let proxy = Subscriber::start(sidecar(Some(workload())), plane.transport());
    plane.until_connected(1).await;
    let until_said = async |said: &[&str]| {
        let reasons = || -> Vec<String> {
            let of = |event| if let Event::Ready { ready: false, reason } = event { Some(reason) } else { None };
            plane.events().into_iter().filter_map(of).collect()
        };
        let all = async {
            while reasons() != said {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, all).await;
        assert!(done.is_ok(), "{:?}", reasons());
    };
    proxy.ready(false, "no configuration");
    proxy.ready(false, "no configuration");
    proxy.ready(false, "connection refused");
    until_said(&["no configuration", "connection refused"]).await;
    let other = Subscriber::start(sidecar(None), plane.transport());
    plane.until_connected(2).await;
    drop(other);
    until_said(&["no configuration", "connection refused", "connection refused"]).await;
}

#[tokio::test]
async fn who_leaves_says_that_it_serves_no_more() {
    let plane = Plane::start();
    plane.scope.publish(Revision(1), [gateway("a")], []);
    let proxy = Subscriber::start(sidecar(Some(workload())), plane.transport());
    plane.until_connected(1).await;
    proxy.ready(true, "");
    plane.until("readiness", |event| matches!(event, Event::Ready { ready: true, .. }).then_some(())).await;
    proxy.leave().await;
    let last: Vec<Event> = plane.events().into_iter().rev().take(2).collect();
    let [Event::Disconnected { reason }, Event::Ready { ready: false, reason: why }] = &*last else {
        panic!("{last:?}")
    };
    assert_eq!((reason.as_str(), why.as_str()), ("the proxy closed the connection", "its sidecar is ending"));
}

#[tokio::test(start_paused = true)]
async fn who_has_no_connection_leaves_at_once() {
    let (transport, listener) = crate::transport::pipe();
    drop(listener);
    let proxy = Subscriber::start(sidecar(Some(workload())), std::sync::Arc::new(transport));
    until_waiting(&proxy).await;
    let began = tokio::time::Instant::now();
    proxy.leave().await;
    assert_eq!(began.elapsed(), Duration::ZERO, "there is nothing to wait for");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_reason() {
    let wrong = Workload { address: "0.0.0.0".into(), ..workload() };
    let long = Workload { address: "x".repeat(100_000), ..workload() };
    let gateway = SubscriberOptions { workload: Some(workload()), ..options("edge-1") };
    for (options, reason) in [
        (sidecar(Some(wrong)), "the workload's address 0.0.0.0 is not one that clients can connect to"),
        (sidecar(Some(long)), "the workload's address \"xxx"),
        (gateway, "a proxy of role \"gateway\" registers no workload"),
    ] {
        let plane = Plane::start();
        let proxy = Subscriber::start(options, plane.transport());
        let refused = tokio::time::timeout(Duration::from_secs(10), until_waiting(&proxy)).await.unwrap();
        assert!(refused.contains(reason) && refused.len() < 2_000, "{refused}");
        assert!(plane.events().is_empty());
    }
}
