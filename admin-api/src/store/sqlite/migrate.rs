//! Brings the file's schema up to date and checks the master key.

use sqlx::{Connection, SqliteConnection};

use super::super::StoreError;
use super::super::migrations::{Applied, Migration, TooNew, missing};
use super::SqliteStore;

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "store",
    additive: false,
    sql: include_str!("../../../../migrations/sqlite/0001_store.sql"),
}];

const SCHEMA_TABLE: &str = "CREATE TABLE IF NOT EXISTS fairway_schema (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    additive   INTEGER NOT NULL DEFAULT 0,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT";

impl SqliteStore {
    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = self.writer.acquire().await.map_err(self.failed("open the file"))?;
        // All steps in one transaction: a step that fails leaves the file as it was.
        let mut transaction =
            connection.begin_with("BEGIN IMMEDIATE").await.map_err(self.failed("lock the file for its upgrade"))?;
        let too_new = migrate(&mut transaction).await.map_err(self.failed("upgrade the schema"))?;
        if let Some(TooNew { found, known }) = too_new {
            return Err(StoreError::SchemaTooNew { location: self.location.clone(), found, known });
        }
        transaction.commit().await.map_err(self.failed("upgrade the schema"))
    }

    /// Refuses another master key than the one the file was made with.
    pub(super) async fn check_master_key(&self) -> Result<(), StoreError> {
        let given = self.master.fingerprint();
        let failed = || self.failed("check the master key");
        sqlx::query("UPDATE instance SET master_key = ?1 WHERE master_key IS NULL")
            .bind(&given)
            .execute(&self.writer)
            .await
            .map_err(failed())?;
        let expected: String =
            sqlx::query_scalar("SELECT master_key FROM instance").fetch_one(&self.writer).await.map_err(failed())?;
        if expected == given {
            return Ok(());
        }
        Err(StoreError::WrongMasterKey { location: self.location.clone(), expected, given })
    }
}

async fn migrate(connection: &mut SqliteConnection) -> Result<Option<TooNew>, sqlx::Error> {
    sqlx::raw_sql(SCHEMA_TABLE).execute(&mut *connection).await?;
    let applied: Vec<(i64, bool)> =
        sqlx::query_as("SELECT version, additive FROM fairway_schema").fetch_all(&mut *connection).await?;
    let applied: Vec<_> = applied.into_iter().map(|(version, additive)| Applied { version, additive }).collect();
    let steps = match missing(MIGRATIONS, &applied) {
        Ok(steps) => steps,
        Err(too_new) => return Ok(Some(too_new)),
    };
    for step in steps {
        sqlx::raw_sql(step.sql).execute(&mut *connection).await?;
        sqlx::query("INSERT INTO fairway_schema (version, name, additive) VALUES (?1, ?2, ?3)")
            .bind(step.version)
            .bind(step.name)
            .bind(step.additive)
            .execute(&mut *connection)
            .await?;
        tracing::info!(version = step.version, name = step.name, "the schema was upgraded");
    }
    Ok(None)
}
