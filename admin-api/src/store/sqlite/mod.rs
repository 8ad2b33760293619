//! The store in one SQLite file, for one process: the embedded default.
//!
//! One connection writes, a few read. The file is in WAL mode and synced at every commit: what was answered is on disk.

mod commit;
mod sql;

use std::collections::HashSet;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use route_model::meta::{ResourceKey, Revision};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Sqlite, SqliteConnection};
use tokio::sync::Notify;

use super::database::Database;
use super::dialect::Dialect;
use super::seal::MasterKey;
use super::{
    Change, ChangeSet, Committed, Head, HistoryQuery, Lease, LeaseHold, Loaded, ProxyState, Registration,
    RevisionRecord, Store, StoreError, Tail, Token, TokenHash,
};

/// How long a write waits for another program that has the file open (a shell, a backup).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call waits for its turn on a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const READERS: u32 = 4;
/// How soon a row changed by another program is noticed; writes of our own are noticed at once.
const FOREIGN_POLL: Duration = Duration::from_millis(500);
/// How long to wait for a process that is ending to let go of the file.
const TAKEOVER: Duration = Duration::from_secs(3);
/// Where the WAL file is cut back to after it grew.
const WAL_LIMIT: &str = "67108864";

/// Where the file is and how large it may become.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub path: PathBuf,
    /// A bound on the file in pages of 4 KiB; without one the disk is the bound.
    pub max_pages: Option<u32>,
}

impl SqliteOptions {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_pages: None }
    }
}

#[derive(Debug)]
pub struct SqliteStore {
    database: Database<Sqlite>,
    written: Notify,
    leases: Arc<Mutex<HashSet<String>>>,
    /// Held while the store is open, so that no second process opens the file.
    lock: File,
}

impl SqliteStore {
    /// Opens the file, or makes it (mode 0600), and brings its schema up to date.
    ///
    /// # Errors
    /// [`InUse`](StoreError::InUse), [`SchemaTooNew`](StoreError::SchemaTooNew),
    /// [`WrongMasterKey`](StoreError::WrongMasterKey), and what can go wrong with a file.
    pub async fn open(options: SqliteOptions, master: MasterKey) -> Result<Self, StoreError> {
        let location = options.path.display().to_string();
        let lock = lock_file(&options.path, &location).await?;
        make_private(&options.path).map_err(|error| unavailable(&location, &error.to_string()))?;

        let mut connect = SqliteConnectOptions::new()
            .filename(&options.path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("journal_size_limit", WAL_LIMIT);
        if let Some(pages) = options.max_pages {
            connect = connect.pragma("max_page_count", pages.to_string());
        }
        let pool = SqlitePoolOptions::new()
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false);
        let writing = pool.clone().max_connections(1).after_release(|connection, _| Box::pin(is_idle(connection)));
        let opened = writing.connect_with(connect.clone()).await;
        let writer = opened.map_err(|error| Sqlite::classify(&location, "open the file", error))?;
        let readers = pool.max_connections(READERS).connect_lazy_with(connect.pragma("query_only", "1"));

        let database = Database { location, master, readers, writer };
        database.migrate().await?;
        database.check_master_key().await?;
        Ok(Self { database, written: Notify::new(), leases: Arc::default(), lock })
    }
}

/// Whether a connection that comes back from a write can carry the next one. When a write fails, SQLite may have ended
/// its transaction by itself, and sqlx takes it for open ever after; such a connection is closed instead.
async fn is_idle(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // Also carries out a rollback that is still to be done.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

/// Takes the lock of `<file>.lock`.
async fn lock_file(path: &Path, location: &str) -> Result<File, StoreError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
    let file = opened.map_err(|error| unavailable(location, &error.to_string()))?;
    let deadline = tokio::time::Instant::now() + TAKEOVER;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: location.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(unavailable(location, &error.to_string())),
        }
    }
}

