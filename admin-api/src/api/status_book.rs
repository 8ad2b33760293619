//! Keeps the derived status of every resource, and tells watchers and the event log when one changes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use route_model::compile::Finding;
use route_model::kind::Kind;
use route_model::meta::{ResourceKey, Revision};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::compilation::Compilation;
use super::events::EventLog;
use super::status::{self, Acks, Condition, Facts, ProxyAck, Reach};
use crate::store::{Snapshot, StoredObject, View};

/// Least time between two derivations: a burst of writes and acknowledgements costs one. With many resources and proxies
/// they take no more than a fifth of the time.
const PAUSE: Duration = Duration::from_millis(10);
/// Status changes that a slow watcher may be behind before it looks at everything again.
const BACKLOG: usize = 256;

/// The status of every resource that has one.
#[derive(Debug)]
pub(crate) struct StatusBook {
    entries: RwLock<HashMap<ResourceKey, Entry, foldhash::fast::RandomState>>,
    changed: broadcast::Sender<Arc<[ResourceKey]>>,
}

#[derive(Debug)]
struct Entry {
    uid: Arc<str>,
    generation: i64,
    /// The first revision at which this generation was seen here; it holds it.
    since: Revision,
    conditions: [(Condition, Timestamp); 3],
    /// Nothing is wrong and nothing is waited for.
    settled: bool,
}

impl StatusBook {
    pub(crate) fn new() -> Self {
        Self { entries: RwLock::default(), changed: broadcast::Sender::new(BACKLOG) }
    }

    /// The keys of resources whose status changed, as it happens.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<[ResourceKey]>> {
        self.changed.subscribe()
    }

    /// The `status` of an object as it is now; nothing for kinds without one.
    pub(crate) fn status_of(&self, object: &StoredObject) -> Option<Value> {
        if object.key.kind == Kind::Namespace {
            let ending = object.metadata().is_some_and(|m| m.contains_key("deletionTimestamp"));
            return Some(json!({"phase": if ending { "Terminating" } else { "Active" }}));
        }
        if !is_derived(object.key.kind) || object.generated {
            return None;
        }
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&object.key).filter(|e| e.generation == object.generation && e.uid == object.uid);
        Some(if let Some(entry) = entry {
            status::to_value(&entry.conditions, object.generation)
        } else {
            let now = Timestamp::now();
            status::to_value(&status::pending().map(|condition| (condition, now)), object.generation)
        })
    }

    /// The `status` that a dry run answers: that of the object as it is stored, if it is.
    pub(crate) fn status_before(&self, object: &StoredObject) -> Option<Value> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&object.key).filter(|e| e.uid == object.uid);
        entry.map(|entry| status::to_value(&entry.conditions, entry.generation))
    }

    /// Derives every status anew. `findings` is sorted, as the compiler gives it.
    pub(crate) fn update(
        &self,
        view: &View,
        findings: &[Finding],
        proxies: &[ProxyAck],
        now: Timestamp,
        events: &EventLog,
    ) {
        let floors = Floors::of(proxies);
        let mut changed = Vec::new();
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let mut live = 0;
        for object in Kind::ALL.into_iter().filter(|k| is_derived(*k)).flat_map(|kind| view.list(kind, None)) {
            if object.generated {
                continue;
            }
            live += 1;
            let key = &object.key;
            let previous = entries.get(key).filter(|e| e.uid == object.uid);
            let since = match previous {
                Some(entry) if entry.generation == object.generation => entry.since,
                _ => view.revision(),
            };
            let own = findings_of(findings, key);
            let quarantine = view.quarantined(key);
            let settled = own.is_empty() && quarantine.is_none() && floors.run(key, since);
            if settled && previous.is_some_and(|e| e.settled && e.generation == object.generation) {
                continue;
            }
            let derived = status::derive(Facts {
                key,
                findings: own,
                quarantine: quarantine.map(|q| (q.errors.as_slice(), q.live_generation)),
                since,
                proxies,
            });
            let before = previous.map(|e| &e.conditions);
            let same = before.is_some_and(|before| before.iter().zip(&derived).all(|((old, _), new)| old == new));
            if same && previous.is_some_and(|e| e.generation == object.generation) {
                continue;
            }
            if !same {
                events.note(object, before.map(|b| &b[2].0), &derived[2], now);
            }
            // A condition keeps its time until it turns, as Kubernetes' conditions do.
            let conditions = std::array::from_fn(|i| {
                let kept = before.filter(|b| b[i].0.holds == derived[i].holds).map(|b| b[i].1);
                (derived[i].clone(), kept.unwrap_or(now))
            });
            let entry = Entry { uid: object.uid.clone(), generation: object.generation, since, conditions, settled };
            entries.insert(key.clone(), entry);
            changed.push(key.clone());
        }
        if entries.len() > live {
            entries.retain(|key, _| view.get(key).is_some_and(|object| !object.generated));
        }
        drop(entries);
        if !changed.is_empty() {
            // Without watchers nobody needs to know.
            let _ = self.changed.send(changed.into());
        }
    }
}

