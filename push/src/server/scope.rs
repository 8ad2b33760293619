//! What proxies of one scope are sent: the set, its recent past, and the serialised ways to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;
use route_model::meta::Revision;
use thiserror::Error;
use tokio::sync::watch;

use crate::digest::{SetDigest, Version};
use crate::message::{Delta, Key, Resume, Upsert};
use crate::rpc::frame::Frame;
use crate::{MAX_BODY_BYTES, MODEL_VERSION, PART_BYTES};

/// Changes that a scope remembers. A proxy that is further behind gets the whole set.
const LOG_ENTRIES: usize = 20_000;

/// Deltas that are kept serialised at a time: proxies are usually at one of very few revisions.
const CACHED_DELIVERIES: usize = 8;

/// A resource as it travels. Cloning shares the body.
#[derive(Clone, Debug)]
pub struct Entry {
    version: Version,
    body: Bytes,
    /// The generation of the model that a proxy needs for it.
    since: u32,
}

impl Entry {
    /// `body` is the object as JSON, at most [`MAX_BODY_BYTES`].
    pub fn new(body: impl Into<Bytes>) -> Result<Self, TooLarge> {
        let body = body.into();
        if body.len() > MAX_BODY_BYTES {
            return Err(TooLarge(body.len()));
        }
        Ok(Self { version: Version::of(&body), body, since: 1 })
    }

    /// For proxies of this generation of the model and newer ones only.
    pub fn since(self, model_version: u32) -> Self {
        Self { since: model_version, ..self }
    }
}

/// A resource that cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the resource has {0} bytes; at most {MAX_BODY_BYTES} can be sent to a proxy")]
pub struct TooLarge(usize);

/// The set of one scope, shared by all its proxies.
#[derive(Debug)]
pub struct Scope {
    id: Arc<str>,
    /// The generation of the model that its proxies know.
    model_version: u32,
    state: Mutex<State>,
    changed: watch::Sender<Revision>,
}

#[derive(Debug)]
struct State {
    entries: BTreeMap<Key, Entry>,
    /// What the scope's proxies are too old for.
    held_back: BTreeSet<Key>,
    digest: SetDigest,
    /// The revision that brought the last change to this scope.
    revision: Revision,
    /// The last revision of the control plane that this scope has taken in.
    seen: Revision,
    /// Which key changed, oldest first; `log_start` is the position of the first.
    log: VecDeque<Key>,
    log_start: u64,
    /// States this scope was in, oldest first: all that a delta can start from.
    past: VecDeque<Past>,
    /// Deltas to the present state, already serialised.
    deliveries: VecDeque<Arc<Delivery>>,
    next_nonce: u64,
}

#[derive(Clone, Copy, Debug)]
struct Past {
    digest: SetDigest,
    revision: Revision,
    /// Position in the log of the first change after this state.
    log_position: u64,
    /// When the next state came.
    until: SystemTime,
}

/// Where a proxy is: which state of the scope it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) revision: Revision,
    digest: SetDigest,
}

impl Position {
    pub(super) fn of_resume(resume: &Resume) -> Option<Self> {
        let digest = SetDigest::from_bytes(&resume.digest)?;
        Some(Self { revision: Revision(resume.revision), digest })
    }
}

/// A serialised delta. Every proxy that makes the same step is sent these same bytes.
#[derive(Debug)]
pub(super) struct Delivery {
    from: Option<Position>,
    pub(super) nonce: u64,
    pub(super) to: Position,
    pub(super) frames: Vec<Frame>,
}

