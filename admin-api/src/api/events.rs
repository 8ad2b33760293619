//! Kubernetes events: what happened to a resource lately, for `kubectl describe` and `kubectl events`. They are made
//! from changes of status and live in memory only.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::status::{Condition, whole_seconds};
use crate::store::StoredObject;

/// Most events that are kept; the oldest go first.
const MAX_EVENTS: usize = 1000;
const BACKLOG: usize = 256;

#[derive(Debug)]
pub(crate) struct EventLog {
    ring: Mutex<Ring>,
    added: broadcast::Sender<Arc<Value>>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Value>>,
    made: u64,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self { ring: Mutex::default(), added: broadcast::Sender::new(BACKLOG) }
    }

    /// All events, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Value>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).events.iter().cloned().collect()
    }

    pub(crate) fn added(&self) -> broadcast::Receiver<Arc<Value>> {
        self.added.subscribe()
    }

    /// Makes an event of a turn of the `Programmed` condition. Waiting is no event, only what comes of it.
    pub(super) fn note(&self, object: &StoredObject, before: Option<&Condition>, after: &Condition, now: Timestamp) {
        let same = before.is_some_and(|before| (&before.reason, before.holds) == (&after.reason, after.holds));
        if same || after.holds.is_none() || matches!(after.reason.as_str(), "Pending" | "NoProxies") {
            return;
        }
        let info = object.key.kind.info();
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.made += 1;
        let time = whole_seconds(now);
        let namespace = if info.namespaced { &*object.key.namespace } else { "default" };
        let event = Arc::new(json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": format!("{}.{:016x}", object.key.name, (now.as_microsecond() as u64).wrapping_add(ring.made)),
                "namespace": namespace,
                "uid": uuid::Uuid::new_v4().to_string(),
                "resourceVersion": object.resource_version.to_string(),
                "creationTimestamp": time,
            },
            "involvedObject": {
                "kind": info.name,
                "namespace": &*object.key.namespace,
                "name": &*object.key.name,
                "uid": &*object.uid,
                "apiVersion": info.api_version(info.preferred_version()),
                "resourceVersion": object.resource_version.to_string(),
            },
            "reason": after.reason,
            "message": after.message,
            "type": if after.holds == Some(true) { "Normal" } else { "Warning" },
            "source": {"component": "fairway"},
            "reportingComponent": "fairway",
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        }));
        if ring.events.len() == MAX_EVENTS {
            ring.events.pop_front();
        }
        ring.events.push_back(event.clone());
        drop(ring);
        // Without watchers nobody needs to know.
        let _ = self.added.send(event);
    }
}
