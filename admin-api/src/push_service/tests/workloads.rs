//! Sidecars that register their workloads.

use std::sync::Arc;
use std::time::Duration;

use push::client::{Node, Subscriber, SubscriberOptions};
use push::message::Hello;
use push::server::{Caller, ControlPlane, Event, Peer, SessionId};
use push::workload::{DeclaredService, Workload, WorkloadPort};
use route_model::compile::{ProxyRole, ProxyScope};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use route_model::resource::ResourceSet;
use serde_json::json;
use testkit::eventually;
use testkit::wait::DEADLINE;

use super::super::registrar::Leases;
use super::support::{Database, Replica, options};

const BRIEF: Leases = Leases {
    grace: Duration::from_millis(200),
    stale_after: Duration::from_secs(1),
    look_every: Duration::from_millis(50),
};

fn sidecar(node: &str, workload: Option<Workload>) -> SubscriberOptions {
    let options = options(node, "shop");
    let scope = ProxyScope { role: ProxyRole::Sidecar, ..options.node.scope.clone() };
    SubscriberOptions { workload, node: Node { scope, ..options.node.clone() }, ..options }
}

fn reviews(address: &str) -> Workload {
    Workload {
        address: address.into(),
        ports: vec![WorkloadPort { name: "http".into(), number: 9080, ..WorkloadPort::default() }],
        services: vec![DeclaredService { host: "reviews".into(), ports: Vec::new() }],
        ..Workload::default()
    }
}

fn entry(name: &str) -> ResourceKey {
    ResourceKey::new(Kind::WorkloadEntry, "shop", name)
}

async fn until(replica: &Replica, name: &str, there: bool) {
    eventually("the endpoint to come or go", async || {
        replica.snapshot.view().resources().get(&entry(name)).is_some() == there
    })
    .await;
}

