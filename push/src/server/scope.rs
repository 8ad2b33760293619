//! What proxies of one scope are sent: a layer that they share with other scopes, what they have beside it, and the
//! serialised ways to both together.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use route_model::meta::Revision;
use tokio::sync::watch;

use super::layer::{CACHED, Entry, Kept, Layer, Past, State as LayerState, Way};
use crate::digest::SetDigest;
use crate::message::{Delta, Key, Resume};
use crate::rpc::PREFIX_BYTES;

/// A part up to this size is copied behind what stands before it in its message, for each scope once; a larger one is
/// the same bytes for all scopes.
const COPIED_BYTES: usize = 4 * 1024;

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
    base: Arc<Layer>,
    /// Which of the base's turns the scope has taken in.
    base_turn: u64,
    /// What the scope's proxies have beside the base. No key is in both.
    own: LayerState,
    /// Of both together.
    digest: SetDigest,
    /// The last revision of the control plane that this scope has taken in.
    seen: Revision,
    /// Deltas to the present state, already serialised.
    deliveries: VecDeque<(Option<Position>, Kept<Delivery>)>,
    next_nonce: u64,
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
    pub(super) nonce: u64,
    pub(super) to: Position,
    /// gRPC messages, one behind the other; they begin and end wherever they do.
    pub(super) pieces: Vec<Bytes>,
    /// What they were made of: other scopes find it for as long as somebody is being sent it.
    _ways: [Arc<Way>; 2],
}

