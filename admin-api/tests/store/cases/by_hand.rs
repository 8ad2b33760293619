//! Rows that a person changes in a database shell.

use admin_api::store::StoreError;
use sqlx::{Connection, PgConnection};
use testkit::eventually;

use crate::backend::{Backend, OnPostgres};
use crate::requests::{create, service, status_of, upsert};

const ANSWER_418: &str = r#"{"hosts": ["reviews.example"], "http": [{"directResponse": {"status": 418}}]}"#;

pub(crate) async fn a_row_edited_by_sql_goes_live<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let created = snapshot.commit(create("reviews", 200)).await.unwrap().written[0].object.clone().unwrap();
    let mut watch = snapshot.watch(created.resource_version);

    backend.sql(&format!("UPDATE resources SET spec = '{ANSWER_418}' WHERE name = 'reviews'")).await;
    let change = watch.next().await.unwrap();
    let (before, after) = (change.before.as_ref().unwrap(), change.after.as_ref().unwrap());
    assert_eq!((status_of(&before.object), status_of(&after.object)), (200, 418));
    assert_eq!((after.generation, &after.uid), (2, &created.uid));
    assert!(change.resource_version > created.resource_version);
    eventually("the row is live", async || status_of(&snapshot.view().get(&service("reviews")).unwrap().object) == 418)
        .await;
    let record = snapshot.store().revisions(None, 1).await.unwrap().remove(0);
    assert_eq!((record.revision, &*record.via), (change.revision, "sql"));

    // A statement that changes nothing is no write; the API goes on where the hand stopped.
    backend.sql("UPDATE resources SET spec = spec").await;
    let next = snapshot.commit(create("other", 200)).await.unwrap().written[0].object.clone().unwrap();
    assert_eq!(next.resource_version, change.resource_version + 1);
}

pub(crate) async fn an_invalid_row_is_quarantined<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    snapshot.commit(create("reviews", 200)).await.unwrap();
    snapshot.commit(create("other", 200)).await.unwrap();
    let key = service("reviews");
    let live = snapshot.view().resources().get(&key).unwrap().clone();

    for spec in [r#"{"hosts": "not a list"}"#, r#"{"hosts": ["reviews.example"], "http": [{"timeout": 7}]}"#, "[]"] {
        backend.sql(&format!("UPDATE resources SET spec = '{spec}' WHERE name = 'reviews'")).await;
        let seen = |view: &admin_api::store::View| view.get(&key).unwrap().object["spec"].to_string();
        let wanted = serde_json::from_str::<serde_json::Value>(spec).unwrap();
        eventually("the row shows as it is", async || {
            serde_json::from_str::<serde_json::Value>(&seen(&snapshot.view())).unwrap() == wanted
        })
        .await;
        let view = snapshot.view();
        let quarantined = view.quarantined(&key).unwrap();
        assert!(!quarantined.errors.is_empty());
        assert_eq!(quarantined.live_generation, Some(1));
        assert_eq!(view.resources().get(&key), Some(&live), "the last valid form stays live");
        assert_eq!(view.quarantine().count(), 1, "the fault does not spread");
    }

    snapshot.store().close().await;
    let again = backend.snapshot().await;
    assert_eq!(again.view().resources().get(&key).unwrap().spec, live.spec, "and after a restart");
    assert_eq!(again.view().quarantined(&key).unwrap().live_generation, Some(1));

    backend.sql(&format!("UPDATE resources SET spec = '{ANSWER_418}' WHERE name = 'reviews'")).await;
    eventually("the repaired row is live", async || again.view().quarantined(&key).is_none()).await;
    assert_ne!(again.view().resources().get(&key).unwrap().spec, live.spec);
}

