//! What sidecars register, and what is generated from it.

use std::time::Duration;

use admin_api::store::{ChangeSet, Op, Precondition, Registration, Snapshot, StoreError, StoredObject, Write};
use push::workload::{DeclaredService, Workload, WorkloadPort};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use serde_json::{Value, json};
use testkit::eventually;
use testkit::wait::DEADLINE;

use crate::backend::Backend;

fn reviews(node: &str, address: &str) -> Registration {
    let http = WorkloadPort { name: "http".into(), number: 9080, target: 19080, ..WorkloadPort::default() };
    Registration {
        node: node.to_owned(),
        namespace: "shop".to_owned(),
        service_account: String::new(),
        workload: Workload {
            address: address.to_owned(),
            ports: vec![http],
            labels: [("app".to_owned(), "reviews".to_owned())].into(),
            services: vec![DeclaredService { host: "reviews".into(), ports: Vec::new() }],
            ready: true,
            ..Workload::default()
        },
    }
}

fn entry(name: &str) -> ResourceKey {
    ResourceKey::new(Kind::WorkloadEntry, "shop", name)
}

fn service(name: &str) -> ResourceKey {
    ResourceKey::new(Kind::ServiceEntry, "shop", name)
}

async fn until_shown(snapshot: &Snapshot, key: &ResourceKey) -> StoredObject {
    eventually("the object to be there", async || snapshot.view().get(key).map(|object| StoredObject::clone(object)))
        .await
}

async fn until_gone(snapshot: &Snapshot, key: &ResourceKey) {
    eventually("the object to be gone", async || snapshot.view().get(key).is_none()).await;
}

async fn write(snapshot: &Snapshot, key: &ResourceKey, spec: Option<Value>) {
    let object = |spec| {
        json!({
            "apiVersion": key.kind.info().api_version(key.kind.info().preferred_version()),
            "kind": key.kind.name(),
            "metadata": {"name": &*key.name, "namespace": &*key.namespace},
            "spec": spec,
        })
    };
    let op = spec.map_or(Op::Delete, |spec| Op::Put(object(spec)));
    let changes = ChangeSet {
        author: "alice".into(),
        via: "test".into(),
        message: String::new(),
        writes: vec![Write { key: key.clone(), precondition: Precondition::None, op }],
        require: Vec::new(),
    };
    snapshot.commit(changes).await.unwrap();
}

pub(crate) async fn a_workload_is_an_endpoint_and_no_revision<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let store = snapshot.store();
    let before = snapshot.view();
    let registration = Registration { service_account: "books".into(), ..reviews("reviews-1", "10.0.0.1") };
    store.put_workloads("a", &[registration]).await.unwrap();

    let shown = until_shown(&snapshot, &entry("reviews-1")).await;
    assert!(shown.generated && shown.resource_version > before.resource_version());
    let labels = json!({
        "app": "reviews", "security.istio.io/tlsMode": "istio",
        "fairway.dev/generated": "true", "service.fairway.dev/reviews": "true",
    });
    assert_eq!(shown.object["metadata"]["labels"], labels);
    assert_eq!(shown.object["metadata"]["annotations"], json!({"fairway.dev/node": "reviews-1"}));
    let spec = json!({
        "address": "10.0.0.1", "ports": {"http": 19080}, "serviceAccount": "books",
        "labels": {"app": "reviews", "security.istio.io/tlsMode": "istio"},
    });
    assert_eq!(shown.object["spec"], spec);
    let declared = until_shown(&snapshot, &service("reviews")).await;
    assert_eq!(
        declared.object["spec"],
        json!({
            "hosts": ["reviews.shop.svc.cluster.local"],
            "ports": [{"number": 9080, "name": "http", "protocol": "HTTP"}],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "workloadSelector": {"labels": {"service.fairway.dev/reviews": "true"}},
        })
    );
    let view = snapshot.view();
    assert_eq!(view.revision(), before.revision());
    assert!(view.resources().get(&entry("reviews-1")).is_some(), "proxies are sent it");
    assert!(store.revisions(None, 10).await.unwrap().len() as u64 == before.revision().0);

    // A picture that is made later is the same one.
    let later = Snapshot::load(store.clone()).await.unwrap().view();
    for key in [entry("reviews-1"), service("reviews")] {
        let (mut one, mut other) =
            (Value::clone(&view.get(&key).unwrap().object), later.get(&key).unwrap().object.clone());
        let other = std::sync::Arc::make_mut(&mut other);
        for object in [&mut one, other] {
            object["metadata"]["resourceVersion"] = Value::Null;
        }
        assert_eq!(&one, other);
    }
}

