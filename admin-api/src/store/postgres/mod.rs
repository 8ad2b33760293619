//! The store on Postgres: for production, and for several replicas of the control plane.
//!
//! Triggers in the database number the writes and keep the history (`migrations/postgres`), so a row changed in psql
//! counts like one changed through the API. Notices wake the replicas; they also ask now and then.

mod changed;
mod commit;
mod lease;
mod sql;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use route_model::meta::{ResourceKey, Revision};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection, PgConnection, Postgres};
use tokio::sync::{Mutex, Notify};

use super::database::Database;
use super::seal::MasterKey;
use super::{
    Change, ChangeSet, Committed, Head, HistoryQuery, Lease, Loaded, ProxyState, Registration, RevisionRecord, Store,
    StoreError, Tail, Token, TokenHash,
};

/// How long a call waits for a connection; with the server away, writes fail after this.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long a call may take in all, for a server that accepts connections and then says nothing.
const CALL_WITHIN: Duration = Duration::from_secs(15);
const MAX_CONNECTIONS: u32 = 12;
/// As `server_version_num` has it: the first with 64-bit transaction ids in SQL.
const OLDEST_SERVER: u32 = 130_000;

/// Where the server is.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=…`
    pub url: String,
}

impl PostgresOptions {
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into() }
    }
}

/// Without the URL: it may hold a password.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresOptions(…)")
    }
}

#[derive(Debug)]
pub struct PostgresStore {
    database: Database<Postgres>,
    written: Notify,
    proxies_written: Notify,
    listener: Mutex<Option<PgListener>>,
}

impl PostgresStore {
    /// Connects and brings the schema up to date; of several replicas that start at once, one does.
    ///
    /// # Errors
    /// [`Unavailable`](StoreError::Unavailable), [`SchemaTooNew`](StoreError::SchemaTooNew),
    /// [`WrongMasterKey`](StoreError::WrongMasterKey).
    pub async fn open(options: PostgresOptions, master: MasterKey) -> Result<Self, StoreError> {
        let connect = PgConnectOptions::from_str(&options.url).map_err(|error| StoreError::Unavailable {
            location: "of DATABASE_URL".to_owned(),
            reason: format!("the URL is malformed: {error}"),
        })?;
        let connect = connect.application_name("fairway");
        let location = format!(
            "postgres://{}:{}/{}",
            connect.get_host(),
            connect.get_port(),
            connect.get_database().unwrap_or_default()
        );
        // The pool tries again until its time is up and then only says so; one connection says what is wrong.
        match tokio::time::timeout(CALL_WITHIN, PgConnection::connect_with(&connect)).await {
            Ok(Ok(probe)) => {
                let version = probe.server_version_num();
                let _ = probe.close().await;
                if let Some(version) = version.filter(|version| *version < OLDEST_SERVER) {
                    let reason = format!("it is Postgres {}, at least 13 is needed", version / 10_000);
                    return Err(StoreError::Unavailable { location, reason });
                }
            }
            Ok(Err(error)) => return Err(StoreError::Unavailable { location, reason: error.to_string() }),
            Err(_) => return Err(StoreError::Unavailable { location, reason: "no answer".to_owned() }),
        }
        let pool = PgPoolOptions::new().max_connections(MAX_CONNECTIONS).acquire_timeout(CONNECT_WITHIN);
        let pool = pool.connect_lazy_with(connect);
        let database = Database { location, master, readers: pool.clone(), writer: pool };
        database.migrate().await?;
        database.check_master_key().await?;
        let (written, proxies_written) = (Notify::new(), Notify::new());
        Ok(Self { database, written, proxies_written, listener: Mutex::new(None) })
    }

    /// Ends a call that gets no answer.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        tokio::time::timeout(CALL_WITHIN, call).await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable {
                location: self.database.location.clone(),
                reason: format!("no answer within {} s, what became of the call is unknown", CALL_WITHIN.as_secs()),
            })
        })
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn location(&self) -> &str {
        &self.database.location
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.bounded(self.database.head()).await
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        self.database.load().await
    }

    async fn commit(&self, changes: ChangeSet) -> Result<Committed, StoreError> {
        let committed = self.bounded(self.write(changes)).await?;
        // The notice takes its way through the server; this process need not wait for it.
        self.written.notify_one();
        Ok(committed)
    }

    async fn tail(&self, after: u64, limit: u32) -> Result<Tail, StoreError> {
        self.bounded(self.database.tail(after, limit)).await
    }

    async fn changed(&self, at_most: Duration) {
        self.wait_for_change(at_most).await;
    }

    async fn history(&self, query: HistoryQuery) -> Result<Vec<Change>, StoreError> {
        self.bounded(self.database.history(query)).await
    }

    async fn revisions(&self, before: Option<Revision>, limit: u32) -> Result<Vec<RevisionRecord>, StoreError> {
        self.bounded(self.database.revisions(before, limit)).await
    }

    async fn compact(&self, before: Timestamp, keep: &[ResourceKey]) -> Result<u64, StoreError> {
        self.database.compact(before, keep).await
    }

    async fn lease(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        self.bounded(self.take_lease(name)).await
    }

    async fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.bounded(self.database.secret(name)).await
    }

    async fn secret_or(&self, name: &str, candidate: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.bounded(self.database.secret_or(name, candidate)).await
    }

    async fn put_secret(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        self.bounded(self.database.put_secret(name, value)).await
    }

    async fn put_token(&self, token: &Token) -> Result<(), StoreError> {
        self.bounded(self.database.put_token(token)).await
    }

    async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.bounded(self.database.tokens()).await
    }

    async fn use_token(&self, hash: &TokenHash) -> Result<Option<Token>, StoreError> {
        self.bounded(self.database.use_token(hash)).await
    }

    async fn delete_token(&self, id: &str) -> Result<bool, StoreError> {
        self.bounded(self.database.delete_token(id)).await
    }

    async fn put_proxies(&self, replica: &str, states: &[ProxyState]) -> Result<(), StoreError> {
        self.bounded(self.database.put_proxies(replica, states)).await
    }

    async fn proxies_changed(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.proxies_written.notified()).await;
    }

    async fn proxies(&self, stale_after: Duration, but: Option<&str>) -> Result<Vec<ProxyState>, StoreError> {
        self.bounded(self.database.proxies(stale_after, but)).await
    }

    async fn forget_proxies(&self, unseen_for: Duration) -> Result<(), StoreError> {
        self.bounded(self.database.forget_proxies(unseen_for)).await
    }

    async fn put_workloads(&self, replica: &str, registrations: &[Registration]) -> Result<(), StoreError> {
        if self.bounded(self.database.put_workloads(replica, registrations)).await? {
            self.written.notify_one();
        }
        Ok(())
    }

    async fn drop_workloads(&self, replica: &str, nodes: &[String]) -> Result<(), StoreError> {
        if self.bounded(self.database.drop_workloads(replica, nodes)).await? {
            self.written.notify_one();
        }
        Ok(())
    }

    async fn expire_workloads(&self, replica: &str, stale_after: Duration) -> Result<Vec<String>, StoreError> {
        self.bounded(self.database.expire_workloads(replica, stale_after)).await
    }

    async fn forget_workloads(&self, gone_for: Duration) -> Result<(), StoreError> {
        self.bounded(self.database.forget_workloads(gone_for)).await
    }

    async fn close(&self) {
        // The listener holds a connection, and closing waits for all of them.
        tokio::join!(self.database.writer.close(), async { drop(self.listener.lock().await.take()) });
    }
}
