//! Creating, reading, changing and deleting objects.

use admin_api::store::{HistoryQuery, Precondition, StoreError};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use serde_json::{Value, json};

use crate::backend::{Backend, OnPostgres};
use crate::requests::{answering, create, delete, put, service, set, status_of, upsert};

pub(crate) async fn an_object_lives_from_creation_to_deletion<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let key = service("reviews");

    let created = snapshot.commit(create("reviews", 200)).await.unwrap();
    let first = created.written[0].object.clone().unwrap();
    assert!(created.written[0].changed);
    assert_eq!((first.generation, first.uid.len()), (1, 36));
    let meta = first.metadata().unwrap();
    assert_eq!(meta["resourceVersion"], first.resource_version.to_string());
    assert_eq!(meta["generation"], 1);
    assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(first.object["apiVersion"], "networking.istio.io/v1");
    assert_eq!(snapshot.view().get(&key).unwrap().object, first.object);

    let mut labelled = answering("reviews", 200);
    labelled["metadata"]["labels"] = json!({"team": "shop"});
    let labelled = set([put(&key, Precondition::Version(first.resource_version), labelled)]);
    let second = snapshot.commit(labelled).await.unwrap().written[0].object.clone().unwrap();
    assert_eq!(second.label("team"), Some("shop"));
    assert_eq!((second.generation, &second.uid), (1, &first.uid), "labels are no change of the spec");
    assert!(second.resource_version > first.resource_version);
    assert_eq!(second.metadata().unwrap()["creationTimestamp"], meta["creationTimestamp"]);

    let third = snapshot.commit(upsert("reviews", 503)).await.unwrap().written[0].object.clone().unwrap();
    assert_eq!((third.generation, status_of(&third.object)), (2, 503));

    let deleted = snapshot.commit(set([delete(&key, Precondition::Exists)])).await.unwrap();
    let last = deleted.written[0].object.clone().unwrap();
    assert!(last.resource_version > third.resource_version, "a deletion has a version of its own");
    assert_eq!(last.metadata().unwrap()["resourceVersion"], last.resource_version.to_string());
    assert!(snapshot.view().get(&key).is_none());
    assert_eq!(snapshot.view().resource_version(), last.resource_version);

    let again = snapshot.commit(create("reviews", 200)).await.unwrap().written[0].object.clone().unwrap();
    assert_ne!(again.uid, first.uid, "a new life, a new uid");
    assert_eq!(again.generation, 1);

    let query = HistoryQuery { key: Some(key), limit: 10, ..HistoryQuery::default() };
    let history = snapshot.store().history(query).await.unwrap();
    let seen: Vec<_> = history
        .iter()
        .map(|c| (c.before.as_ref().map(|o| o.resource_version), c.after.as_ref().map(|o| o.resource_version)))
        .collect();
    let (one, two, three, new) =
        (first.resource_version, second.resource_version, third.resource_version, again.resource_version);
    assert_eq!(
        seen,
        [(None, Some(new)), (Some(three), None), (Some(two), Some(three)), (Some(one), Some(two)), (None, Some(one))]
    );
}

pub(crate) async fn a_stale_resource_version_is_a_conflict<B: Backend>(backend: B) {
    let store = backend.open().await;
    let key = service("reviews");
    let first = store.commit(create("reviews", 200)).await.unwrap().written[0].object.clone().unwrap();
    let second = store.commit(upsert("reviews", 201)).await.unwrap().written[0].object.clone().unwrap();

    let stale = set([put(&key, Precondition::Version(first.resource_version), answering("reviews", 202))]);
    match store.commit(stale).await {
        Err(StoreError::Conflict { key: at, expected, current }) => {
            assert_eq!((at, expected, current), (key.clone(), first.resource_version, second.resource_version));
        }
        other => panic!("{other:?}"),
    }
    let stale = set([delete(&key, Precondition::Version(first.resource_version))]);
    assert!(matches!(store.commit(stale).await, Err(StoreError::Conflict { .. })));
    let loaded = store.load().await.unwrap();
    let kept = loaded.objects.iter().find(|object| object.key == key).unwrap();
    assert_eq!(status_of(&kept.object), 201);
}

