//! The in-memory picture of the store that every read is answered from.
//!
//! [`Snapshot::run`] feeds it with the store's tail. A reader takes a [`View`]: one consistent state, whole revisions
//! only, which stays as it is while the reader holds it. A watcher takes a [`Watch`]: every write after a
//! resourceVersion, in order, none twice and none missing.

mod generate;
mod log;
mod registry;
mod tail;
mod view;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use route_model::compile::Changed;
use route_model::meta::Revision;
use tokio::sync::watch as latest;

use self::log::Log;
pub use self::view::{Quarantined, View};
pub use self::watch::Watch;
use super::{ChangeSet, Committed, Store, StoreError};

/// How long a writer waits for its own write to show in the snapshot. It takes a few milliseconds; longer means that the
/// database went away right after the commit.
const VISIBLE_WITHIN: Duration = Duration::from_secs(2);

/// Whether the database answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Live,
    /// Reads are answered from memory, as of `since`; writes fail.
    Away {
        since: Timestamp,
        reason: String,
    },
}

/// A handle on the picture; clones share it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    view: latest::Sender<Arc<View>>,
    health: latest::Sender<Health>,
    log: Log,
}

impl Snapshot {
    /// Reads everything once. Nothing moves until somebody runs [`run`](Self::run).
    pub async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let view = tail::load(&*store).await?;
        let shared = Shared {
            log: Log::new(view.resource_version()),
            view: latest::Sender::new(Arc::new(view)),
            health: latest::Sender::new(Health::Live),
        };
        Ok(Self { store, shared: Arc::new(shared) })
    }

    /// Follows the store for as long as it is polled; reconnects with backoff.
    pub async fn run(self) {
        tail::follow(&self).await;
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The state now.
    pub fn view(&self) -> Arc<View> {
        self.shared.view.borrow().clone()
    }

    /// The state now and a wake-up whenever there is a newer one.
    pub fn views(&self) -> latest::Receiver<Arc<View>> {
        self.shared.view.subscribe()
    }

    pub fn health(&self) -> Health {
        self.shared.health.borrow().clone()
    }

    pub fn health_changes(&self) -> latest::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// Writes, and returns when the snapshot shows it: who writes and then reads here sees the write.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn commit(&self, changes: ChangeSet) -> Result<Committed, StoreError> {
        let committed = self.store.commit(changes).await?;
        if tokio::time::timeout(VISIBLE_WITHIN, self.reached(committed.revision)).await.is_err() {
            tracing::warn!(revision = %committed.revision, "a committed revision does not show in the snapshot yet");
        }
        Ok(committed)
    }

    /// Waits until the snapshot holds this revision.
    pub async fn reached(&self, revision: Revision) {
        // The sender lives in `self`, so this cannot end otherwise.
        let _ = self.shared.view.subscribe().wait_for(|view| view.revision() >= revision).await;
    }

    /// Every write after this resourceVersion, as it comes.
    pub fn watch(&self, after: u64) -> Watch {
        Watch::new(self.clone(), after)
    }

    /// What was written after resourceVersion `from` up to `to`, for [`Compiler::update`]; everything, when that is no
    /// longer in memory.
    ///
    /// [`Compiler::update`]: route_model::compile::Compiler::update
    pub fn changed_between(&self, from: u64, to: u64) -> Changed {
        self.shared.log.keys_between(from, to).map_or(Changed::Everything, Changed::Keys)
    }
}
