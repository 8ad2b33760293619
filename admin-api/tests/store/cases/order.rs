//! What watchers may rely on: every write, once, in order.

use std::time::{Duration, Instant};

use admin_api::store::{HistoryQuery, Precondition, StoreError, Watch};
use jiff::Timestamp;
use route_model::compile::Changed;
use testkit::wait::{DEADLINE, eventually};

use crate::backend::Backend;
use crate::requests::{create, delete, put, service, set, upsert};

const WRITERS: usize = 16;
const WRITES_EACH: usize = 12;

async fn take(watch: &mut Watch, count: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let change = tokio::time::timeout(DEADLINE, watch.next()).await.expect("the next write comes").unwrap();
        seen.push(change.resource_version);
    }
    seen
}

pub(crate) async fn sixteen_writers_and_no_watcher_skips_or_reorders<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let start = snapshot.view().resource_version();
    let total = WRITERS * WRITES_EACH;

    let watchers: Vec<_> = (0..4)
        .map(|_| {
            let mut watch = snapshot.watch(start);
            tokio::spawn(async move { take(&mut watch, total).await })
        })
        .collect();
    // The store's own log, read while it grows: nothing may appear behind the position reached.
    let store = snapshot.store().clone();
    let poller = tokio::spawn(async move {
        let mut seen = Vec::new();
        let mut position = start;
        while seen.len() < total {
            let tail = store.tail(position, 7).await.unwrap();
            seen.extend(tail.changes.iter().map(|change| change.resource_version));
            position = tail.upto;
        }
        seen
    });
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let snapshot = snapshot.clone();
            tokio::spawn(async move {
                for n in 0..WRITES_EACH {
                    let name = format!("w{writer}");
                    let changes = match n % 3 {
                        0 => create(&name, 200 + n as u32),
                        1 => upsert(&name, 200 + n as u32),
                        _ => set([delete(&service(&name), Precondition::Exists)]),
                    };
                    snapshot.commit(changes).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }

    let expected: Vec<u64> = (start + 1..=start + total as u64).collect();
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), expected, "each write once, in order");
    }
    assert_eq!(poller.await.unwrap(), expected);
    assert_eq!(take(&mut snapshot.watch(start), total).await, expected, "a late watcher sees the same");

    // What a watcher was told is the history: each before is the after that preceded it.
    let mut history = snapshot
        .store()
        .history(HistoryQuery { key: Some(service("w3")), limit: 100, ..HistoryQuery::default() })
        .await
        .unwrap();
    history.reverse();
    assert_eq!(history.len(), WRITES_EACH);
    for pair in history.windows(2) {
        let after = pair[0].after.as_ref().map(|object| object.resource_version);
        assert_eq!(after, pair[1].before.as_ref().map(|object| object.resource_version));
    }
}

pub(crate) async fn a_watch_resumes_from_where_it_was<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let start = snapshot.view().resource_version();
    for n in 0..5 {
        snapshot.commit(create(&format!("s{n}"), 200)).await.unwrap();
    }
    let first = take(&mut snapshot.watch(start), 3).await;
    assert_eq!(take(&mut snapshot.watch(first[2]), 2).await, [start + 4, start + 5]);

    // Another process, which has nothing of the past in memory.
    snapshot.store().close().await;
    let again = backend.snapshot().await;
    let mut watch = again.watch(first[2]);
    assert_eq!(take(&mut watch, 2).await, [start + 4, start + 5]);
    again.commit(create("new", 200)).await.unwrap();
    assert_eq!(take(&mut watch, 1).await, [start + 6], "and goes on with what is new");

    // A deletion is shown as the last state with a version of its own.
    again.commit(set([delete(&service("new"), Precondition::Exists)])).await.unwrap();
    let deletion = watch.next().await.unwrap();
    assert!(deletion.after.is_none());
    let shown = deletion.shown().unwrap();
    assert_eq!(shown.resource_version, start + 7);
    assert_eq!(shown.metadata().unwrap()["resourceVersion"], (start + 7).to_string());
}