pub(crate) async fn preconditions_hold_or_nothing_is_written<B: Backend>(backend: B) {
    let store = backend.open().await;
    store.commit(create("here", 200)).await.unwrap();
    let before = store.head().await.unwrap();

    let new = put(&service("new"), Precondition::Absent, answering("new", 200));
    let there = put(&service("here"), Precondition::Absent, answering("here", 500));
    let nowhere = delete(&service("nowhere"), Precondition::Exists);
    let gone = put(&service("nowhere"), Precondition::Version(7), answering("nowhere", 200));
    assert!(matches!(
        store.commit(set([new.clone(), there])).await,
        Err(StoreError::AlreadyExists { key }) if key == service("here")
    ));
    for failing in [nowhere, gone] {
        assert!(matches!(
            store.commit(set([new.clone(), failing])).await,
            Err(StoreError::NotFound { key }) if key == service("nowhere")
        ));
    }
    let mut homeless = set([new.clone()]);
    let home = ResourceKey::new(Kind::Namespace, "", "default");
    homeless.require = vec![home.clone()];
    assert!(matches!(store.commit(homeless).await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.head().await.unwrap(), before, "whole or not at all");

    let namespace = json!({"metadata": {"name": "default"}, "spec": {"finalizers": ["kubernetes"]}});
    store.commit(set([put(&home, Precondition::Absent, namespace)])).await.unwrap();
    let mut at_home = set([new]);
    at_home.require = vec![home];
    store.commit(at_home).await.unwrap();
}

pub(crate) async fn a_write_that_changes_nothing_is_no_write<B: Backend>(backend: B) {
    let store = backend.open().await;
    let mut object = answering("reviews", 200);
    object["spec"]["http"][0]["timeout"] = json!("1.5s");
    object["metadata"]["annotations"] = json!({"z": "1", "a": "2"});
    let write = |object| set([put(&service("reviews"), Precondition::None, object)]);
    let first = store.commit(write(object.clone())).await.unwrap();
    let head = store.head().await.unwrap();

    object["status"] = json!({"conditions": []});
    object["metadata"]["resourceVersion"] = json!("1");
    object["apiVersion"] = json!("networking.istio.io/v1beta1");
    let again = store.commit(write(object)).await.unwrap();
    assert!(!again.written[0].changed);
    assert_eq!(again.revision, first.revision);
    assert_eq!(again.written[0].object.as_ref().unwrap().object, first.written[0].object.as_ref().unwrap().object);

    let nothing = store.commit(set([delete(&service("nowhere"), Precondition::None)])).await.unwrap();
    assert!(!nothing.written[0].changed && nothing.written[0].object.is_none());
    assert_eq!(store.head().await.unwrap(), head);
}

pub(crate) async fn one_transaction_is_one_revision<B: Backend>(backend: B) {
    let store = backend.open().await;
    let before = store.head().await.unwrap();
    let mut writes: Vec<_> = (0..5)
        .map(|n| format!("s{n}"))
        .map(|name| put(&service(&name), Precondition::Absent, answering(&name, 200)))
        .collect();
    writes.push(delete(&service("s0"), Precondition::Exists));
    let committed = store.commit(set(writes)).await.unwrap();
    assert_eq!(committed.revision.0, before.revision.0 + 1);

    // A limit does not split a revision.
    let tail = store.tail(before.resource_version, 2).await.unwrap();
    assert_eq!(tail.changes.len(), 6);
    assert!(tail.changes.iter().all(|change| change.revision == committed.revision));
    assert!(tail.changes.is_sorted_by(|a, b| a.resource_version < b.resource_version));
    assert_eq!((tail.upto, tail.revision), (before.resource_version + 6, committed.revision));

    let record = store.revisions(None, 1).await.unwrap().remove(0);
    assert_eq!(record.revision, committed.revision);
    assert_eq!([&*record.author, &*record.via, &*record.message], ["alice", "suite", "as the case wants it"]);
    let age = record.at.until(jiff::Timestamp::now()).unwrap().get_seconds();
    assert!((-5..60).contains(&age), "written {age} s ago");
}

pub(crate) async fn secrets_are_sealed_as_whole_objects<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    snapshot.commit(create("reviews", 200)).await.unwrap();
    let key = ResourceKey::new(Kind::Secret, "default", "tls");
    let object = |data: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "tls", "annotations": {"note": format!("plain-{data}")}},
            "data": {"tls.key": data},
        })
    };
    snapshot.commit(set([put(&key, Precondition::None, object("Zmlyc3Q="))])).await.unwrap();
    snapshot.commit(set([put(&key, Precondition::None, object("c2Vjb25k"))])).await.unwrap();
    let stored = snapshot.view().get(&key).cloned().unwrap();
    assert_eq!(stored.object["data"]["tls.key"], "c2Vjb25k");
    assert_eq!(stored.object["type"], "kubernetes.io/tls");
    assert!(stored.metadata().unwrap().get("generation").is_none());
    let query = HistoryQuery { key: Some(key), limit: 1, ..HistoryQuery::default() };
    let change = snapshot.store().history(query).await.unwrap().remove(0);
    assert_eq!(change.before.unwrap().object["data"]["tls.key"], "Zmlyc3Q=");

    let everything = backend.dump().await;
    assert!(everything.contains("reviews.example"), "what is no secret is readable");
    for word in ["Zmlyc3Q", "c2Vjb25k", "plain-", "kubernetes.io/tls"] {
        assert!(!everything.contains(word), "{word} can be read in the database");
    }
}

