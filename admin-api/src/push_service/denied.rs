//! Identities that are denied: they get no certificate, may not connect, and no proxy accepts theirs.
//!
//! The list is kept, sealed, in the database, and replicas look for changes of it every few seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::store::{Store, StoreError};

/// Where the list is kept.
const NAME: &str = "identity/denied";
/// How long a change made at another replica stays unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a change waits for another one, at whatever replica, to be done.
const TURN: Duration = Duration::from_secs(5);
/// The list goes to every proxy whole.
const MAX_DENIED: usize = 10_000;

/// Denied identities, by SPIFFE id.
pub(super) type Denials = BTreeMap<String, Denial>;

/// Why an identity is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Denial {
    pub(super) since: Timestamp,
    pub(super) by: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DenyError {
    #[error("{MAX_DENIED} identities are denied already, and no more can be")]
    TooMany,
    #[error("another change of the list is under way; try again")]
    Busy,
    #[error("the list of denied identities cannot be read: {0}")]
    Damaged(#[from] serde_json::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
pub(super) struct Denied {
    store: Arc<dyn Store>,
    current: watch::Sender<Arc<Denials>>,
}

impl Denied {
    /// Empty until it was looked for.
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, current: watch::Sender::default() }
    }

    pub(super) fn current(&self) -> Arc<Denials> {
        self.current.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Denials>> {
        self.current.subscribe()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.current.borrow().contains_key(id)
    }

    /// Denies an identity from now on; one that is denied already stays as it is.
    pub(super) async fn deny(&self, id: &str, by: &str) -> Result<Denial, DenyError> {
        let denial = Denial { since: Timestamp::now(), by: by.to_owned() };
        self.change(|denials| {
            if denials.len() >= MAX_DENIED && !denials.contains_key(id) {
                return Err(DenyError::TooMany);
            }
            Ok(denials.entry(id.to_owned()).or_insert(denial).clone())
        })
        .await
    }

    /// Takes a denial back; answers whether there was one.
    pub(super) async fn allow(&self, id: &str) -> Result<bool, DenyError> {
        self.change(|denials| Ok(denials.remove(id).is_some())).await
    }

    /// Changes the list as it is in the database, while nobody else does.
    async fn change<T>(&self, change: impl FnOnce(&mut Denials) -> Result<T, DenyError>) -> Result<T, DenyError> {
        let deadline = Instant::now() + TURN;
        let _lease = loop {
            if let Some(lease) = self.store.lease(NAME).await? {
                break lease;
            }
            if Instant::now() >= deadline {
                return Err(DenyError::Busy);
            }
            sleep(Duration::from_millis(20)).await;
        };
        let mut denials = self.load().await?;
        let answer = change(&mut denials)?;
        self.store.put_secret(NAME, &serde_json::to_vec(&denials)?).await?;
        self.take(denials);
        Ok(answer)
    }

    async fn load(&self) -> Result<Denials, DenyError> {
        Ok(match self.store.secret(NAME).await? {
            Some(kept) => serde_json::from_slice(&kept)?,
            None => Denials::new(),
        })
    }

    fn take(&self, denials: Denials) {
        self.current.send_if_modified(|current| {
            let changed = **current != denials;
            if changed {
                info!(identities = denials.len(), "the list of denied identities changed");
                *current = Arc::new(denials);
            }
            changed
        });
    }

    /// Reads the list now. With the database away the last one counts.
    pub(super) async fn look(&self) {
        match self.load().await {
            Ok(denials) => self.take(denials),
            Err(DenyError::Store(error)) => {
                tracing::debug!(%error, "the list of denied identities cannot be read now");
            }
            Err(error) => warn!(%error, "what was denied last stays denied"),
        }
    }

    /// Goes on looking.
    pub(super) async fn follow(&self) {
        loop {
            sleep(LOOK_EVERY).await;
            self.look().await;
        }
    }
}
