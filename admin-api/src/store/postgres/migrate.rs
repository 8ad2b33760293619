//! Brings the database's schema up to date and checks the master key.

use sqlx::PgConnection;

use super::super::StoreError;
use super::super::migrations::{Applied, Migration, TooNew, missing};
use super::PostgresStore;

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "store",
    additive: false,
    sql: include_str!("../../../../migrations/postgres/0001_store.sql"),
}];

const SCHEMA_TABLE: &str = "CREATE TABLE IF NOT EXISTS fairway_schema (
    version    BIGINT PRIMARY KEY,
    name       TEXT NOT NULL,
    additive   BOOLEAN NOT NULL DEFAULT false,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)";

impl PostgresStore {
    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        let failed = || self.failed("upgrade the schema");
        // All steps in one transaction: a step that fails leaves the database as it was.
        let mut transaction = self.pool.begin().await.map_err(failed())?;
        if let Some(TooNew { found, known }) = migrate(&mut transaction).await.map_err(failed())? {
            return Err(StoreError::SchemaTooNew { location: self.location.clone(), found, known });
        }
        transaction.commit().await.map_err(failed())
    }

    /// Refuses another master key than the one the database was made with.
    pub(super) async fn check_master_key(&self) -> Result<(), StoreError> {
        let given = self.master.fingerprint();
        let failed = || self.failed("check the master key");
        sqlx::query("UPDATE instance SET master_key = $1 WHERE master_key IS NULL")
            .bind(&given)
            .execute(&self.pool)
            .await
            .map_err(failed())?;
        let expected: String =
            sqlx::query_scalar("SELECT master_key FROM instance").fetch_one(&self.pool).await.map_err(failed())?;
        if expected == given {
            return Ok(());
        }
        Err(StoreError::WrongMasterKey { location: self.location.clone(), expected, given })
    }
}

async fn migrate(connection: &mut PgConnection) -> Result<Option<TooNew>, sqlx::Error> {
    // Replicas that start at once take turns.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('fairway schema', 0))")
        .execute(&mut *connection)
        .await?;
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
        sqlx::query("INSERT INTO fairway_schema (version, name, additive) VALUES ($1, $2, $3)")
            .bind(step.version)
            .bind(step.name)
            .bind(step.additive)
            .execute(&mut *connection)
            .await?;
        tracing::info!(version = step.version, name = step.name, "the schema was upgraded");
    }
    Ok(None)
}
