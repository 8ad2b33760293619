//! The last good set on disk, sealed: it holds private keys.
//!
//! `last-good` is `FWLG1\n`, a nonce of 12 bytes, and the set under AES-256-GCM, whose tag also tells a damaged file.
//! The key lies beside it in `last-good.key`; both are readable by this user only. Sealing keeps keys out of backups
//! and copies of the one file; it does not hide them from who can read the folder.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use push::client::{Held, HeldError};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{error, warn};

use crate::data_dir::{self, DataDir};

const MAGIC: &[u8] = b"FWLG1\n";
const NONCE_BYTES: usize = 12;
const KEY_BYTES: usize = 32;

/// A burst of changes costs one write in this time.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// The file of the last good set.
#[derive(Debug)]
pub(crate) struct LastGood {
    path: PathBuf,
    /// `None` when there can be no key: nothing is kept then.
    key: Option<RandomizedNonceKey>,
}

#[derive(Debug, Error)]
enum LoadError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("it does not begin as such a file does")]
    NotSealed,
    #[error("it was changed, is incomplete, or belongs to another key")]
    Seal,
    #[error(transparent)]
    Content(#[from] HeldError),
}

impl LastGood {
    /// Makes a key on first use. Without one the proxy still runs.
    pub(crate) fn open(dir: &DataDir) -> Self {
        let key = match key(dir) {
            Ok(key) => Some(key),
            Err(error) => {
                let path = dir.path("last-good.key");
                error!(path = %path.display(), %error, "without a key no configuration is kept for the next start");
                None
            }
        };
        Self { path: dir.path("last-good"), key }
    }

    /// What was saved last. A file that cannot be read is reported and set aside.
    pub(crate) fn load(&self) -> Option<Held> {
        match self.read() {
            Ok(held) => Some(held),
            Err(LoadError::Read(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let aside = self.path.with_extension("corrupt");
                let set_aside = fs::rename(&self.path, &aside).is_ok();
                error!(
                    path = %self.path.display(), aside = %aside.display(), set_aside, %error,
                    "the last good configuration cannot be used, starting without it"
                );
                None
            }
        }
    }

    fn read(&self) -> Result<Held, LoadError> {
        let file = fs::read(&self.path)?;
        let sealed = file.strip_prefix(MAGIC).ok_or(LoadError::NotSealed)?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or(LoadError::NotSealed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| LoadError::Seal)?;
        let key = self.key.as_ref().ok_or(LoadError::Seal)?;
        let mut content = sealed.to_vec();
        let content = key.open_in_place(nonce, Aad::from(MAGIC), &mut content).map_err(|_| LoadError::Seal)?;
        Ok(Held::from_bytes(content)?)
    }

    fn save(&self, held: &Held) -> io::Result<()> {
        let Some(key) = &self.key else { return Ok(()) };
        let mut content = held.to_bytes();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(MAGIC), &mut content)
            .map_err(|_| io::Error::other("the set cannot be sealed"))?;
        let mut file = Vec::with_capacity(MAGIC.len() + NONCE_BYTES + content.len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(nonce.as_ref());
        file.extend_from_slice(&content);
        data_dir::write(&self.path, &file)
    }
}

fn key(dir: &DataDir) -> io::Result<RandomizedNonceKey> {
    let path = dir.path("last-good.key");
    let bytes = match fs::read(&path) {
        Ok(bytes) if bytes.len() == KEY_BYTES => bytes,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        other => {
            if other.is_ok() {
                warn!(path = %path.display(), "the key is damaged, making a new one");
            }
            let mut bytes = vec![0; KEY_BYTES];
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
            data_dir::write(&path, &bytes)?;
            bytes
        }
    };
    RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| io::Error::other("the key is refused"))
}

/// Saves in the background, the newest set only.
#[derive(Debug)]
pub(crate) struct Saver {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    next: Mutex<Next>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Next {
    held: Option<Arc<Held>>,
    ending: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Saver {
    pub(crate) fn start(last_good: LastGood) -> Self {
        let shared = Arc::new(Shared { next: Mutex::default(), wake: Notify::new() });
        let task = tokio::spawn(save_all(Arc::new(last_good), shared.clone()));
        Self { shared, task }
    }

    pub(crate) fn offer(&self, held: Arc<Held>) {
        self.shared.lock().held = Some(held);
        self.shared.wake.notify_one();
    }

    /// Returns when the newest set is on disk.
    pub(crate) async fn finish(self) {
        self.shared.lock().ending = true;
        self.shared.wake.notify_one();
        if let Err(error) = self.task.await {
            error!(%error, "the last good configuration could not be saved");
        }
    }
}

async fn save_all(last_good: Arc<LastGood>, shared: Arc<Shared>) {
    let mut failing = false;
    loop {
        let (held, ending) = {
            let mut next = shared.lock();
            (next.held.take(), next.ending)
        };
        match held {
            Some(held) => {
                let file = last_good.clone();
                let saved = tokio::task::spawn_blocking(move || file.save(&held)).await;
                match saved.map_err(io::Error::other).flatten() {
                    Ok(()) => failing = false,
                    // Said once, not with every change: a full disk stays full for a while.
                    Err(error) if !failing => {
                        failing = true;
                        error!(path = %last_good.path.display(), %error, "the configuration cannot be kept for the next start");
                    }
                    Err(_) => {}
                }
                if !ending {
                    // Wakes early at the end only.
                    let _ = tokio::time::timeout(SAVE_INTERVAL, until_ending(&shared)).await;
                }
            }
            None if ending => return,
            None => shared.wake.notified().await,
        }
    }
}

async fn until_ending(shared: &Shared) {
    while !shared.lock().ending {
        shared.wake.notified().await;
    }
}
