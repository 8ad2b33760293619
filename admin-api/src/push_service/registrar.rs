//! Registers the workloads of this replica's sidecars, for as long as their streams last.
//!
//! What is to be stored is kept by node and the newest counts, so a flapping workload or a database that is away makes
//! no queue. A stream that comes back within [`Leases::grace`] changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use push::server::{Event, SessionId};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::store::{Registration, Snapshot, Store, View};

/// At most so many registrations are one transaction: it holds the lock that writers of resources need.
const BATCH: usize = 200;
/// Between two attempts when the database does not answer.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How long workloads outlast what holds them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leases {
    /// After a stream has ended.
    pub(super) grace: Duration,
    /// After their replica was heard of last; also how long a replica waits after its start, or after the database was
    /// away, before it takes others for dead.
    pub(super) stale_after: Duration,
    /// Between two looks for what others left behind.
    pub(super) look_every: Duration,
}

impl Default for Leases {
    fn default() -> Self {
        Self { grace: Duration::from_secs(5), stale_after: super::STALE_AFTER, look_every: Duration::from_secs(5) }
    }
}

#[derive(Debug)]
pub(super) struct Registrar {
    leases: Leases,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By node.
    held: BTreeMap<String, Held>,
    /// The nodes of which something is to be stored.
    unstored: BTreeSet<String>,
}

#[derive(Debug)]
struct Held {
    session: SessionId,
    registration: Registration,
    /// When it is removed: its stream has ended.
    leaves: Option<Instant>,
}

/// What is to be done now.
#[derive(Debug, Default)]
struct Due {
    put: Vec<Registration>,
    remove: Vec<String>,
    /// When more is due.
    next: Option<Instant>,
}

impl Registrar {
    pub(super) fn new(leases: Leases) -> Self {
        Self { leases, state: Mutex::default(), changed: Notify::new() }
    }

    pub(super) fn observe(&self, session: SessionId, node: Option<&str>, event: &Event) {
        let state = &mut *self.lock();
        match event {
            Event::Connected { hello, .. } => match &hello.workload {
                Some(workload) => {
                    let registration = Registration {
                        node: hello.node.clone(),
                        namespace: hello.namespace.clone(),
                        service_account: hello.service_account().to_owned(),
                        workload: workload.clone(),
                    };
                    state.held.insert(hello.node.clone(), Held { session, registration, leaves: None });
                    state.unstored.insert(hello.node.clone());
                }
                // It came back without.
                None => match state.held.get_mut(&hello.node) {
                    Some(held) => held.leaves = Some(Instant::now()),
                    None => return,
                },
            },
            Event::Ready { ready, reason } => {
                let Some(held) = state.of_session(session, node) else { return };
                if held.registration.workload.ready == *ready {
                    return;
                }
                held.registration.workload.ready = *ready;
                let node = held.registration.node.clone();
                info!(node, ready, reason, "a workload's readiness changed");
                state.unstored.insert(node);
            }
            Event::Disconnected { .. } => {
                let Some(held) = state.of_session(session, node) else { return };
                // Who came back without a workload leaves at once, although the end of its first stream is seen later.
                let at = Instant::now() + self.leases.grace;
                held.leaves = Some(held.leaves.map_or(at, |leaves| leaves.min(at)));
            }
            Event::Sent { .. } | Event::Acked { .. } | Event::Nacked { .. } | Event::Reported(_) => return,
        }
        self.changed.notify_one();
    }

    /// Stores what there is to store, for as long as it is polled.
    pub(super) async fn run(&self, store: &dyn Store, replica: &str) {
        loop {
            let changed = self.changed.notified();
            let due = self.due(Instant::now());
            if due.put.is_empty() && due.remove.is_empty() {
                let until = due.next;
                tokio::select! {
                    () = changed => {}
                    () = async { if let Some(at) = until { tokio::time::sleep_until(at).await } }, if until.is_some() => {}
                }
                continue;
            }
            let stored = async {
                if !due.remove.is_empty() {
                    store.drop_workloads(replica, &due.remove).await?;
                }
                if due.put.is_empty() { Ok(()) } else { store.put_workloads(replica, &due.put).await }
            };
            match stored.await {
                Ok(()) => self.stored(&due),
                Err(error) => {
                    debug!(%error, "workloads cannot be registered now");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Removes what dead replicas left behind, and registers again what others took from this one while it seemed dead,
    /// for as long as it is polled. `confirmed` says since when this replica's own confirmations have been stored
    /// without a gap: where they are not, those of others may be missing too.
    pub(super) async fn look_after(&self, snapshot: &Snapshot, replica: &str, confirmed: impl Fn() -> Option<Instant>) {
        loop {
            tokio::time::sleep(self.leases.look_every).await;
            self.miss(&snapshot.view());
            if confirmed().is_none_or(|since| since.elapsed() < self.leases.stale_after) {
                continue;
            }
            match snapshot.store().expire_workloads(replica, self.leases.stale_after).await {
                Ok(nodes) => {
                    for node in nodes {
                        warn!(node, "a workload is removed: the control plane it was registered with is gone");
                    }
                }
                Err(error) => debug!(%error, "what dead replicas left behind cannot be removed now"),
            }
        }
    }

    /// Has those stored that are held here and not there: others removed them while this replica was without the
    /// database. One that was stored a moment ago may be among them, which changes nothing.
    fn miss(&self, view: &View) {
        let state = &mut *self.lock();
        let State { held, unstored } = state;
        let staying = held.iter().filter(|(_, held)| held.leaves.is_none());
        let missing = staying.filter(|(node, _)| view.workload(node).is_none()).map(|(node, _)| node.clone());
        let known = unstored.len();
        unstored.extend(missing);
        if unstored.len() > known {
            self.changed.notify_one();
        }
    }

    fn due(&self, now: Instant) -> Due {
        let state = &*self.lock();
        let mut due = Due::default();
        for (node, held) in &state.held {
            match held.leaves {
                Some(at) if at <= now => due.remove.push(node.clone()),
                Some(at) => due.next = Some(due.next.map_or(at, |next| next.min(at))),
                None => {}
            }
        }
        due.remove.truncate(BATCH);
        let unstored = state.unstored.iter().filter_map(|node| state.held.get(node));
        let unstored = unstored.filter(|held| held.leaves.is_none_or(|at| at > now));
        due.put = unstored.take(BATCH).map(|held| held.registration.clone()).collect();
        due
    }

    /// Notes what was done, unless it is out of date by now.
    fn stored(&self, due: &Due) {
        let state = &mut *self.lock();
        for registration in &due.put {
            if state.held.get(&registration.node).is_none_or(|held| held.registration == *registration) {
                state.unstored.remove(&registration.node);
            }
        }
        let now = Instant::now();
        for node in &due.remove {
            if state.held.get(node).is_some_and(|held| held.leaves.is_some_and(|at| at <= now)) {
                state.held.remove(node);
                state.unstored.remove(node);
            } else {
                // It came back meanwhile.
                state.unstored.insert(node.clone());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What the node of a session registered, if the session is still the node's.
    fn of_session(&mut self, session: SessionId, node: Option<&str>) -> Option<&mut Held> {
        self.held.get_mut(node?).filter(|held| held.session == session)
    }
}
