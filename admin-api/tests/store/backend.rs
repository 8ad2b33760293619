//! The two databases under test, behind one face.

use std::path::PathBuf;
use std::sync::Arc;

use admin_api::store::seal::MasterKey;
use admin_api::store::{PostgresOptions, PostgresStore, Snapshot, SqliteOptions, SqliteStore, Store, StoreError};
use sqlx::{Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;
use testkit::Postgres;

pub(crate) trait Backend: Sized + Send + Sync {
    fn start() -> Self;

    fn master(&self) -> &MasterKey;

    /// Opens the database; after a `close` it opens it again.
    async fn open_with(&self, master: MasterKey) -> Result<Arc<dyn Store>, StoreError>;

    /// Runs statements as a person with a database shell does.
    async fn sql(&self, statements: &str);

    /// The one text that a query answers.
    async fn query(&self, query: &str) -> String;

    /// All that whoever gets hold of the database can read.
    async fn dump(&self) -> String;

    async fn open(&self) -> Arc<dyn Store> {
        self.open_with(self.master().clone()).await.unwrap()
    }

    /// Opens the database with a snapshot that follows it.
    async fn snapshot(&self) -> Snapshot {
        let snapshot = Snapshot::load(self.open().await).await.unwrap();
        tokio::spawn(snapshot.clone().run());
        snapshot
    }
}

#[derive(Debug)]
pub(crate) struct OnSqlite {
    dir: TempDir,
    master: MasterKey,
}

impl OnSqlite {
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("fairway.db")
    }
}

impl Backend for OnSqlite {
    fn start() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), master: MasterKey::random() }
    }

    fn master(&self) -> &MasterKey {
        &self.master
    }

    async fn open_with(&self, master: MasterKey) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(SqliteStore::open(SqliteOptions::new(self.path()), master).await?))
    }

    async fn sql(&self, statements: &str) {
        let mut shell = SqliteConnection::connect(&self.path().to_string_lossy()).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut shell).await.unwrap();
        shell.close().await.unwrap();
    }

    async fn query(&self, query: &str) -> String {
        let mut shell = SqliteConnection::connect(&self.path().to_string_lossy()).await.unwrap();
        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&mut shell).await.unwrap()
    }

    async fn dump(&self) -> String {
        let files = self.dir.path().read_dir().unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap());
        files.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }
}

#[derive(Debug)]
pub(crate) struct OnPostgres {
    pub(crate) server: Postgres,
    master: MasterKey,
}

impl Backend for OnPostgres {
    fn start() -> Self {
        Self { server: Postgres::start(), master: MasterKey::random() }
    }

    fn master(&self) -> &MasterKey {
        &self.master
    }

    async fn open_with(&self, master: MasterKey) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(PostgresStore::open(PostgresOptions::new(self.server.url()), master).await?))
    }

    async fn sql(&self, statements: &str) {
        let mut shell = PgConnection::connect(&self.server.url()).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut shell).await.unwrap();
        shell.close().await.unwrap();
    }

    async fn query(&self, query: &str) -> String {
        let mut shell = PgConnection::connect(&self.server.url()).await.unwrap();
        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&mut shell).await.unwrap()
    }

    async fn dump(&self) -> String {
        let table = |table| format!("COALESCE((SELECT string_agg(row::text, ' ') FROM {table} row), '')");
        let tables = ["resources", "history", "revisions", "secret_keys", "tokens", "proxies", "instance"].map(table);
        self.query(&format!("SELECT {}", tables.join(" || "))).await
    }
}