/// Acknowledges what comes until the proxy's set is as wanted.
async fn follow_until(proxy: &mut Subscriber, wanted: impl Fn(&ResourceSet) -> bool) {
    let followed = async {
        loop {
            let update = proxy.next_update().await;
            proxy.ack(update.revision(), vec![]);
            if wanted(update.held.set()) {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, followed).await.expect("the set comes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_find_each_other_without_a_revision() {
    let database = Database::new().await;
    let replica = Replica::start_with(&database, BRIEF).await;
    // Of no use to a sidecar; there is a revision now.
    let before = replica.gateway("shop/edge").await;
    let mut client = Subscriber::start(sidecar("web-1", None), replica.pipe());
    follow_until(&mut client, ResourceSet::is_empty).await;
    let server = Subscriber::start(sidecar("reviews-1", Some(reviews("10.0.0.1"))), replica.pipe());
    // The service is known, but nothing serves it yet.
    let service = ResourceKey::new(Kind::ServiceEntry, "shop", "reviews");
    follow_until(&mut client, |set| set.get(&service).is_some()).await;
    assert!(replica.snapshot.view().resources().get(&entry("reviews-1")).is_none());
    server.ready(true, "");
    follow_until(&mut client, |set| set.get(&entry("reviews-1")).is_some()).await;
    let shown = replica.snapshot.view().get(&entry("reviews-1")).unwrap().object.clone();
    assert_eq!(shown["metadata"]["labels"]["security.istio.io/tlsMode"], "istio", "clients are told to use mutual TLS");
    assert_eq!(shown["spec"]["serviceAccount"], "default", "and whom to expect");
    server.ready(false, "GET /healthz was answered 500");
    follow_until(&mut client, |set| set.get(&entry("reviews-1")).is_none()).await;

    let shown = eventually("the reason to show", async || {
        let (_, shown) = replica.call("GET", "/api/fairway/v1/proxies/reviews-1", None).await;
        if shown["workload"]["reason"] == "GET /healthz was answered 500" { Ok(shown) } else { Err(shown) }
    })
    .await;
    assert_eq!(
        shown["workload"],
        json!({
            "address": "10.0.0.1",
            "ports": [{"name": "http", "protocol": "HTTP", "number": 9080, "target": 9080}],
            "services": ["reviews.shop.svc.cluster.local"],
            "ready": false,
            "reason": "GET /healthz was answered 500",
        })
    );
    assert_eq!(shown["role"], "sidecar");

    server.ready(true, "");
    follow_until(&mut client, |set| set.get(&entry("reviews-1")).is_some()).await;
    drop(server);
    follow_until(&mut client, ResourceSet::is_empty).await;
    assert_eq!(replica.snapshot.view().revision(), before, "endpoints cost no revision");
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_in_time_never_left() {
    let database = Database::new().await;
    let patient = Leases { grace: Duration::from_mins(1), ..BRIEF };
    let replica = Replica::start_with(&database, patient).await;
    let ready = || Some(Workload { ready: true, ..reviews("10.0.0.1") });
    let first = Subscriber::start(sidecar("reviews-1", ready()), replica.pipe());
    until(&replica, "reviews-1", true).await;
    let version = replica.snapshot.view().resource_version();
    drop(first);
    let gone = async || replica.service.proxies().iter().all(|proxy| !proxy.connected);
    eventually("the stream to end", gone).await;
    let again = Subscriber::start(sidecar("reviews-1", ready()), replica.pipe());
    let back = async || replica.service.proxies().iter().any(|proxy| proxy.connected);
    eventually("the sidecar to be back", back).await;
    // Another that joins afterwards is registered after all that the first one brought about.
    let other = Subscriber::start(sidecar("reviews-2", ready()), replica.pipe());
    until(&replica, "reviews-2", true).await;
    let view = replica.snapshot.view();
    assert!(view.get(&entry("reviews-1")).unwrap().resource_version <= version);
    assert_eq!(view.resource_version(), version + 1);
    drop((again, other));
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_as_a_mere_client_serves_no_more() {
    let database = Database::new().await;
    let replica = Replica::start_with(&database, Leases { grace: Duration::from_mins(1), ..BRIEF }).await;
    let service = &replica.service;
    let connect = async |session: u64, workload: Option<Workload>| {
        let hello = Hello {
            node: "reviews-1".into(),
            namespace: "shop".into(),
            role: "sidecar".into(),
            workload,
            ..Hello::default()
        };
        let caller = Caller { peer: Peer::InProcess, certificate: Arc::default(), token: None };
        let scope = service.admit(&caller, &hello).await.unwrap();
        service.observe(SessionId(session), Event::Connected { hello: hello.into(), caller, scope });
    };
    connect(1, Some(Workload { ready: true, ..reviews("10.0.0.1") })).await;
    until(&replica, "reviews-1", true).await;
    connect(2, None).await;
    // That the first stream ended may be seen later.
    service.observe(SessionId(1), Event::Disconnected { reason: "the proxy closed the connection".into() });
    until(&replica, "reviews-1", false).await;
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_replica_held_goes_and_what_moved_stays() {
    let databases = Database::shared().await;
    let one = Replica::start_with(&databases[0], BRIEF).await;
    let two = Replica::start_with(&databases[1], BRIEF).await;
    let ready = || Some(Workload { ready: true, ..reviews("10.0.0.1") });
    let dies = Subscriber::start(sidecar("reviews-1", ready()), one.pipe());
    let moves = Subscriber::start(sidecar("reviews-2", ready()), one.pipe());
    for name in ["reviews-1", "reviews-2"] {
        until(&two, name, true).await;
    }
    // The replica and one of its sidecars are gone at once, without a word.
    one.kill().await;
    drop((dies, moves));
    let _moved = Subscriber::start(sidecar("reviews-2", ready()), two.pipe());
    let here = async || two.service.proxies().iter().any(|proxy| proxy.id == "reviews-2" && proxy.connected);
    eventually("the other to be here", here).await;
    until(&two, "reviews-1", false).await;
    until(&two, "reviews-2", true).await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_taken_for_dead_is_registered_again() {
    let database = Database::new().await;
    let replica = Replica::start_with(&database, BRIEF).await;
    let ready = Some(Workload { ready: true, ..reviews("10.0.0.1") });
    let server = Subscriber::start(sidecar("reviews-1", ready), replica.pipe());
    until(&replica, "reviews-1", true).await;
    let version = replica.snapshot.view().resource_version();
    // As another replica does that has heard nothing of this one for too long.
    let removed = async || !database.store.expire_workloads("another", Duration::ZERO).await.unwrap().is_empty();
    eventually("the other to remove it", removed).await;
    let back = async || {
        let view = replica.snapshot.view();
        view.get(&entry("reviews-1")).is_some_and(|shown| shown.resource_version > version + 1)
    };
    eventually("the endpoint to be back", back).await;
    drop(server);
    replica.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_control_plane_keeps_the_endpoints_it_had() {
    let database = Database::new().await;
    let replica = Replica::start_with(&database, BRIEF).await;
    let ready = || Some(Workload { ready: true, ..reviews("10.0.0.1") });
    let server = Subscriber::start(sidecar("reviews-1", ready()), replica.pipe());
    until(&replica, "reviews-1", true).await;
    let version = replica.snapshot.view().resource_version();
    replica.end().await;
    drop(server);

    let replica = Replica::start_with(&database, Leases::default()).await;
    assert!(replica.snapshot.view().resources().get(&entry("reviews-1")).is_some(), "nobody lost it meanwhile");
    let _server = Subscriber::start(sidecar("reviews-1", ready()), replica.pipe());
    let taken = async || {
        let loaded = database.store.load().await.unwrap();
        loaded.workloads[0].replica == replica.service.proxies().first().map_or("", |proxy| &proxy.replica)
    };
    eventually("the new process to hold it", taken).await;
    assert_eq!(replica.snapshot.view().resource_version(), version);
    replica.end().await;
}
