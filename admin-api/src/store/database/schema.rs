//! Brings the schema up to date and checks the master key.

use sqlx::{Encode, Executor, FromRow, IntoArguments, Type};

use super::super::StoreError;
use super::super::dialect::Dialect;
use super::super::migrations::{Applied, TooNew, missing};
use super::Database;

impl<D: Dialect> Database<D>
where
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
    for<'q> &'q str: Encode<'q, D> + Type<D>,
    for<'q> i64: Encode<'q, D> + Type<D>,
    for<'q> bool: Encode<'q, D> + Type<D>,
    for<'r> (i64, bool): FromRow<'r, D::Row>,
    for<'r> (String,): FromRow<'r, D::Row>,
{
    pub(in crate::store) async fn migrate(&self) -> Result<(), StoreError> {
        let failed = || self.failed("upgrade the schema");
        // All steps in one transaction: a step that fails leaves the database as it was.
        let mut transaction = self.writer.begin_with(D::BEGIN_WRITE).await.map_err(failed())?;
        if let Some(lock) = D::LOCK_SCHEMA {
            sqlx::query(lock).execute(&mut *transaction).await.map_err(failed())?;
        }
        sqlx::raw_sql(D::SCHEMA_TABLE).execute(&mut *transaction).await.map_err(failed())?;
        let applied = sqlx::query_as("SELECT version, additive FROM fairway_schema").fetch_all(&mut *transaction).await;
        let applied: Vec<(i64, bool)> = applied.map_err(failed())?;
        let applied: Vec<_> = applied.into_iter().map(|(version, additive)| Applied { version, additive }).collect();
        let steps = missing(D::MIGRATIONS, &applied).map_err(|TooNew { found, known }| StoreError::SchemaTooNew {
            location: self.location.clone(),
            found,
            known,
        })?;
        for step in steps {
            sqlx::raw_sql(step.sql).execute(&mut *transaction).await.map_err(failed())?;
            let put = sqlx::query(D::PUT_MIGRATION).bind(step.version).bind(step.name).bind(step.additive);
            put.execute(&mut *transaction).await.map_err(failed())?;
            tracing::info!(version = step.version, name = step.name, "the schema was upgraded");
        }
        transaction.commit().await.map_err(failed())
    }

    /// Refuses another master key than the one the database was made with.
    pub(in crate::store) async fn check_master_key(&self) -> Result<(), StoreError> {
        let given = self.master.fingerprint();
        let failed = || self.failed("check the master key");
        sqlx::query(D::CLAIM_MASTER_KEY).bind(&*given).execute(&self.writer).await.map_err(failed())?;
        let expected: String =
            sqlx::query_scalar("SELECT master_key FROM instance").fetch_one(&self.writer).await.map_err(failed())?;
        if expected == given {
            return Ok(());
        }
        Err(StoreError::WrongMasterKey { location: self.location.clone(), expected, given })
    }
}
