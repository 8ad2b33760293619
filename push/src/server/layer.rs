//! A set of resources that scopes have in common, or that one of them has for itself: what it is now, what it was, and
//! the serialised ways from there to here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;
use route_model::meta::Revision;
use thiserror::Error;

use crate::digest::{SetDigest, Version};
use crate::message::{Delta, Key, Upsert};
use crate::{MAX_BODY_BYTES, MODEL_VERSION, PART_BYTES};

/// Changes that a layer remembers, and the states between them. A proxy that is further behind gets the whole set.
const LOG_ENTRIES: usize = 20_000;
const PAST_STATES: usize = 1_024;

/// Ways to the present state that are kept serialised at a time: proxies are usually at one of very few revisions.
pub(super) const CACHED: usize = 8;

/// What is larger is kept only while somebody is being sent it.
const KEPT_BYTES: usize = 64 * 1024;

/// A resource as it travels. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Entry(Arc<Form>);

#[derive(Debug)]
struct Form {
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
        Ok(Self(Arc::new(Form { version: Version::of(&body), body, since: 1 })))
    }

    /// For proxies of this generation of the model and newer ones only.
    pub fn since(self, model_version: u32) -> Self {
        let Form { version, body, .. } = &*self.0;
        Self(Arc::new(Form { version: *version, body: body.clone(), since: model_version }))
    }
}

/// A resource that cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the resource has {0} bytes; at most {MAX_BODY_BYTES} can be sent to a proxy")]
pub struct TooLarge(usize);

/// What several scopes have in common: kept once, and serialised once for all of them.
#[derive(Debug)]
pub struct Layer {
    model_version: u32,
    state: Mutex<State>,
}

impl Layer {
    /// Empty, at revision 0, for proxies that know this generation of the model.
    pub fn new(model_version: u32) -> Self {
        Self { model_version, state: Mutex::default() }
    }

    /// Takes in a revision: what it adds or changes here and what it takes away. Proxies hear of it once each scope over
    /// this layer has taken in the revision too: half of one is never sent.
    pub fn publish(
        &self,
        revision: Revision,
        upserts: impl IntoIterator<Item = (Arc<Key>, Entry)>,
        removed: impl IntoIterator<Item = Key>,
    ) {
        let mut state = self.lock();
        state.publish(revision, upserts, removed, self.model_version);
        if state.revision == Revision(0) {
            // A set that is empty still has to be told so.
            state.revision = revision;
        }
    }

    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The generation of the model that the proxies know.
    pub fn model_version(&self) -> u32 {
        self.model_version
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::new(MODEL_VERSION)
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) entries: BTreeMap<Arc<Key>, Entry>,
    /// What the proxies are too old for.
    pub(super) held_back: BTreeSet<Arc<Key>>,
    pub(super) digest: SetDigest,
    /// The revision that brought the last change.
    pub(super) revision: Revision,
    /// How often something was published.
    pub(super) turn: u64,
    /// Which key changed, oldest first; `log_start` is the position of the first.
    log: VecDeque<Arc<Key>>,
    log_start: u64,
    /// States this layer was in, oldest first: all that a delta can start from.
    past: VecDeque<Past>,
    /// Whether there were older ones.
    forgot: bool,
    /// Ways to the present state, by where in the log they start.
    ways: VecDeque<(Option<u64>, Kept<Way>)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    digest: SetDigest,
    revision: Revision,
    /// Position in the log of the first change after this state.
    log_position: u64,
    /// When the next state came.
    until: SystemTime,
}

/// Upserts and removals, serialised: parts of messages, to be sent in this order.
pub(super) type Way = Vec<Bytes>;

impl State {
    pub(super) fn publish(
        &mut self,
        revision: Revision,
        upserts: impl IntoIterator<Item = (Arc<Key>, Entry)>,
        removed: impl IntoIterator<Item = Key>,
        model_version: u32,
    ) {
        let before = self.now();
        for key in removed {
            self.remove(&key);
        }
        for (key, entry) in upserts {
            self.take(key, entry, model_version);
        }
        self.published(before, revision);
    }

    /// Takes in a revision as a whole: what is not in `entries` is gone.
    pub(super) fn replace(
        &mut self,
        revision: Revision,
        entries: impl IntoIterator<Item = (Arc<Key>, Entry)>,
        model_version: u32,
    ) {
        let before = self.now();
        let mut gone: BTreeSet<Arc<Key>> = self.entries.keys().chain(&self.held_back).cloned().collect();
        for (key, entry) in entries {
            gone.remove(&key);
            self.take(key, entry, model_version);
        }
        for key in gone {
            self.remove(&key);
        }
        self.published(before, revision);
    }

    fn published(&mut self, before: Past, revision: Revision) {
        self.turn += 1;
        if self.digest != before.digest {
            // Revision 0 is "nothing", the base of whole sets, and no state to come from.
            if before.revision != Revision(0) {
                self.past.push_back(before);
            }
            self.revision = revision;
            self.ways.clear();
            self.trim();
        }
    }

    /// Adds or changes, or holds back what proxies of this generation do not know.
    fn take(&mut self, key: Arc<Key>, entry: Entry, model_version: u32) {
        if entry.0.since > model_version {
            self.remove(&key);
            self.held_back.insert(key);
        } else {
            self.held_back.remove(&key);
            self.upsert(key, entry);
        }
    }

    fn upsert(&mut self, key: Arc<Key>, entry: Entry) {
        let version = entry.0.version;
        match self.entries.insert(key.clone(), entry) {
            Some(previous) if previous.0.version == version => return,
            Some(previous) => self.digest.remove(&key, previous.0.version),
            None => {}
        }
        self.digest.add(&key, version);
        self.log.push_back(key);
    }