pub(crate) async fn a_workload_is_held_by_one_replica<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let store = snapshot.store();
    store.put_workloads("a", &[reviews("reviews-1", "10.0.0.1")]).await.unwrap();
    let version = store.head().await.unwrap().resource_version;
    // It comes back, here and there: nothing changes for anybody.
    store.put_workloads("a", &[reviews("reviews-1", "10.0.0.1")]).await.unwrap();
    store.put_workloads("b", &[reviews("reviews-1", "10.0.0.1")]).await.unwrap();
    store.drop_workloads("a", &["reviews-1".to_owned()]).await.unwrap();
    assert_eq!(store.head().await.unwrap().resource_version, version);
    assert_eq!(store.load().await.unwrap().workloads[0].replica, "b");
    until_shown(&snapshot, &entry("reviews-1")).await;

    let unready = Registration {
        workload: Workload { ready: false, ..reviews("", "10.0.0.1").workload },
        ..reviews("reviews-1", "")
    };
    store.put_workloads("b", &[unready]).await.unwrap();
    until_gone(&snapshot, &entry("reviews-1")).await;
    assert!(snapshot.view().get(&service("reviews")).is_some(), "the service is there, without endpoints");
    store.put_workloads("b", &[reviews("reviews-1", "10.0.0.2")]).await.unwrap();
    assert_eq!(until_shown(&snapshot, &entry("reviews-1")).await.object["spec"]["address"], "10.0.0.2");
    store.drop_workloads("b", &["reviews-1".to_owned(), "unknown".to_owned()]).await.unwrap();
    until_gone(&snapshot, &entry("reviews-1")).await;
    until_gone(&snapshot, &service("reviews")).await;
    assert!(store.load().await.unwrap().workloads.is_empty());
}

pub(crate) async fn what_a_dead_replica_held_expires<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let store = snapshot.store();
    store.put_workloads("a", &[reviews("reviews-1", "10.0.0.1")]).await.unwrap();
    let none: [&str; 0] = [];
    assert_eq!(store.expire_workloads("b", Duration::from_mins(1)).await.unwrap(), none, "it was written just now");
    assert_eq!(store.expire_workloads("a", Duration::ZERO).await.unwrap(), none, "it is alive");
    until_shown(&snapshot, &entry("reviews-1")).await;
    let soon = Duration::from_millis(10);
    let expired = eventually("it to expire", async || {
        let nodes = store.expire_workloads("b", soon).await.unwrap();
        (!nodes.is_empty()).then_some(nodes)
    })
    .await;
    assert_eq!(expired, ["reviews-1"]);
    until_gone(&snapshot, &entry("reviews-1")).await;

    let left = store.head().await.unwrap().resource_version;
    assert_eq!(store.tail(left - 1, 10).await.unwrap().workloads.len(), 1, "that it left is known for a while");
    eventually("it to be forgotten", async || {
        store.forget_workloads(soon).await.unwrap();
        matches!(store.tail(left - 1, 10).await, Err(StoreError::Expired { .. }))
    })
    .await;
    assert!(store.tail(left, 10).await.unwrap().workloads.is_empty());
}

