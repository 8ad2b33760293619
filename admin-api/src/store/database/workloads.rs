//! Writing and reading the workloads that sidecars registered.

use std::time::Duration;

use sqlx::{Encode, Executor, FromRow, IntoArguments, Transaction, Type};

use super::super::StoreError;
use super::super::dialect::Dialect;
use super::super::rows::WorkloadRow;
use super::super::workloads::{RegisteredWorkload, Registration};
use super::Database;

impl<D: Dialect> Database<D>
where
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
    for<'q> &'q str: Encode<'q, D> + Type<D>,
    for<'q> i64: Encode<'q, D> + Type<D>,
    for<'q> f64: Encode<'q, D> + Type<D>,
    for<'q> bool: Encode<'q, D> + Type<D>,
    for<'r> WorkloadRow: FromRow<'r, D::Row>,
    for<'r> (i64,): FromRow<'r, D::Row>,
    for<'r> (String,): FromRow<'r, D::Row>,
{
    pub(in crate::store) async fn put_workloads(
        &self,
        replica: &str,
        registrations: &[Registration],
    ) -> Result<bool, StoreError> {
        let failed = || self.failed("register workloads");
        let mut transaction = self.write_workloads().await.map_err(failed())?;
        let mut changed = false;
        for registration in registrations {
            let stored = stored::<D>(&mut transaction, &registration.node).await.map_err(failed())?;
            let stored = stored.filter(|stored| !stored.gone);
            if stored.as_ref().is_some_and(|stored| stored.registration == *registration) {
                if stored.is_some_and(|stored| stored.replica != replica) {
                    let taken = sqlx::query(D::TAKE_WORKLOAD).bind(&*registration.node).bind(replica);
                    taken.execute(&mut *transaction).await.map_err(failed())?;
                }
                continue;
            }
            let version = tick::<D>(&mut transaction).await.map_err(failed())?;
            let spec = serde_json::to_string(&registration.workload).expect("strings and numbers serialise");
            sqlx::query(D::PUT_WORKLOAD)
                .bind(&*registration.node)
                .bind(&*registration.namespace)
                .bind(&*registration.service_account)
                .bind(&*spec)
                .bind(registration.workload.ready)
                .bind(replica)
                .bind(version)
                .execute(&mut *transaction)
                .await
                .map_err(failed())?;
            changed = true;
        }
        self.notify_of_workloads(&mut transaction, changed).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        Ok(changed)
    }

    pub(in crate::store) async fn drop_workloads(&self, replica: &str, nodes: &[String]) -> Result<bool, StoreError> {
        let failed = || self.failed("remove workloads");
        let mut transaction = self.write_workloads().await.map_err(failed())?;
        let mut changed = false;
        for node in nodes {
            let stored = stored::<D>(&mut transaction, node).await.map_err(failed())?;
            if stored.is_some_and(|stored| !stored.gone && stored.replica == replica) {
                drop_one::<D>(&mut transaction, node).await.map_err(failed())?;
                changed = true;
            }
        }
        self.notify_of_workloads(&mut transaction, changed).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        Ok(changed)
    }

    pub(in crate::store) async fn expire_workloads(
        &self,
        replica: &str,
        stale_after: Duration,
    ) -> Result<Vec<String>, StoreError> {
        let failed = || self.failed("expire workloads");
        let abandoned = || sqlx::query_scalar(D::ABANDONED_WORKLOADS).bind(stale_after.as_secs_f64()).bind(replica);
        // Asked without the lock first: as a rule there are none.
        let nodes: Vec<String> = abandoned().fetch_all(&self.readers).await.map_err(failed())?;
        if nodes.is_empty() {
            return Ok(nodes);
        }
        let mut transaction = self.write_workloads().await.map_err(failed())?;
        let nodes: Vec<String> = abandoned().fetch_all(&mut *transaction).await.map_err(failed())?;
        for node in &nodes {
            drop_one::<D>(&mut transaction, node).await.map_err(failed())?;
        }
        self.notify_of_workloads(&mut transaction, !nodes.is_empty()).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        Ok(nodes)
    }

    pub(in crate::store) async fn forget_workloads(&self, gone_for: Duration) -> Result<(), StoreError> {
        let failed = || self.failed("forget workloads");
        // First the mark, then the rows, as with the history.
        let forgotten: i64 = sqlx::query_scalar(D::MARK_FORGOTTEN_WORKLOADS)
            .bind(gone_for.as_secs_f64())
            .fetch_one(&self.writer)
            .await
            .map_err(failed())?;
        let forget = sqlx::query(D::FORGET_WORKLOADS).bind(forgotten);
        forget.execute(&self.writer).await.map_err(failed())?;
        Ok(())
    }

    /// Begins to write, with the right to the next numbers.
    async fn write_workloads(&self) -> Result<Transaction<'static, D>, sqlx::Error> {
        let mut transaction = self.writer.begin_with(D::BEGIN_WRITE).await?;
        if let Some(lock) = D::LOCK_CLOCK {
            sqlx::query(lock).execute(&mut *transaction).await?;
        }
        Ok(transaction)
    }

    async fn notify_of_workloads(
        &self,
        transaction: &mut Transaction<'_, D>,
        changed: bool,
    ) -> Result<(), sqlx::Error> {
        if let Some(notify) = D::NOTIFY.filter(|_| changed) {
            sqlx::query(notify).execute(&mut **transaction).await?;
        }
        Ok(())
    }
}

async fn stored<D: Dialect>(
    transaction: &mut Transaction<'_, D>,
    node: &str,
) -> Result<Option<RegisteredWorkload>, sqlx::Error>
where
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
    for<'q> &'q str: Encode<'q, D> + Type<D>,
    for<'r> WorkloadRow: FromRow<'r, D::Row>,
{
    let row: Option<WorkloadRow> = sqlx::query_as(D::WORKLOAD).bind(node).fetch_optional(&mut **transaction).await?;
    Ok(row.and_then(WorkloadRow::read))
}

async fn tick<D: Dialect>(transaction: &mut Transaction<'_, D>) -> Result<i64, sqlx::Error>
where
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
    for<'r> (i64,): FromRow<'r, D::Row>,
{
    let next = "UPDATE clock SET resource_version = resource_version + 1 RETURNING resource_version";
    sqlx::query_scalar(next).fetch_one(&mut **transaction).await
}

async fn drop_one<D: Dialect>(transaction: &mut Transaction<'_, D>, node: &str) -> Result<(), sqlx::Error>
where
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
    for<'q> &'q str: Encode<'q, D> + Type<D>,
    for<'q> i64: Encode<'q, D> + Type<D>,
    for<'r> (i64,): FromRow<'r, D::Row>,
{
    let version = tick::<D>(transaction).await?;
    sqlx::query(D::DROP_WORKLOAD).bind(node).bind(version).execute(&mut **transaction).await?;
    Ok(())
}