    fn remove(&mut self, key: &Key) {
        self.held_back.remove(key);
        if let Some((key, previous)) = self.entries.remove_entry(key) {
            self.digest.remove(&key, previous.0.version);
            self.log.push_back(key);
        }
    }

    /// Forgets what is too long ago.
    fn trim(&mut self) {
        let excess = self.log.len().saturating_sub(LOG_ENTRIES);
        self.log.drain(..excess);
        self.log_start += excess as u64;
        while self.past.len() > PAST_STATES || self.past.front().is_some_and(|past| past.log_position < self.log_start)
        {
            self.past.pop_front();
            self.forgot = true;
        }
        let needed = self.past.front().map_or(self.log_start + self.log.len() as u64, |past| past.log_position);
        self.log.drain(..(needed - self.log_start) as usize);
        self.log_start = needed;
    }

    /// Where this layer is.
    pub(super) fn now(&self) -> Past {
        Past {
            digest: self.digest,
            revision: self.revision,
            log_position: self.log_start + self.log.len() as u64,
            until: SystemTime::now(),
        }
    }

    /// When the state ended that this revision was; `None`: it is the present one.
    pub(super) fn ended(&self, revision: Revision) -> Option<SystemTime> {
        if revision >= self.revision {
            return None;
        }
        // A state that is forgotten ended before the oldest that is known.
        let held = self.past.iter().rev().find(|past| past.revision <= revision).or(self.past.front());
        Some(held.map_or_else(SystemTime::now, |past| past.until))
    }

    /// Where it was and is, newest first.
    pub(super) fn known(&self) -> impl Iterator<Item = Past> {
        std::iter::once(self.now()).chain(self.past.iter().rev().copied())
    }

    /// The known state with this digest.
    pub(super) fn with(&self, digest: SetDigest) -> Option<Past> {
        self.known().find(|past| past.digest == digest)
    }

    /// The first revision after this one that brought something, as far as that is known; it may be any if not.
    pub(super) fn first_after(&self, revision: Revision) -> Option<Revision> {
        if self.forgot && self.past.front().is_some_and(|oldest| revision < oldest.revision) {
            return Some(Revision(revision.0 + 1));
        }
        let states = self.past.iter().map(|past| past.revision).chain([self.revision]);
        states.into_iter().find(|state| *state > revision)
    }

    /// What leads here from a state that is known, or from nothing.
    pub(super) fn way(&mut self, from: Option<Past>) -> Arc<Way> {
        let position = from.map(|from| from.log_position);
        let known = self.ways.iter().find(|(from, _)| *from == position);
        if let Some(way) = known.and_then(|(_, way)| way.get()) {
            return way;
        }
        let way = Arc::new(self.serialise(position));
        self.ways.retain(|(from, _)| *from != position);
        self.ways.push_back((position, Kept::new(&way, way.iter().map(Bytes::len).sum())));
        if self.ways.len() > CACHED {
            self.ways.pop_front();
        }
        way
    }

    fn serialise(&self, position: Option<u64>) -> Way {
        let mut parts = Parts::default();
        let Some(position) = position else {
            self.entries.iter().for_each(|(key, entry)| parts.upsert(key, entry));
            return parts.finish();
        };
        let changed: BTreeSet<&Arc<Key>> = self.log.range((position - self.log_start) as usize..).collect();
        for key in changed {
            match self.entries.get(key) {
                Some(entry) => parts.upsert(key, entry),
                None => parts.remove(key),
            }
        }
        parts.finish()
    }
}

impl Past {
    pub(super) fn digest(&self) -> SetDigest {
        self.digest
    }
}

/// Cuts changes into parts. A part is a [`Delta`] with nothing else in it, so that what stands before it in a message
/// adds the rest.
#[derive(Default)]
struct Parts {
    part: Delta,
    bytes: usize,
    cut: Way,
}

impl Parts {
    fn upsert(&mut self, key: &Key, Entry(form): &Entry) {
        let upsert = Upsert { key: Some(key.clone()), version: form.version.to_bytes(), body: form.body.clone() };
        self.make_room(upsert.encoded_len());
        self.part.upserts.push(upsert);
    }

    fn remove(&mut self, key: &Key) {
        self.make_room(key.encoded_len());
        self.part.removed.push(key.clone());
    }

    fn make_room(&mut self, bytes: usize) {
        if self.bytes > 0 && self.bytes + bytes > PART_BYTES {
            self.cut();
        }
        self.bytes += bytes;
    }

    fn cut(&mut self) {
        self.cut.push(std::mem::take(&mut self.part).encode_to_vec().into());
        self.bytes = 0;
    }

    fn finish(mut self) -> Way {
        if self.bytes > 0 {
            self.cut();
        }
        self.cut
    }
}

/// Something serialised: kept if it is small, and for as long as it is in use if not.
#[derive(Debug)]
pub(super) enum Kept<T> {
    Small(Arc<T>),
    Large(Weak<T>),
}

impl<T> Kept<T> {
    pub(super) fn new(it: &Arc<T>, bytes: usize) -> Self {
        if bytes <= KEPT_BYTES { Self::Small(it.clone()) } else { Self::Large(Arc::downgrade(it)) }
    }

    pub(super) fn get(&self) -> Option<Arc<T>> {
        match self {
            Self::Small(it) => Some(it.clone()),
            Self::Large(it) => it.upgrade(),
        }
    }
}