pub(crate) async fn a_row_inserted_and_deleted_by_sql_is_seen<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let start = snapshot.view().resource_version();
    backend
        .sql(&format!(
            r#"INSERT INTO resources ("group", kind, namespace, name, spec)
               VALUES ('networking.istio.io', 'VirtualService', 'default', 'reviews', '{ANSWER_418}');
               INSERT INTO resources ("group", kind, namespace, name) VALUES ('example.com', 'Unheard', 'default', 'x')"#
        ))
        .await;
    eventually("the rows are read", async || snapshot.view().resource_version() == start + 2).await;
    let object = snapshot.view().get(&service("reviews")).cloned().unwrap();
    assert_eq!((object.generation, object.uid.len()), (1, 36));
    assert!(object.metadata().unwrap()["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(snapshot.view().resources().get(&service("reviews")).is_some());

    backend.sql("DELETE FROM resources WHERE name IN ('reviews', 'x')").await;
    eventually("the row is gone", async || snapshot.view().get(&service("reviews")).is_none()).await;
    assert!(snapshot.view().resources().get(&service("reviews")).is_none());
}

pub(crate) async fn one_transaction_by_hand_is_one_revision(backend: OnPostgres) {
    let snapshot = backend.snapshot().await;
    for name in ["a", "b", "c"] {
        snapshot.commit(create(name, 200)).await.unwrap();
    }
    let before = snapshot.view();
    backend
        .sql(
            "BEGIN;
             UPDATE resources SET labels = '{\"x\": \"1\"}' WHERE name IN ('a', 'b');
             DELETE FROM resources WHERE name = 'c';
             UPDATE resources SET name = name WHERE false;
             COMMIT",
        )
        .await;
    eventually("the transaction shows", async || snapshot.view().revision() > before.revision()).await;
    let view = snapshot.view();
    assert_eq!(view.revision().0, before.revision().0 + 1);
    assert_eq!(view.resource_version(), before.resource_version() + 3, "whole, never half of it");
    assert_eq!(backend.query("SELECT count(*)::text FROM revisions").await, view.revision().to_string());
}

pub(crate) async fn a_kind_is_a_table(backend: OnPostgres) {
    let snapshot = backend.snapshot().await;
    backend
        .sql(&format!(
            "INSERT INTO virtual_services (namespace, name, spec) VALUES ('default', 'reviews', '{ANSWER_418}')"
        ))
        .await;
    eventually("the row shows", async || snapshot.view().get(&service("reviews")).is_some()).await;
    let set = "UPDATE virtual_services SET spec = jsonb_set(spec, '{http,0,directResponse,status}', '503')";
    backend.sql(set).await;
    eventually("the edit shows", async || status_of(&snapshot.view().get(&service("reviews")).unwrap().object) == 503)
        .await;
    assert_eq!(backend.query("SELECT count(*)::text FROM gateways").await, "0");
    assert_eq!(backend.query("SELECT string_agg(name, ',') FROM virtual_services").await, "reviews");
}

pub(crate) async fn hands_and_programs_write_in_one_order(backend: OnPostgres) {
    const WRITES_EACH: usize = 15;
    let snapshot = backend.snapshot().await;
    for n in 0..4 {
        snapshot.commit(create(&format!("row{n}"), 200)).await.unwrap();
    }
    let start = snapshot.view();
    let url = backend.server.url();
    let hands: Vec<_> = (0..4)
        .map(|hand| {
            let url = url.clone();
            tokio::spawn(async move {
                let mut shell = PgConnection::connect(&url).await.unwrap();
                for n in 0..WRITES_EACH {
                    // Two rows in one transaction, in an order that would deadlock without the common lock.
                    let (first, second) = (hand % 4, 3 - hand % 4);
                    let label = |row| {
                        format!(
                            "UPDATE resources SET labels = '{{\"by\": \"{hand}-{n}-{row}\"}}' WHERE name = 'row{row}'"
                        )
                    };
                    let both = format!("BEGIN; {}; {}; COMMIT", label(first), label(second));
                    sqlx::raw_sql(sqlx::AssertSqlSafe(both)).execute(&mut shell).await.unwrap();
                }
            })
        })
        .collect();
    let programs: Vec<_> = (0..4)
        .map(|program| {
            let snapshot = snapshot.clone();
            tokio::spawn(async move {
                for n in 0..WRITES_EACH {
                    let name = format!("row{}", (program + n) % 4);
                    snapshot.commit(upsert(&name, 300 + (program * 100 + n) as u32)).await.unwrap();
                }
            })
        })
        .collect();
    for task in hands.into_iter().chain(programs) {
        task.await.unwrap();
    }
    let total = (4 * WRITES_EACH * 2 + 4 * WRITES_EACH) as u64;
    let mut watch = snapshot.watch(start.resource_version());
    let mut revision = start.revision();
    for expected in 1..=total {
        let change = watch.next().await.unwrap();
        assert_eq!(change.resource_version, start.resource_version() + expected);
        assert!(change.revision == revision || change.revision.0 == revision.0 + 1, "revisions rise by one");
        revision = change.revision;
    }
    assert_eq!(revision.0, start.revision().0 + (8 * WRITES_EACH) as u64, "one revision a transaction");
}

pub(crate) async fn a_transaction_left_open_in_psql_is_named(backend: OnPostgres) {
    let snapshot = backend.snapshot().await;
    snapshot.commit(create("other", 200)).await.unwrap();
    let mut shell = PgConnection::connect(&backend.server.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; UPDATE resources SET labels = '{\"a\": \"b\"}'").execute(&mut shell).await.unwrap();
    let refused = snapshot.commit(create("reviews", 200)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
    assert!(refused.to_string().contains("left open in psql"), "{refused}");
    sqlx::raw_sql("ROLLBACK").execute(&mut shell).await.unwrap();
    snapshot.commit(create("reviews", 200)).await.unwrap();
}
