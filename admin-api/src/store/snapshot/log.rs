//! The last writes, in memory, shared by all watchers: bounded in number and in size.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use route_model::meta::ResourceKey;
use serde_json::Value;

use super::super::Change;

/// A watcher further behind than this reads the database.
const MAX_CHANGES: usize = 8192;
const MAX_BYTES: usize = 64 << 20;

/// What a watcher finds behind its position.
#[derive(Debug)]
pub(super) enum Next {
    /// Nothing yet.
    End,
    Changes(VecDeque<Arc<Change>>),
    /// Too far behind: the next write has left memory.
    Gone,
    /// The database was replaced; positions of before mean nothing now.
    Replaced,
}

#[derive(Debug)]
pub(super) struct Log(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    changes: VecDeque<(Arc<Change>, usize)>,
    bytes: usize,
    /// Every write after this resourceVersion up to the newest is in `changes`.
    start: u64,
    /// Counts replacements of the database.
    epoch: u64,
}

impl Log {
    pub(super) fn new(start: u64) -> Self {
        Self(Mutex::new(Ring { changes: VecDeque::new(), bytes: 0, start, epoch: 0 }))
    }

    pub(super) fn epoch(&self) -> u64 {
        self.ring().epoch
    }

    /// Where memory begins: a position before this finds [`Next::Gone`].
    pub(super) fn start(&self) -> u64 {
        self.ring().start
    }

    pub(super) fn append(&self, changes: impl IntoIterator<Item = Arc<Change>>) {
        let mut ring = self.ring();
        for change in changes {
            let size = size_of_change(&change);
            ring.bytes += size;
            ring.changes.push_back((change, size));
        }
        while ring.changes.len() > MAX_CHANGES || ring.bytes > MAX_BYTES {
            let Some((oldest, size)) = ring.changes.pop_front() else { break };
            ring.bytes -= size;
            ring.start = oldest.resource_version;
        }
    }

    /// Forgets all; the log starts anew after `start`.
    pub(super) fn restart(&self, start: u64, replaced: bool) {
        let mut ring = self.ring();
        ring.changes.clear();
        ring.bytes = 0;
        ring.start = start;
        ring.epoch += u64::from(replaced);
    }

    /// At most `limit` writes after `position`.
    pub(super) fn after(&self, position: u64, epoch: u64, limit: usize) -> Next {
        let ring = self.ring();
        if ring.epoch != epoch {
            return Next::Replaced;
        }
        if position < ring.start {
            return Next::Gone;
        }
        let first = ring.changes.partition_point(|(change, _)| change.resource_version <= position);
        if first == ring.changes.len() {
            return Next::End;
        }
        Next::Changes(ring.changes.iter().skip(first).take(limit).map(|(change, _)| change.clone()).collect())
    }

    pub(super) fn keys_between(&self, from: u64, to: u64) -> Option<Vec<ResourceKey>> {
        let ring = self.ring();
        if from < ring.start {
            return None;
        }
        let first = ring.changes.partition_point(|(change, _)| change.resource_version <= from);
        let changes = ring.changes.iter().skip(first).map(|(change, _)| change);
        let keys: BTreeSet<_> = changes.take_while(|c| c.resource_version <= to).map(|c| c.key.clone()).collect();
        Some(keys.into_iter().collect())
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// About what the change holds in memory alone: `before` is as a rule the `after` of an earlier one.
fn size_of_change(change: &Change) -> usize {
    const FIXED: usize = 512;
    FIXED + change.after.as_ref().or(change.before.as_ref()).map_or(0, |object| size_of_value(&object.object))
}

fn size_of_value(value: &Value) -> usize {
    const NODE: usize = 72;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => NODE,
        Value::String(text) => NODE + text.len(),
        Value::Array(items) => NODE + items.iter().map(size_of_value).sum::<usize>(),
        Value::Object(fields) => NODE + fields.iter().map(|(n, v)| NODE + n.len() + size_of_value(v)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use route_model::kind::Kind;
    use route_model::meta::Revision;

    use super::*;

    fn change(resource_version: u64) -> Arc<Change> {
        let key = ResourceKey::new(Kind::Gateway, "shop", format!("g{}", resource_version % 3));
        Arc::new(Change { resource_version, revision: Revision(resource_version), key, before: None, after: None })
    }

    fn versions(next: Next) -> Vec<u64> {
        match next {
            Next::Changes(changes) => changes.iter().map(|c| c.resource_version).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_watcher_finds_what_follows_its_position() {
        let log = Log::new(10);
        assert!(matches!(log.after(10, 0, 9), Next::End));
        log.append([change(11), change(13), change(14)]);
        assert_eq!(versions(log.after(10, 0, 9)), [11, 13, 14]);
        assert_eq!(versions(log.after(12, 0, 1)), [13]);
        assert!(matches!(log.after(14, 0, 9), Next::End));
        assert!(matches!(log.after(9, 0, 9), Next::Gone));
        assert_eq!(log.keys_between(10, 13).unwrap().len(), 2);
        assert!(log.keys_between(9, 13).is_none());
    }

    #[test]
    fn memory_is_bounded_and_who_falls_behind_is_told() {
        let log = Log::new(0);
        log.append((1..=MAX_CHANGES as u64 + 5).map(change));
        assert!(matches!(log.after(4, 0, 9), Next::Gone));
        assert_eq!(versions(log.after(5, 0, 1)), [6]);
    }

    #[test]
    fn a_replaced_database_ends_every_watch() {
        let log = Log::new(5);
        log.restart(3, true);
        assert!(matches!(log.after(5, 0, 9), Next::Replaced));
        assert!(matches!(log.after(3, log.epoch(), 9), Next::End));
    }
}