pub(crate) async fn what_is_written_by_hand_wins<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let store = snapshot.store();
    let by_hand = json!({"address": "10.9.9.9"});
    write(&snapshot, &entry("reviews-1"), Some(by_hand.clone())).await;
    store.put_workloads("a", &[reviews("reviews-1", "10.0.0.1")]).await.unwrap();
    until_shown(&snapshot, &service("reviews")).await;
    let view = snapshot.view();
    assert_eq!(view.get(&entry("reviews-1")).unwrap().object["spec"], by_hand);
    let problems = view.workload_problems("reviews-1");
    assert!(
        problems.len() == 1 && problems[0].contains("WorkloadEntry shop/reviews-1 is written by hand"),
        "{problems:?}"
    );
    write(&snapshot, &entry("reviews-1"), None).await;
    eventually("what was hidden to show", async || snapshot.view().is_generated(&entry("reviews-1"))).await;
    assert_eq!(snapshot.view().workload_problems("reviews-1"), [""; 0]);

    // A ServiceEntry of the host, whatever it is called.
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
    let mine = json!({
        "hosts": ["Reviews.shop.svc.cluster.local"], "ports": ports, "resolution": "STATIC", "location": "MESH_INTERNAL",
        "workloadSelector": {"labels": {"app": "reviews"}},
    });
    write(&snapshot, &service("mine"), Some(mine)).await;
    until_gone(&snapshot, &service("reviews")).await;
    write(&snapshot, &service("mine"), None).await;
    until_shown(&snapshot, &service("reviews")).await;
}

pub(crate) async fn a_group_is_the_template_of_its_workloads<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let store = snapshot.store();
    let group = ResourceKey::new(Kind::WorkloadGroup, "shop", "reviews");
    let mut member = reviews("reviews-1", "10.0.0.1");
    member.workload.group = "reviews".into();
    store.put_workloads("a", &[member]).await.unwrap();
    until_shown(&snapshot, &entry("reviews-1")).await;
    let problems = snapshot.view().workload_problems("reviews-1");
    assert!(problems[0].contains("there is no WorkloadGroup shop/reviews"), "{problems:?}");

    let template = json!({
        "metadata": {"labels": {"version": "v1", "app": "overridden"}, "annotations": {"team": "books"}},
        "template": {"ports": {"admin": 9999, "http": 1}, "serviceAccount": "books", "network": "vms", "weight": 5,
                     "locality": "eu/eu-1", "labels": {"tier": "back", "security.istio.io/tlsMode": "disabled"}},
    });
    write(&snapshot, &group, Some(template)).await;
    let shown = eventually("the template to be used", async || {
        snapshot.view().get(&entry("reviews-1")).filter(|object| object.object["spec"]["weight"] == 5).cloned()
    })
    .await;
    assert_eq!(
        shown.object["spec"],
        json!({
            "address": "10.0.0.1", "ports": {"admin": 9999, "http": 19080}, "network": "vms", "locality": "eu/eu-1",
            "labels": {"app": "reviews", "tier": "back", "version": "v1", "security.istio.io/tlsMode": "disabled"},
            "weight": 5, "serviceAccount": "books",
        })
    );
    assert_eq!(shown.object["metadata"]["annotations"]["team"], "books");
    assert_eq!(snapshot.view().workload_problems("reviews-1"), [""; 0]);
}

pub(crate) async fn a_watch_sees_what_is_generated_in_one_order<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let store = snapshot.store();
    let mut watch = snapshot.watch(snapshot.view().resource_version()).of_kind(Kind::WorkloadEntry);
    store.put_workloads("a", &[reviews("reviews-1", "10.0.0.1")]).await.unwrap();
    until_shown(&snapshot, &entry("reviews-1")).await;
    write(&snapshot, &entry("by-hand"), Some(json!({"address": "10.0.0.9"}))).await;
    store.drop_workloads("a", &["reviews-1".to_owned()]).await.unwrap();
    let mut seen = Vec::new();
    let mut last = 0;
    while seen.len() < 5 {
        let change = tokio::time::timeout(DEADLINE, watch.next()).await.unwrap().unwrap();
        assert!(change.resource_version >= last);
        last = change.resource_version;
        seen.push((change.key.name.to_string(), change.before.is_some(), change.after.is_some()));
    }
    let one = |name: &str, before, after| (name.to_owned(), before, after);
    assert_eq!(
        seen,
        [
            // The kinds of one workload come in the order of kinds.
            one("reviews", false, true),
            one("reviews-1", false, true),
            one("by-hand", false, true),
            one("reviews", true, false),
            one("reviews-1", true, false),
        ]
    );
    // What is generated is in no database: who comes from too long ago starts anew, unless the kind is another.
    let restarted = Snapshot::load(store.clone()).await.unwrap();
    assert!(matches!(restarted.watch(0).of_kind(Kind::ServiceEntry).next().await, Err(StoreError::Expired { .. })));
    assert!(restarted.watch(0).of_kind(Kind::Gateway).next().await.is_ok());
}