/// An object of a kind whose spec may hold anything.
fn filter(spec: Value) -> Value {
    json!({"metadata": {"name": "any", "namespace": "default"}, "spec": spec})
}

pub(crate) async fn values_survive_as_they_are<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let key = ResourceKey::new(Kind::EnvoyFilter, "default", "any");
    let mut deep = json!("bottom");
    for _ in 0..60 {
        deep = json!({"down": [deep]});
    }
    let spec = json!({
        "numbers": [0, -1, u64::MAX, i64::MIN, 0.1, 1.5e-7, 1e300, 3.0],
        "texts": ["", " ", "\u{1}", "\n\t\"\\/", "é漢😀", "\u{fffd}", "' OR 1=1; --", "$1 ?1 {}"],
        "empty": [{}, [], "", null, false],
        "keys": {"": 1, "a b": 2, "ключ": 3, "z": 4, "a": 5},
        "deep": deep,
    });
    let write = set([put(&key, Precondition::Absent, filter(spec.clone()))]);
    let stored = snapshot.commit(write).await.unwrap().written[0].object.clone().unwrap();
    assert_eq!(stored.object["spec"], spec);
    snapshot.store().close().await;
    let again = backend.snapshot().await;
    assert_eq!(again.view().get(&key).unwrap().object, stored.object);
    let same = again.commit(set([put(&key, Precondition::Exists, filter(spec))])).await.unwrap();
    assert!(!same.written[0].changed);
}

pub(crate) async fn a_value_that_postgres_cannot_hold_is_refused(backend: OnPostgres) {
    let store = backend.open().await;
    let key = ResourceKey::new(Kind::EnvoyFilter, "default", "any");
    let refused = store.commit(set([put(&key, Precondition::Absent, filter(json!({"text": "a\0b"})))])).await;
    assert!(matches!(&refused, Err(StoreError::Invalid { key: at, .. }) if *at == key), "{refused:?}");
    store.commit(set([put(&key, Precondition::Absent, filter(json!({"text": "ab"})))])).await.unwrap();
}
