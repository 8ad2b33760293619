//! What the handlers share.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use route_model::compile::ProxyScope;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::compilation::Compilation;
use super::error::ApiError;
use super::events::EventLog;
use super::openapi::Documents;
use super::status::Acks;
use super::status_book::{self, StatusBook};
use crate::auth::Authorizer;
use crate::store::Snapshot;

/// Watches that are open at a time.
const MAX_WATCHES: usize = 4096;

/// What the handlers share; clones share it too.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

struct Shared {
    snapshot: Snapshot,
    acks: Acks,
    authorizer: Authorizer,
    compilation: Arc<Compilation>,
    statuses: Arc<StatusBook>,
    events: Arc<EventLog>,
    documents: Documents,
    ending: tokio::sync::watch::Sender<bool>,
    watches: Arc<Semaphore>,
}

impl ApiState {
    /// `scope` is the proxy that changes are compiled for before they are stored; `acks` is what all proxies say they
    /// run.
    pub fn new(snapshot: Snapshot, scope: ProxyScope, acks: Acks) -> Self {
        Self(Arc::new(Shared {
            compilation: Arc::new(Compilation::new(snapshot.clone(), scope)),
            snapshot,
            acks,
            authorizer: Authorizer,
            statuses: Arc::new(StatusBook::new()),
            events: Arc::new(EventLog::new()),
            documents: Documents::new(),
            ending: tokio::sync::watch::Sender::new(false),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
        }))
    }

    /// Keeps the status of resources up to date for as long as it is polled. Without it every status is pending.
    pub fn keep_status(&self) -> impl Future<Output = ()> + Send + use<> {
        let Shared { statuses, compilation, events, snapshot, acks, .. } = &*self.0;
        status_book::keep(statuses.clone(), compilation.clone(), events.clone(), snapshot.clone(), acks.clone())
    }

    /// Ends all watches and waits, so that a graceful shutdown of the server need not wait for them.
    pub fn end_streams(&self) {
        self.0.ending.send_replace(true);
    }

    /// The right to one watch, for as long as it is held.
    pub(crate) fn open_watch(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.0
            .watches
            .clone()
            .try_acquire_owned()
            .map_err(|_| ApiError::too_many(format!("{MAX_WATCHES} watches are open, more are not served at a time")))
    }

    /// Returns when streams are to end.
    pub(crate) async fn ended(&self) {
        // The sender lives in `self`.
        let _ = self.0.ending.subscribe().wait_for(|ending| *ending).await;
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.0.snapshot
    }

    pub(crate) fn acks(&self) -> &Acks {
        &self.0.acks
    }

    pub(crate) fn authorizer(&self) -> Authorizer {
        self.0.authorizer
    }

    pub(crate) fn compilation(&self) -> &Arc<Compilation> {
        &self.0.compilation
    }

    pub(crate) fn statuses(&self) -> &StatusBook {
        &self.0.statuses
    }

    pub(crate) fn events(&self) -> &EventLog {
        &self.0.events
    }

    pub(crate) fn documents(&self) -> &Documents {
        &self.0.documents
    }
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState").field("snapshot", &self.0.snapshot).finish_non_exhaustive()
    }
}