/// How far the connected proxies are, together.
struct Floors<'a> {
    /// What proxies have in common, and the oldest revision that one of them runs.
    common: Vec<(&'a Reach, Revision)>,
    /// The same for what a few have beside it.
    own: HashMap<&'a ResourceKey, Revision, foldhash::fast::RandomState>,
    /// What a proxy has issues with.
    troubled: HashSet<&'a ResourceKey, foldhash::fast::RandomState>,
}

impl<'a> Floors<'a> {
    fn of(proxies: &'a [ProxyAck]) -> Self {
        let mut floors = Self { common: Vec::new(), own: HashMap::default(), troubled: HashSet::default() };
        for proxy in proxies.iter().filter(|p| p.connected) {
            match floors.common.iter_mut().find(|(reach, _)| reach.has_same_common(&proxy.reach)) {
                Some((_, floor)) => *floor = proxy.acked.min(*floor),
                None => floors.common.push((&proxy.reach, proxy.acked)),
            }
            for key in proxy.reach.own() {
                let floor = floors.own.entry(key).or_insert(proxy.acked);
                *floor = proxy.acked.min(*floor);
            }
            floors.troubled.extend(proxy.issues.iter().map(|issue| &issue.resource));
        }
        floors
    }

    /// Whether there are proxies that a resource is meant for, and all of them run it without an issue.
    fn run(&self, key: &ResourceKey, since: Revision) -> bool {
        let common = self.common.iter().filter(|(reach, _)| reach.common_contains(key, since) != Some(false));
        let mut in_scope = common.map(|(_, floor)| floor).chain(self.own.get(key)).peekable();
        in_scope.peek().is_some() && in_scope.all(|floor| *floor >= since) && !self.troubled.contains(key)
    }
}

fn is_derived(kind: Kind) -> bool {
    kind.info().has_status && kind != Kind::Namespace
}

fn findings_of<'a>(findings: &'a [Finding], key: &ResourceKey) -> &'a [Finding] {
    let first = findings.partition_point(|f| f.resource < *key);
    let len = findings[first..].partition_point(|f| f.resource == *key);
    &findings[first..first + len]
}

/// Keeps the book for as long as it is polled.
pub(crate) async fn keep(
    book: Arc<StatusBook>,
    compilation: Arc<Compilation>,
    events: Arc<EventLog>,
    snapshot: Snapshot,
    mut acks: Acks,
) {
    let mut views = snapshot.views();
    let mut proxies_may_change = true;
    loop {
        let began = Instant::now();
        let view = views.borrow_and_update().clone();
        let proxies = acks.borrow_and_update().clone();
        let (book, compilation, events) = (book.clone(), compilation.clone(), events.clone());
        let derived = tokio::task::spawn_blocking(move || {
            let compiled = compilation.of(&view);
            book.update(&view, &compiled.findings, &proxies, Timestamp::now(), &events);
        });
        if let Err(error) = derived.await {
            tracing::error!(%error, "deriving status failed; it is tried again with the next change");
        }
        tokio::time::sleep(PAUSE.max(began.elapsed() * 4)).await;
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            changed = acks.changed(), if proxies_may_change => proxies_may_change = changed.is_ok(),
        }
    }
}
