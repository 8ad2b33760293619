//! Keeps a [`Snapshot`] in step with the store.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::super::{Change, HistoryQuery, Loaded, Store, StoreError, StoredObject, Tail};
use super::{Health, Snapshot, View};

/// Without a wake-up the store is asked this often.
const POLL: Duration = Duration::from_secs(5);
/// Writes taken at a time.
const BATCH: u32 = 1000;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(3);
/// How many states of an invalid object are looked through for its last valid one, at a start.
const FORMS_LOOKED_AT: u32 = 100;

/// Reads everything into a view.
pub(super) async fn load(store: &dyn Store) -> Result<View, StoreError> {
    let Loaded { head, objects, tokens, workloads } = store.load().await?;
    let (resource_version, revision) = (head.resource_version, head.revision);
    let mut view = View::empty(head);
    view.set_tokens(tokens);
    for object in objects {
        let object = Arc::new(object);
        if view.put(object.clone()).is_err() {
            revive(store, &mut view, &object).await?;
        }
    }
    view.advance(resource_version, revision);
    view.register(workloads, &[]);
    Ok(view)
}

/// Looks in the history for the last valid form of an object that is invalid.
async fn revive(store: &dyn Store, view: &mut View, object: &StoredObject) -> Result<(), StoreError> {
    let query = HistoryQuery { key: Some(object.key.clone()), limit: FORMS_LOOKED_AT, ..HistoryQuery::default() };
    for change in store.history(query).await? {
        let of_another_life = change.after.as_ref().is_none_or(|form| form.uid != object.uid);
        if of_another_life || change.after.is_some_and(|form| view.keep_live(&form)) {
            break;
        }
        if change.before.is_some_and(|form| form.uid == object.uid && view.keep_live(&form)) {
            break;
        }
    }
    warn_of_quarantine(view, object);
    Ok(())
}

/// Follows the store and never returns.
pub(super) async fn follow(snapshot: &Snapshot) {
    let mut retry = FIRST_RETRY;
    loop {
        match catch_up(snapshot).await {
            Ok(()) => {
                retry = FIRST_RETRY;
                set_live(snapshot);
                snapshot.store.changed(POLL).await;
            }
            Err(error) => {
                set_away(snapshot, &error);
                tokio::time::sleep(retry.mul_f64(0.5 + fastrand::f64())).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
    }
}

fn set_live(snapshot: &Snapshot) {
    let back = snapshot.shared.health.send_if_modified(|health| {
        let was_away = *health != Health::Live;
        *health = Health::Live;
        was_away
    });
    if back {
        tracing::info!(database = snapshot.store.location(), "the database is back");
    }
}

fn set_away(snapshot: &Snapshot, error: &StoreError) {
    snapshot.shared.health.send_if_modified(|health| {
        if matches!(health, Health::Away { .. }) {
            return false;
        }
        tracing::error!(%error, "cannot follow the database, reads are answered from memory");
        *health = Health::Away { since: Timestamp::now(), reason: error.to_string() };
        true
    });
}

/// Brings the snapshot to the store's head.
async fn catch_up(snapshot: &Snapshot) -> Result<(), StoreError> {
    let store = &*snapshot.store;
    let head = store.head().await?;
    let mut view = View::clone(&snapshot.view());
    if head == view.head {
        return Ok(());
    }
    if head.store_id != view.head.store_id || head.resource_version < view.head.resource_version {
        tracing::warn!(database = store.location(), "the database was replaced, starting from what it holds now");
        return reload(snapshot, true).await;
    }
    if head.tokens != view.head.tokens {
        view.set_tokens(store.tokens().await?);
        view.head.tokens = head.tokens;
        snapshot.shared.view.send_replace(Arc::new(view.clone()));
    }
    while view.head.resource_version < head.resource_version {
        match store.tail(view.head.resource_version, BATCH).await {
            Ok(tail) if tail.upto == view.head.resource_version => break,
            Ok(tail) => apply(snapshot, &mut view, tail),
            // We were away for longer than history is kept.
            Err(StoreError::Expired { .. }) => return reload(snapshot, false).await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn reload(snapshot: &Snapshot, replaced: bool) -> Result<(), StoreError> {
    let view = load(&*snapshot.store).await?;
    snapshot.shared.log.restart(view.resource_version(), replaced);
    snapshot.shared.view.send_replace(Arc::new(view));
    Ok(())
}

/// Applies whole revisions and shows the result.
fn apply(snapshot: &Snapshot, view: &mut View, tail: Tail) {
    let mut changes = Vec::with_capacity(tail.changes.len());
    for mut change in tail.changes {
        share_before(view, &mut change);
        match &change.after {
            Some(object) => {
                if view.put(object.clone()).is_err() {
                    warn_of_quarantine(view, object);
                }
            }
            None => view.remove(&change.key),
        }
        changes.push(Arc::new(change));
    }
    view.advance(tail.upto, tail.revision);
    let generated = view.register(tail.workloads, &changes);
    changes.extend(generated.into_iter().map(Arc::new));
    // The log first: a watcher that the view wakes finds what woke it.
    snapshot.shared.log.append(changes);
    snapshot.shared.view.send_replace(Arc::new(view.clone()));
}

/// `before` is as a rule what the view holds already; one copy in memory is enough.
fn share_before(view: &View, change: &mut Change) {
    let Some(before) = &mut change.before else { return };
    if let Some(held) = view.get(&change.key)
        && held.resource_version == before.resource_version
    {
        *before = held.clone();
    }
}

fn warn_of_quarantine(view: &View, object: &StoredObject) {
    let Some(quarantined) = view.quarantined(&object.key) else { return };
    let errors = quarantined.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let live_generation = quarantined.live_generation;
    tracing::warn!(resource = %object.key, errors, live_generation, "the row is invalid, its last valid form stays live");
}