pub(crate) async fn a_compacted_past_is_expired<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    let start = snapshot.view().resource_version();
    for n in 0..4 {
        snapshot.commit(upsert("old", 200 + n)).await.unwrap();
        snapshot.commit(upsert("kept", 200 + n)).await.unwrap();
    }
    let store = snapshot.store().clone();
    assert_eq!(store.compact(Timestamp::now() - jiff::SignedDuration::from_hours(1), &[]).await.unwrap(), 0);
    // What was written within this very moment is not older than it.
    eventually("all is compacted", async || {
        let compacted = store.compact(Timestamp::now(), &[service("kept")]).await.unwrap();
        if compacted == start + 8 { Ok(()) } else { Err(compacted) }
    })
    .await;

    match store.tail(start, 10).await {
        Err(StoreError::Expired { asked, oldest }) => assert_eq!((asked, oldest), (start, start + 8)),
        other => panic!("{other:?}"),
    }
    assert!(store.tail(start + 8, 10).await.unwrap().changes.is_empty());
    let history = |name: &str| HistoryQuery { key: Some(service(name)), limit: 10, ..HistoryQuery::default() };
    assert!(store.history(history("old")).await.unwrap().is_empty());
    assert_eq!(store.history(history("kept")).await.unwrap().len(), 4);

    // A process that starts now knows nothing older; the objects are all there.
    store.close().await;
    let again = backend.snapshot().await;
    assert!(again.view().get(&service("old")).is_some());
    let expired = again.watch(start + 1).next().await;
    assert!(matches!(expired, Err(StoreError::Expired { .. })), "{expired:?}");
    let mut watch = again.watch(again.view().resource_version());
    again.commit(upsert("old", 500)).await.unwrap();
    assert_eq!(take(&mut watch, 1).await, [start + 9]);
}

pub(crate) async fn a_write_shows_in_the_snapshot_at_once<B: Backend>(backend: B) {
    let snapshot = backend.snapshot().await;
    for n in 0..300 {
        snapshot.store().commit(create(&format!("filler{n}"), 200)).await.unwrap();
    }
    eventually("the fillers show", async || snapshot.view().get(&service("filler299")).is_some()).await;
    let mut took = Vec::new();
    for n in 0..50 {
        let started = Instant::now();
        let committed = snapshot.commit(set([put(
            &service("live"),
            Precondition::None,
            crate::requests::answering("live", 200 + n),
        )]));
        let revision = committed.await.unwrap().revision;
        took.push(started.elapsed());
        assert!(snapshot.view().revision() >= revision, "who wrote sees it");
        assert_eq!(snapshot.view().resources().revision, snapshot.view().revision());
    }
    took.sort();
    let median = took[took.len() / 2];
    println!("write until visible: median {median:?}, worst {:?}", took[took.len() - 1]);
    assert!(median < Duration::from_millis(50), "median {median:?}");
}

pub(crate) async fn a_watcher_that_falls_behind_reads_the_database<B: Backend>(backend: B) {
    const BIG: usize = 900 << 10;
    const WRITES: u64 = 80;
    let snapshot = backend.snapshot().await;
    let start = snapshot.view().resource_version();
    let mut slow = snapshot.watch(start);
    for n in 0..WRITES {
        let mut object = crate::requests::answering("big", 200);
        object["metadata"]["annotations"] = serde_json::json!({"n": n.to_string(), "weight": "x".repeat(BIG)});
        snapshot.commit(set([put(&service("big"), Precondition::None, object)])).await.unwrap();
    }
    // More than is kept in memory, and still nothing is missing.
    assert_eq!(take(&mut slow, WRITES as usize).await, (start + 1..=start + WRITES).collect::<Vec<_>>());
    assert!(matches!(snapshot.changed_between(start, start + WRITES), Changed::Everything));
    let last = snapshot.changed_between(start + WRITES - 2, start + WRITES);
    assert!(matches!(last, Changed::Keys(keys) if keys == [service("big")]));
}
