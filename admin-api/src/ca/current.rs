//! The CA of this process, as it changes: by a rotation, here or at another replica, and when a former root's time ends.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info};

use super::{Authority, CaError, Kept};
use crate::store::Store;
use crate::store::seal::encode_hex;

/// Where the CA is kept.
const NAME: &str = "ca/root";
/// How long a rotation at another replica stays unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a rotation waits for another one to be done.
const TURN: Duration = Duration::from_secs(5);

/// What signs in this process, and what it trusts.
#[derive(Debug)]
pub struct Ca {
    store: Arc<dyn Store>,
    /// `None` with a CA that an operator gave.
    kept: Mutex<Option<Kept>>,
    current: watch::Sender<Arc<Authority>>,
}

/// A root that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootInfo {
    pub subject: String,
    /// SHA-256 of the certificate, in hex.
    pub fingerprint: String,
    pub not_after: Timestamp,
    /// When it stops being trusted, if before it expires.
    pub trusted_until: Option<Timestamp>,
    pub signs: bool,
}

impl Ca {
    /// The one in these PEM files, certificate and key, or else the one that all replicas share: the first to start
    /// makes it.
    pub async fn open(store: Arc<dyn Store>, given: Option<(&Path, &Path)>) -> Result<Self, CaError> {
        let (kept, authority) = if let Some((certificate, key)) = given {
            (None, Authority::given(certificate, key)?)
        } else {
            let kept = match load(&*store).await? {
                Some(kept) => kept,
                None => read(&store.secret_or(NAME, &write(&Kept::generate()?)?).await?)?,
            };
            let authority = Authority::kept(&kept, Timestamp::now())?;
            (Some(kept), authority)
        };
        Ok(Self { store, kept: Mutex::new(kept), current: watch::Sender::new(Arc::new(authority)) })
    }

    pub fn current(&self) -> Arc<Authority> {
        self.current.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Authority>> {
        self.current.subscribe()
    }

    /// Whether an operator gave it.
    pub fn is_given(&self) -> bool {
        self.kept().is_none()
    }

    /// The roots that are trusted; first the one above what signs.
    pub fn roots(&self) -> Vec<RootInfo> {
        let ends: Vec<Option<Timestamp>> = match &*self.kept() {
            Some(kept) => kept.trusted(Timestamp::now()).map(|(_, until)| until).collect(),
            None => Vec::new(),
        };
        let authority = self.current();
        let info = |(at, der): (usize, &rustls_pki_types::CertificateDer<'_>)| {
            let (_, root) = x509_parser::parse_x509_certificate(der).ok()?;
            Some(RootInfo {
                subject: root.subject().to_string(),
                fingerprint: encode_hex(digest(&SHA256, der).as_ref()),
                not_after: Timestamp::from_second(root.validity().not_after.timestamp()).ok()?,
                trusted_until: ends.get(at).copied().flatten(),
                signs: at == 0,
            })
        };
        authority.roots().iter().enumerate().filter_map(info).collect()
    }

    /// Has a new root sign from now on; the one before it is trusted for `overlap` more.
    pub async fn rotate(&self, overlap: Duration) -> Result<(), CaError> {
        if self.is_given() {
            return Err(CaError::NotOurs);
        }
        let deadline = Instant::now() + TURN;
        let _lease = loop {
            if let Some(lease) = self.store.lease(NAME).await? {
                break lease;
            }
            if Instant::now() >= deadline {
                return Err(CaError::Busy);
            }
            sleep(Duration::from_millis(20)).await;
        };
        let kept = load(&*self.store).await?.ok_or_else(|| CaError::Damaged("it is gone".to_owned()))?;
        let now = Timestamp::now();
        let until = SignedDuration::try_from(overlap).ok().and_then(|overlap| now.checked_add(overlap).ok());
        let next = kept.rotated(until.unwrap_or(Timestamp::MAX), now)?;
        self.store.put_secret(NAME, &write(&next)?).await?;
        self.take(next)
    }

    /// Puts in force what the database keeps, if that is something else than before.
    fn take(&self, next: Kept) -> Result<(), CaError> {
        let now = Timestamp::now();
        let mut kept = self.kept();
        let roots = next.trusted(now).count();
        if kept.as_ref() == Some(&next) && self.current.borrow().roots().len() == roots {
            return Ok(());
        }
        let authority = Authority::kept(&next, now)?;
        info!(roots, "the CA changed");
        *kept = Some(next);
        self.current.send_replace(Arc::new(authority));
        Ok(())
    }

    /// Looks for changes for as long as it is polled. With the database away the last state counts.
    pub async fn follow(&self) {
        while !self.is_given() {
            sleep(LOOK_EVERY).await;
            let kept = match load(&*self.store).await {
                Ok(Some(kept)) => Some(kept),
                Ok(None) => self.kept().clone(),
                Err(CaError::Store(error)) => {
                    debug!(%error, "the CA cannot be read now");
                    self.kept().clone()
                }
                Err(error) => {
                    error!(%error, "the CA stays as it was");
                    continue;
                }
            };
            if let Some(kept) = kept
                && let Err(error) = self.take(kept)
            {
                error!(%error, "the CA stays as it was");
            }
        }
        std::future::pending::<()>().await;
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn load(store: &dyn Store) -> Result<Option<Kept>, CaError> {
    store.secret(NAME).await?.map(|kept| read(&kept)).transpose()
}

fn read(kept: &[u8]) -> Result<Kept, CaError> {
    serde_json::from_slice(kept).map_err(|error| CaError::Damaged(error.to_string()))
}

fn write(kept: &Kept) -> Result<Vec<u8>, CaError> {
    serde_json::to_vec(kept).map_err(|error| CaError::Damaged(error.to_string()))
}
