//! A position in the log of writes that moves forward.

use std::collections::VecDeque;
use std::sync::Arc;

use route_model::kind::Kind;
use tokio::sync::watch as latest;

use super::super::{Change, StoreError};
use super::log::Next;
use super::{Snapshot, View};

/// How many writes are taken at a time.
const BATCH: usize = 256;

/// Every write after a resourceVersion, in order. A watch holds no more than a batch; one that falls far behind reads
/// the rest from the database.
#[derive(Debug)]
pub struct Watch {
    snapshot: Snapshot,
    views: latest::Receiver<Arc<View>>,
    epoch: u64,
    position: u64,
    /// Objects of the kind may be generated.
    generated: bool,
    ready: VecDeque<Arc<Change>>,
}

impl Watch {
    pub(super) fn new(snapshot: Snapshot, after: u64) -> Self {
        let views = snapshot.views();
        let epoch = snapshot.shared.log.epoch();
        Self { snapshot, views, epoch, position: after, generated: true, ready: VecDeque::new() }
    }

    /// For somebody who looks at this kind only.
    pub fn of_kind(self, kind: Kind) -> Self {
        Self { generated: matches!(kind, Kind::WorkloadEntry | Kind::ServiceEntry), ..self }
    }

    /// Waits for the next write. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when the next write has been compacted: list again and start from there. What is not in
    /// memory must come from the database, which may be unavailable.
    pub async fn next(&mut self) -> Result<Arc<Change>, StoreError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                self.position = change.resource_version;
                return Ok(change);
            }
            // Marked before the log is read, so that what is appended in between wakes us.
            self.views.borrow_and_update();
            match self.snapshot.shared.log.after(self.position, self.epoch, BATCH) {
                Next::Changes(changes) => self.ready = changes,
                Next::Gone => {
                    let tail = self.snapshot.store.tail(self.position, BATCH as u32).await?;
                    // What was generated meanwhile is in no database.
                    if self.generated && (!tail.workloads.is_empty() || self.snapshot.view().has_workloads()) {
                        return Err(self.expired());
                    }
                    self.position = if tail.changes.is_empty() { tail.upto.max(self.position) } else { self.position };
                    self.ready = tail.changes.into_iter().map(Arc::new).collect();
                    if self.ready.is_empty() && self.position < self.snapshot.shared.log.start() {
                        return Err(self.expired());
                    }
                }
                Next::Replaced => return Err(self.expired()),
                Next::End => {
                    // The sender lives in the snapshot that we hold.
                    let _ = self.views.changed().await;
                }
            }
        }
    }

    fn expired(&self) -> StoreError {
        StoreError::Expired { asked: self.position, oldest: self.snapshot.view().resource_version() }
    }
}
