//! Restarts, lost connections, and databases that must not be opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use admin_api::store::seal::MasterKey;
use admin_api::store::{Health, PostgresOptions, PostgresStore, Precondition, SqliteOptions, SqliteStore, StoreError};
use testkit::wait::{DEADLINE, eventually};

use crate::backend::{Backend, OnPostgres, OnSqlite};
use crate::requests::{create, delete, service, set, status_of, upsert};

pub(crate) async fn everything_is_there_after_a_restart<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    for n in 0..20 {
        snapshot.commit(create(&format!("s{n}"), 200 + n)).await.unwrap();
    }
    snapshot.commit(set([delete(&service("s7"), Precondition::Exists)])).await.unwrap();
    let before = snapshot.view();
    snapshot.store().close().await;

    let again = backend.snapshot().await.view();
    assert_eq!((again.revision(), again.resource_version()), (before.revision(), before.resource_version()));
    assert_eq!(again.resources().len(), before.resources().len());
    assert_eq!(again.resources().revision, again.revision());
    for object in before.list(service("").kind, None) {
        let kept = again.get(&object.key).unwrap();
        assert_eq!((&kept.object, &kept.uid, kept.generation), (&object.object, &object.uid, object.generation));
    }
    assert!(again.get(&service("s7")).is_none());
}

pub(crate) async fn a_newer_schema_is_refused<B: Backend>(backend: B) {
    backend.open().await.close().await;
    backend.sql("INSERT INTO fairway_schema (version, name) VALUES (999, 'of a later build')").await;
    let refused = backend.open_with(backend.master().clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::SchemaTooNew { found: 999, .. }), "{refused:?}");
    assert!(refused.to_string().contains("has schema 999"), "{refused}");
    backend.sql("DELETE FROM fairway_schema WHERE version = 999").await;
    backend.open().await;
}

pub(crate) async fn a_wrong_master_key_is_refused<B: Backend>(backend: B) {
    let store = backend.open().await;
    store.commit(create("reviews", 200)).await.unwrap();
    store.close().await;
    let wrong = MasterKey::random();
    let refused = backend.open_with(wrong.clone()).await.unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, StoreError::WrongMasterKey { .. }), "{text}");
    assert!(text.contains(&wrong.fingerprint()) && text.contains(&backend.master().fingerprint()), "{text}");
    assert_eq!(backend.snapshot().await.view().list(service("").kind, None).count(), 1, "nothing was lost");
}

pub(crate) async fn the_database_goes_away_and_comes_back(mut backend: OnPostgres) {
    let snapshot = backend.snapshot().await;
    snapshot.commit(create("reviews", 200)).await.unwrap();
    let mut watch = snapshot.watch(snapshot.view().resource_version());
    assert_eq!(snapshot.health(), Health::Live);

    backend.server.stop();
    eventually("the outage is noticed", async || snapshot.health() != Health::Live).await;
    let Health::Away { reason, .. } = snapshot.health() else { panic!("away") };
    assert!(reason.contains("is not available"), "{reason}");
    assert_eq!(status_of(&snapshot.view().get(&service("reviews")).unwrap().object), 200, "reads go on");
    let started = Instant::now();
    let refused = snapshot.commit(upsert("reviews", 201)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused}");
    assert!(!refused.to_string().contains("postgres://postgres@") || !refused.to_string().contains(':'), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(6), "a write fails soon: {:?}", started.elapsed());

    backend.server.resume();
    eventually("the database is back", async || snapshot.health() == Health::Live).await;
    eventually("a write goes through", async || snapshot.commit(upsert("reviews", 202)).await).await;
    let change = tokio::time::timeout(DEADLINE, watch.next()).await.unwrap().unwrap();
    assert_eq!(status_of(&change.after.as_ref().unwrap().object), 202, "the watch went on");
    assert_eq!(status_of(&change.before.as_ref().unwrap().object), 200);

    // Notices arrive again, not only polls: what another process writes shows soon.
    let started = Instant::now();
    backend.sql("UPDATE virtual_services SET labels = '{\"by\": \"hand\"}'").await;
    eventually("the row shows", async || snapshot.view().get(&service("reviews")).unwrap().label("by").is_some()).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

pub(crate) async fn a_file_serves_one_process(backend: OnSqlite) {
    use std::os::unix::fs::PermissionsExt;

    let store = backend.open().await;
    store.commit(create("reviews", 200)).await.unwrap();
    for file in backend.path().parent().unwrap().read_dir().unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.path().display());
    }
    let second = backend.open_with(backend.master().clone()).await.unwrap_err();
    assert!(matches!(second, StoreError::InUse { .. }), "{second}");
    drop(store);
    backend.open().await;
}