/// Makes the file if there is none; SQLite gives its companions (WAL, shared memory) the same mode.
fn make_private(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

fn unavailable(location: &str, reason: &str) -> StoreError {
    StoreError::Unavailable { location: location.to_owned(), reason: reason.to_owned() }
}

#[async_trait]
impl Store for SqliteStore {
    fn location(&self) -> &str {
        &self.database.location
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.database.head().await
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        self.database.load().await
    }

    async fn commit(&self, changes: ChangeSet) -> Result<Committed, StoreError> {
        let committed = self.write(changes).await?;
        self.written.notify_one();
        Ok(committed)
    }

    async fn tail(&self, after: u64, limit: u32) -> Result<Tail, StoreError> {
        self.database.tail(after, limit).await
    }

    async fn changed(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most.min(FOREIGN_POLL), self.written.notified()).await;
    }

    async fn history(&self, query: HistoryQuery) -> Result<Vec<Change>, StoreError> {
        self.database.history(query).await
    }

    async fn revisions(&self, before: Option<Revision>, limit: u32) -> Result<Vec<RevisionRecord>, StoreError> {
        self.database.revisions(before, limit).await
    }

    async fn compact(&self, before: Timestamp, keep: &[ResourceKey]) -> Result<u64, StoreError> {
        self.database.compact(before, keep).await
    }

    /// The file has one process, so a lease is a name in its memory.
    async fn lease(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        let taken = self.leases.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(taken.then(|| Lease { hold: Box::new(Hold { name: name.to_owned(), leases: self.leases.clone() }) }))
    }

    async fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.database.secret(name).await
    }

    async fn secret_or(&self, name: &str, candidate: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.database.secret_or(name, candidate).await
    }

    async fn put_secret(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        self.database.put_secret(name, value).await
    }

    async fn put_token(&self, token: &Token) -> Result<(), StoreError> {
        self.database.put_token(token).await?;
        self.written.notify_one();
        Ok(())
    }

    async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.database.tokens().await
    }

    async fn use_token(&self, hash: &TokenHash) -> Result<Option<Token>, StoreError> {
        let token = self.database.use_token(hash).await?;
        self.written.notify_one();
        Ok(token)
    }

    async fn delete_token(&self, id: &str) -> Result<bool, StoreError> {
        let deleted = self.database.delete_token(id).await?;
        self.written.notify_one();
        Ok(deleted)
    }

    async fn put_proxies(&self, replica: &str, states: &[ProxyState]) -> Result<(), StoreError> {
        self.database.put_proxies(replica, states).await
    }

    /// The file has one process, which knows itself.
    async fn proxies_changed(&self, at_most: Duration) {
        tokio::time::sleep(at_most).await;
    }

    async fn proxies(&self, stale_after: Duration, but: Option<&str>) -> Result<Vec<ProxyState>, StoreError> {
        self.database.proxies(stale_after, but).await
    }

    async fn forget_proxies(&self, unseen_for: Duration) -> Result<(), StoreError> {
        self.database.forget_proxies(unseen_for).await
    }

    async fn put_workloads(&self, replica: &str, registrations: &[Registration]) -> Result<(), StoreError> {
        if self.database.put_workloads(replica, registrations).await? {
            self.written.notify_one();
        }
        Ok(())
    }

    async fn drop_workloads(&self, replica: &str, nodes: &[String]) -> Result<(), StoreError> {
        if self.database.drop_workloads(replica, nodes).await? {
            self.written.notify_one();
        }
        Ok(())
    }

    async fn expire_workloads(&self, replica: &str, stale_after: Duration) -> Result<Vec<String>, StoreError> {
        let expired = self.database.expire_workloads(replica, stale_after).await?;
        self.written.notify_one();
        Ok(expired)
    }

    async fn forget_workloads(&self, gone_for: Duration) -> Result<(), StoreError> {
        self.database.forget_workloads(gone_for).await
    }

    async fn close(&self) {
        self.database.readers.close().await;
        self.database.writer.close().await;
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, database = self.database.location, "cannot give the file back");
        }
    }
}

#[derive(Debug)]
struct Hold {
    name: String,
    leases: Arc<Mutex<HashSet<String>>>,
}

#[async_trait]
impl LeaseHold for Hold {
    async fn is_held(&mut self) -> bool {
        true
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}