impl Scope {
    /// An empty scope at revision 0, of proxies that know what this build knows. `id` names it towards proxies: what
    /// leads to the same id must be the same scope on every replica and after every restart.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self::over(Arc::default(), id)
    }

    /// A scope whose proxies have all that this layer holds. It is at revision 0 until it publishes one itself.
    pub fn over(base: Arc<Layer>, id: impl Into<Arc<str>>) -> Self {
        let model_version = base.model_version();
        let state = State {
            base,
            base_turn: 0,
            own: LayerState::default(),
            digest: SetDigest::default(),
            seen: Revision(0),
            deliveries: VecDeque::new(),
            next_nonce: 1,
        };
        let changed = watch::Sender::new(Revision(0));
        Self { id: id.into(), model_version, state: Mutex::new(state), changed }
    }

    /// The same, of proxies that know this generation of the model.
    #[cfg(test)]
    pub(crate) fn of_model(self, model_version: u32) -> Self {
        Self { model_version, ..self }
    }

    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Puts another layer in the place of the one beneath. It counts with the next revision that is published.
    pub fn rebase(&self, base: Arc<Layer>) {
        let mut state = self.lock();
        // No delivery until then: layers begin with their first turn.
        state.base_turn = 0;
        state.base = base;
    }

    /// Takes in a revision, which the layer beneath has taken in: what it adds or changes of this scope's own and what
    /// it takes away there. Entries that are the same as before change nothing. Proxies hear of it if anything
    /// changed.
    pub fn publish(
        &self,
        revision: Revision,
        upserts: impl IntoIterator<Item = (Arc<Key>, Entry)>,
        removed: impl IntoIterator<Item = Key>,
    ) {
        let mut state = self.lock();
        state.own.publish(revision, upserts, removed, self.model_version);
        self.published(state, revision);
    }

    /// Takes in a revision as a whole: what of this scope's own is not in `entries` is gone.
    pub fn replace(&self, revision: Revision, entries: impl IntoIterator<Item = (Arc<Key>, Entry)>) {
        let mut state = self.lock();
        state.own.replace(revision, entries, self.model_version);
        self.published(state, revision);
    }

    fn published(&self, mut state: MutexGuard<'_, State>, revision: Revision) {
        let is_first = state.seen == Revision(0);
        state.seen = revision;
        let (turn, begun, base) = {
            let base = state.base.lock();
            (base.turn, base.revision > Revision(0), base.digest)
        };
        state.base_turn = turn;
        if !begun && state.own.revision == Revision(0) {
            // A set that is empty still has to be told so.
            state.own.revision = revision;
        }
        let digest = state.own.digest.with(base);
        let changed = digest != state.digest || is_first;
        if changed {
            state.digest = digest;
            state.deliveries.clear();
        }
        drop(state);
        self.changed.send_if_modified(|seen| {
            *seen = revision;
            changed
        });
    }

    /// The last revision that was taken in.
    pub fn seen(&self) -> Revision {
        self.lock().seen
    }

    /// The kinds of which the scope would have resources if its proxies were newer.
    pub fn held_back(&self) -> BTreeSet<String> {
        let state = self.lock();
        let base = state.base.lock();
        base.held_back.iter().chain(&state.own.held_back).map(|key| key.kind.clone()).collect()
    }

    pub fn len(&self) -> usize {
        let state = self.lock();
        state.own.entries.len() + state.base.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest revision that a proxy is at which acknowledged `revision`: revisions that bring nothing to this
    /// scope are in force without being sent.
    pub fn effective(&self, acked: Revision) -> Revision {
        let state = self.lock();
        let base = state.base.lock();
        let revision = state.own.revision.max(base.revision);
        if acked >= revision {
            return state.seen.max(acked);
        }
        // The state after the acknowledged one is the first that the proxy lacks.
        let next = state.own.first_after(acked).into_iter().chain(base.first_after(acked)).min();
        Revision(next.unwrap_or(revision).0.saturating_sub(1)).max(acked)
    }

    /// Since when a proxy lacks something that acknowledged `revision` last; `None`: it lacks nothing.
    pub fn behind_since(&self, acked: Revision) -> Option<SystemTime> {
        let state = self.lock();
        let base = state.base.lock();
        state.own.ended(acked).into_iter().chain(base.ended(acked)).min()
    }

    /// The revision of the present state, if a proxy holds that.
    pub(super) fn is_at(&self, position: Position) -> Option<Revision> {
        let state = self.lock();
        let base = state.base.lock();
        let present = base.turn == state.base_turn && position.digest == state.digest;
        present.then(|| state.own.revision.max(base.revision))
    }

    /// Wakes with every revision that changes something here.
    pub(super) fn watch(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    /// What the proxy at `from` lacks; `None` when nothing, or when it will be told soon.
    pub(super) fn delivery(&self, from: Option<Position>) -> Option<Arc<Delivery>> {
        let state = &mut *self.lock();
        let below = state.base.clone();
        let base = &mut *below.lock();
        // In the middle of a revision: the scope wakes its proxies when it has taken it in too.
        if base.turn != state.base_turn {
            return None;
        }
        let to = Position { revision: state.own.revision.max(base.revision), digest: state.digest };
        if to.revision == Revision(0) || from.is_some_and(|from| from.digest == to.digest) {
            return None;
        }
        if let Some(delivery) = state.delivered(from) {
            return Some(delivery);
        }
        let past = from.and_then(|from| both(&state.own, base, from.digest));
        let from = from.filter(|_| past.is_some());
        if let Some(delivery) = state.delivered(from) {
            return Some(delivery);
        }
        let ways = [base.way(past.map(|(_, base)| base)), state.own.way(past.map(|(own, _)| own))];
        let head = Delta {
            revision: to.revision.0,
            base: from.map_or(0, |from| from.revision.0),
            nonce: state.next_nonce,
            more: true,
            scope: self.id.to_string(),
            ..Delta::default()
        };
        state.next_nonce += 1;
        let pieces = pieces(&head, ways.iter().flat_map(|way| way.iter()), to.digest);
        let delivery = Arc::new(Delivery { nonce: head.nonce, to, pieces, _ways: ways });
        let bytes = delivery.pieces.iter().map(Bytes::len).sum();
        state.deliveries.retain(|(known, _)| *known != from);
        state.deliveries.push_back((from, Kept::new(&delivery, bytes)));
        if state.deliveries.len() > CACHED {
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
    fn delivered(&self, from: Option<Position>) -> Option<Arc<Delivery>> {
        self.deliveries.iter().find(|(known, _)| *known == from).and_then(|(_, delivery)| delivery.get())
    }
}

/// The states of both layers that were one state of the scope, by its digest.
fn both(own: &LayerState, base: &LayerState, digest: SetDigest) -> Option<(Past, Past)> {
    own.known().find_map(|own| Some((own, base.with(digest.without(own.digest()))?)))
}

/// A message for each part, or one that has none.
fn pieces<'p>(head: &Delta, parts: impl Iterator<Item = &'p Bytes>, digest: SetDigest) -> Vec<Bytes> {
    let mut parts = parts.peekable();
    let mut pieces = Vec::new();
    loop {
        let part = parts.next();
        let last = parts.peek().is_none();
        let digest = if last { digest.to_bytes() } else { Bytes::new() };
        let head = Delta { more: !last, digest, ..head.clone() };
        match part {
            Some(part) if part.len() > COPIED_BYTES => {
                pieces.extend([begin(&head, part.len(), 0).freeze(), part.clone()]);
            }
            part => {
                let part = part.map_or(&[][..], |part| part);
                let mut message = begin(&head, part.len(), part.len());
                message.put_slice(part);
                pieces.push(message.freeze());
            }
        }
        if last {
            return pieces;
        }
    }
}

/// A message by itself.
pub(super) fn message(delta: &Delta) -> Bytes {
    begin(delta, 0, 0).freeze()
}

/// The beginning of a message that so many bytes follow, with room for some of them.
fn begin(head: &Delta, follow: usize, room: usize) -> BytesMut {
    let len = head.encoded_len();
    let mut message = BytesMut::with_capacity(PREFIX_BYTES + len + room);
    // gRPC: not compressed, and how long it is.
    message.put_u8(0);
    message.put_u32((len + follow) as u32);
    head.encode_raw(&mut message);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, bytes: usize) -> (Arc<Key>, Entry) {
        let key = Key { kind: "ServiceEntry".into(), namespace: "shop".into(), name: name.into() };
        (key.into(), Entry::new("x".repeat(bytes)).unwrap())
    }

    fn large(delivery: &Delivery) -> Vec<*const u8> {
        delivery.pieces.iter().filter(|piece| piece.len() > 100_000).map(|piece| piece.as_ptr()).collect()
    }

    #[test]
    fn what_scopes_have_in_common_is_the_same_bytes_for_all() {
        let base = Arc::new(Layer::default());
        base.publish(Revision(1), (0..30).map(|i| entry(&format!("s{i}"), 100_000)), []);
        let [a, b] = ["a", "b"].map(|id| Scope::over(base.clone(), id));
        for scope in [&a, &b] {
            scope.publish(Revision(1), [entry(scope.id(), 10)], []);
        }
        // The first is on its way to a proxy while the second is asked for.
        let (one, two) = (a.delivery(None).unwrap(), b.delivery(None).unwrap());
        assert_eq!((large(&one).len(), large(&one)), (3, large(&two)));
        assert_ne!(one.pieces.last(), two.pieces.last());
    }

    #[test]
    fn a_large_delta_is_kept_no_longer_than_it_is_in_use_and_a_small_one_is() {
        let scope = Scope::new("a");
        scope.publish(Revision(1), [entry("large", 200_000)], []);
        let first = scope.delivery(None).unwrap();
        assert!(Arc::ptr_eq(&first, &scope.delivery(None).unwrap()));
        let (from, gone) = (Some(first.to), Arc::downgrade(&first));
        drop(first);
        assert!(gone.upgrade().is_none());
        scope.publish(Revision(2), [entry("small", 10)], []);
        let kept = Arc::downgrade(&scope.delivery(from).unwrap());
        assert!(kept.upgrade().is_some());
        scope.publish(Revision(3), [entry("small", 11)], []);
        assert!(kept.upgrade().is_none(), "it leads to where nobody goes any more");
    }

    #[test]
    fn who_is_far_behind_gets_everything_again() {
        let scope = Scope::new("a");
        scope.publish(Revision(1), [entry("s", 1)], []);
        let first = scope.delivery(None).unwrap().to;
        for revision in 2..=1_500 {
            scope.publish(Revision(revision), [entry("s", revision as usize)], []);
        }
        assert!(scope.delivery(Some(first)).unwrap().pieces == scope.delivery(None).unwrap().pieces);
        assert_eq!(scope.effective(Revision(1)), Revision(1), "what it lacks is forgotten, but not that it lacks it");
        assert_eq!(scope.effective(Revision(1_499)), Revision(1_499));
    }
}