pub(crate) async fn a_replaced_database_is_read_anew<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    for name in ["a", "b", "c"] {
        snapshot.commit(create(name, 200)).await.unwrap();
    }
    let mut watch = snapshot.watch(snapshot.view().resource_version());
    // A backup from before "b" and "c" comes back under it.
    backend
        .sql(
            "DELETE FROM resources WHERE name IN ('b', 'c'); DELETE FROM history;
             UPDATE clock SET resource_version = 1, revision = 1, compacted = 1; UPDATE instance SET store_id = 'other'",
        )
        .await;
    let ended = loop {
        match tokio::time::timeout(DEADLINE, watch.next()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, StoreError::Expired { .. }), "{ended:?}");
    let view = snapshot.view();
    assert_eq!((view.resource_version(), view.list(service("").kind, None).count()), (1, 1));
    let next = snapshot.commit(create("d", 200)).await.unwrap();
    assert_eq!((next.revision.0, next.written[0].object.as_ref().unwrap().resource_version), (2, 2));
}

pub(crate) async fn what_was_acknowledged_survives_a_crash(mut backend: OnPostgres) {
    const WRITERS: usize = 6;
    let snapshot = backend.snapshot().await;
    let running = Arc::new(AtomicBool::new(true));
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (snapshot, running, count) = (snapshot.clone(), running.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut stored = Vec::new();
                for n in 0.. {
                    if !running.load(Relaxed) {
                        break;
                    }
                    let name = format!("w{writer}-{n}");
                    match snapshot.store().commit(create(&name, 200)).await {
                        Ok(committed) => {
                            stored.push((name, committed.revision));
                            count.fetch_add(1, Relaxed);
                        }
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                }
                stored
            })
        })
        .collect();
    for _ in 0..2 {
        let target = acknowledged.load(Relaxed) + 40;
        eventually("writes go through", async || acknowledged.load(Relaxed) >= target).await;
        // These block their thread; the writers have others.
        tokio::task::block_in_place(|| {
            backend.server.stop();
            backend.server.resume();
        });
    }
    let target = acknowledged.load(Relaxed) + 40;
    eventually("writes go through again", async || acknowledged.load(Relaxed) >= target).await;
    running.store(false, Relaxed);
    let mut stored = Vec::new();
    for writer in writers {
        stored.extend(writer.await.unwrap());
    }
    let newest = stored.iter().map(|(_, revision)| *revision).max().unwrap();
    tokio::time::timeout(DEADLINE, snapshot.reached(newest)).await.unwrap();
    let view = snapshot.view();
    for (name, _) in &stored {
        assert!(view.get(&service(name)).is_some(), "{name} was acknowledged");
    }
    let mut revisions: Vec<_> = stored.iter().map(|(_, revision)| revision.0).collect();
    revisions.sort_unstable();
    assert!(revisions.is_sorted_by(|a, b| a < b), "no revision was given twice");
}

pub(crate) async fn a_server_that_cannot_be_used_is_named(backend: OnPostgres) {
    let open = |url: String| async {
        PostgresStore::open(PostgresOptions::new(url), MasterKey::random()).await.unwrap_err().to_string()
    };
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = open(format!("postgres://me:hunter2@{closed}/fairway")).await;
    assert!(refused.contains(&closed.to_string()) && refused.contains("refused"), "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
    let missing = open(backend.server.url_of("nowhere")).await;
    assert!(missing.contains(r#"database "nowhere" does not exist"#), "{missing}");
    let malformed = open("postgres://me:hunter2@host:port/x".to_owned()).await;
    assert!(malformed.contains("malformed") && !malformed.contains("hunter2"), "{malformed}");
}

pub(crate) async fn a_file_that_cannot_be_used_is_named(backend: OnSqlite) {
    let open = |path: PathBuf| async {
        SqliteStore::open(SqliteOptions::new(path), MasterKey::random()).await.unwrap_err().to_string()
    };
    let garbage = "no database, but long enough to be taken for one at first sight ".repeat(100);
    std::fs::write(backend.path(), &garbage).unwrap();
    let refused = open(backend.path()).await;
    assert!(refused.contains("fairway.db") && refused.contains("not a database"), "{refused}");
    assert_eq!(std::fs::read_to_string(backend.path()).unwrap(), garbage, "it is left alone");
    let nowhere = open(backend.path().join("below/fairway.db")).await;
    assert!(nowhere.contains("below/fairway.db"), "{nowhere}");
}
