//! What is asked of a store and what it answers: change sets, and the events that writes become.

use std::sync::Arc;

use jiff::Timestamp;
use route_model::meta::{ResourceKey, Revision};
use serde::Serialize;
use serde_json::Value;

use super::object::StoredObject;
use super::workloads::RegisteredWorkload;

/// The writes of one transaction: all of them happen, as one revision, or none.
#[derive(Clone, Debug)]
pub struct ChangeSet {
    /// Who: a user or token name.
    pub author: String,
    /// Through what: `kubectl`, `console`, `fairway apply` …
    pub via: String,
    /// Why; may be empty.
    pub message: String,
    /// In order.
    pub writes: Vec<Write>,
    /// Objects that must exist when the writes happen (the namespace of what is created), else `NotFound`.
    pub require: Vec<ResourceKey>,
}

#[derive(Clone, Debug)]
pub struct Write {
    pub key: ResourceKey,
    pub precondition: Precondition,
    pub op: Op,
}

/// What must hold of the object when the write happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// It does not exist; else `AlreadyExists`.
    Absent,
    /// It exists; else `NotFound`.
    Exists,
    /// It exists with this resourceVersion; else `NotFound` or `Conflict`.
    Version(u64),
    /// Nothing: create or replace. A `Delete` of what does not exist does nothing.
    None,
}

#[derive(Clone, Debug)]
pub enum Op {
    /// The whole object as Kubernetes writes it. Of its metadata, `uid` counts only at creation (made if missing), and
    /// `resourceVersion`, `creationTimestamp` and `generation` do not: the store assigns them. `status` is dropped.
    Put(Value),
    Delete,
}

/// What became of a change set.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The revision that now holds the writes: a new one, unless no write changed anything.
    pub revision: Revision,
    /// One for each write, in its order.
    pub written: Vec<Written>,
}

/// What became of one write.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object as stored. After a `Delete`: its last state with the resourceVersion of the deletion, or nothing
    /// where there was nothing.
    pub object: Option<Arc<StoredObject>>,
    /// False when the write would have changed nothing and was left out.
    pub changed: bool,
}

/// One write, as watchers and history see it.
#[derive(Clone, Debug)]
pub struct Change {
    pub resource_version: u64,
    pub revision: Revision,
    pub key: ResourceKey,
    /// Nothing when the write created the object.
    pub before: Option<Arc<StoredObject>>,
    /// Nothing when the write deleted the object.
    pub after: Option<Arc<StoredObject>>,
}

impl Change {
    /// The object as a watcher is shown it: after the write, or as it was last with the deletion's resourceVersion.
    pub fn shown(&self) -> Option<Arc<StoredObject>> {
        match (&self.after, &self.before) {
            (Some(after), _) => Some(after.clone()),
            (None, Some(before)) => Some(Arc::new(before.at_version(self.resource_version))),
            (None, None) => None,
        }
    }
}

/// A piece of the log of writes.
#[derive(Clone, Debug)]
pub struct Tail {
    pub changes: Vec<Change>,
    /// The workloads that were written meanwhile, or left, by version.
    pub workloads: Vec<RegisteredWorkload>,
    /// The last write that was read; beyond the last change when that one was of a workload or of a kind that is unknown
    /// to this build.
    pub upto: u64,
    /// The revision of that write.
    pub revision: Revision,
}

/// Who made a revision, when, why and through what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionRecord {
    pub revision: Revision,
    pub at: Timestamp,
    pub author: String,
    pub via: String,
    pub message: String,
}