impl Scope {
    /// An empty scope at revision 0, of proxies that know what this build knows. `id` names it towards proxies: what
    /// leads to the same id must be the same scope on every replica and after every restart.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        let state = State {
            entries: BTreeMap::new(),
            held_back: BTreeSet::new(),
            digest: SetDigest::default(),
            revision: Revision(0),
            seen: Revision(0),
            log: VecDeque::new(),
            log_start: 0,
            past: VecDeque::new(),
            deliveries: VecDeque::new(),
            next_nonce: 1,
        };
        let changed = watch::Sender::new(Revision(0));
        Self { id: id.into(), model_version: MODEL_VERSION, state: Mutex::new(state), changed }
    }

    /// The same, of proxies that know this generation of the model.
    pub fn of_model(self, model_version: u32) -> Self {
        Self { model_version, ..self }
    }

    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Takes in a revision: what it adds or changes here and what it takes away. Entries that are the same as before
    /// change nothing. Proxies hear of it if anything changed.
    pub fn publish(
        &self,
        revision: Revision,
        upserts: impl IntoIterator<Item = (Key, Entry)>,
        removed: impl IntoIterator<Item = Key>,
    ) {
        let mut state = self.lock();
        let before = state.past_now();
        for key in removed {
            state.remove(key);
        }
        for (key, entry) in upserts {
            state.take(key, entry, self.model_version);
        }
        self.published(state, before, revision);
    }

    /// Takes in a revision as a whole: what is not in `entries` is gone.
    pub fn replace(&self, revision: Revision, entries: impl IntoIterator<Item = (Key, Entry)>) {
        let mut state = self.lock();
        let before = state.past_now();
        let mut gone: BTreeSet<Key> = state.entries.keys().chain(&state.held_back).cloned().collect();
        for (key, entry) in entries {
            gone.remove(&key);
            state.take(key, entry, self.model_version);
        }
        for key in gone {
            state.remove(key);
        }
        self.published(state, before, revision);
    }

    fn published(&self, mut state: MutexGuard<'_, State>, before: Past, revision: Revision) {
        state.seen = revision;
        if state.digest != before.digest {
            // Revision 0 is "nothing", the base of whole sets, and no state to come from.
            if before.revision != Revision(0) {
                state.past.push_back(before);
            }
            state.revision = revision;
            state.deliveries.clear();
            state.trim();
        } else if state.revision == Revision(0) {
            // A scope that is empty still has to be told so.
            state.revision = revision;
        }
        drop(state);
        self.changed.send_replace(revision);
    }

    /// The last revision that was taken in.
    pub fn seen(&self) -> Revision {
        self.lock().seen
    }

    /// The kinds of which the scope would have resources if its proxies were newer.
    pub fn held_back(&self) -> BTreeSet<String> {
        self.lock().held_back.iter().map(|key| key.kind.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest revision that a proxy is at which acknowledged `revision`: revisions that bring nothing to this
    /// scope are in force without being sent.
    pub fn effective(&self, acked: Revision) -> Revision {
        let state = self.lock();
        if acked >= state.revision {
            return state.seen.max(acked);
        }
        // The state after the acknowledged one is the first that the proxy lacks.
        let next = state.past.iter().map(|past| past.revision).find(|revision| *revision > acked);
        Revision(next.unwrap_or(state.revision).0.saturating_sub(1)).max(acked)
    }

    /// Since when a proxy lacks something that acknowledged `revision` last; `None`: it lacks nothing.
    pub fn behind_since(&self, acked: Revision) -> Option<SystemTime> {
        let state = self.lock();
        if acked >= state.revision {
            return None;
        }
        // A state that is forgotten ended before the oldest that is known.
        let held = state.past.iter().rev().find(|past| past.revision <= acked).or(state.past.front());
        Some(held.map_or_else(SystemTime::now, |past| past.until))
    }

    /// Wakes with every revision that is taken in.
    pub(super) fn watch(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    /// What the proxy at `from` lacks; `None` when nothing.
    pub(super) fn delivery(&self, from: Option<Position>) -> Option<Arc<Delivery>> {
        let mut state = self.lock();
        if state.revision == Revision(0) || from.is_some_and(|from| from.digest == state.digest) {
            return None;
        }
        let past = from.and_then(|from| state.past.iter().rev().find(|past| past.digest == from.digest).copied());
        let from = from.filter(|_| past.is_some());
        if let Some(delivery) = state.deliveries.iter().find(|delivery| delivery.from == from) {
            return Some(delivery.clone());
        }
        let delivery = Arc::new(state.serialise(&self.id, from, past));
        state.deliveries.push_back(delivery.clone());
        if state.deliveries.len() > CACHED_DELIVERIES {
            state.deliveries.pop_front();
        }
        Some(delivery)
    }

    /// How many deltas were serialised so far.
    #[cfg(test)]
    pub(crate) fn serialised(&self) -> u64 {
        self.lock().next_nonce - 1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The present state, which is about to be over.
    fn past_now(&self) -> Past {
        Past {
            digest: self.digest,
            revision: self.revision,
            log_position: self.log_start + self.log.len() as u64,
            until: SystemTime::now(),
        }
    }

    /// Adds or changes, or holds back what proxies of this generation do not know.
    fn take(&mut self, key: Key, entry: Entry, model_version: u32) {
        if entry.since > model_version {
            self.remove(key.clone());
            self.held_back.insert(key);
        } else {
            self.held_back.remove(&key);
            self.upsert(key, entry);
        }
    }

    fn upsert(&mut self, key: Key, entry: Entry) {
        let version = entry.version;
        match self.entries.insert(key.clone(), entry) {
            Some(previous) if previous.version == version => return,
            Some(previous) => self.digest.remove(&key, previous.version),
            None => {}
        }
        self.digest.add(&key, version);
        self.log.push_back(key);
    }

    fn remove(&mut self, key: Key) {
        self.held_back.remove(&key);
        if let Some(previous) = self.entries.remove(&key) {
            self.digest.remove(&key, previous.version);
            self.log.push_back(key);
        }
    }

    /// Forgets what is too long ago.
    fn trim(&mut self) {
        let excess = self.log.len().saturating_sub(LOG_ENTRIES);
        self.log.drain(..excess);
        self.log_start += excess as u64;
        while self.past.front().is_some_and(|past| past.log_position < self.log_start) {
            self.past.pop_front();
        }
    }

    /// The keys that changed after a state.
    fn changed_since(&self, past: Past) -> BTreeSet<&Key> {
        self.log.range((past.log_position - self.log_start) as usize..).collect()
    }

    fn serialise(&mut self, scope: &str, from: Option<Position>, past: Option<Past>) -> Delivery {
        let to = Position { revision: self.revision, digest: self.digest };
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        let mut parts = Parts::new(Delta {
            revision: to.revision.0,
            base: from.map_or(0, |from| from.revision.0),
            nonce,
            more: true,
            scope: scope.to_owned(),
            ..Delta::default()
        });
        match past {
            Some(past) => {
                for key in self.changed_since(past) {
                    match self.entries.get(key) {
                        Some(entry) => parts.upsert(key, entry),
                        None => parts.remove(key),
                    }
                }
            }
            None => self.entries.iter().for_each(|(key, entry)| parts.upsert(key, entry)),
        }
        Delivery { from, nonce, to, frames: parts.finish(to.digest) }
    }
}

/// Cuts a delta into frames.
struct Parts {
    empty: Delta,
    part: Delta,
    bytes: usize,
    frames: Vec<Frame>,
}

impl Parts {
    fn new(empty: Delta) -> Self {
        Self { part: empty.clone(), empty, bytes: 0, frames: Vec::new() }
    }

    fn upsert(&mut self, key: &Key, entry: &Entry) {
        let upsert = Upsert { key: Some(key.clone()), version: entry.version.to_bytes(), body: entry.body.clone() };
        self.make_room(upsert.encoded_len());
        self.part.upserts.push(upsert);
    }

    fn remove(&mut self, key: &Key) {
        self.make_room(key.encoded_len());
        self.part.removed.push(key.clone());
    }

    fn make_room(&mut self, bytes: usize) {
        if self.bytes > 0 && self.bytes + bytes > PART_BYTES {
            let full = std::mem::replace(&mut self.part, self.empty.clone());
            self.frames.push(Frame(full.encode_to_vec().into()));
            self.bytes = 0;
        }
        self.bytes += bytes;
    }

    fn finish(mut self, digest: SetDigest) -> Vec<Frame> {
        self.part.more = false;
        self.part.digest = digest.to_bytes();
        self.frames.push(Frame(self.part.encode_to_vec().into()));
        self.frames
    }
}
