//! Reading objects and history, and forgetting history.

use jiff::Timestamp;
use route_model::meta::{ResourceKey, Revision};
use sqlx::{Encode, Executor, FromRow, IntoArguments, QueryBuilder, Type};

use super::super::dialect::Dialect;
use super::super::rows::{ClockRow, HistoryRow, ObjectRow, RevisionRow, TokenRow, WorkloadRow, key_columns};
use super::super::{Change, Head, HistoryQuery, Loaded, RevisionRecord, StoreError, Tail, end_of, tail_of};
use super::{Database, text};

const CLOCK: &str = "SELECT store_id, resource_version, revision, compacted, tokens, workloads FROM clock, instance";

impl<D: Dialect> Database<D>
where
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
    for<'q> &'q str: Encode<'q, D> + Type<D>,
    for<'q> i64: Encode<'q, D> + Type<D>,
    for<'r> ClockRow: FromRow<'r, D::Row>,
    for<'r> ObjectRow: FromRow<'r, D::Row>,
    for<'r> HistoryRow: FromRow<'r, D::Row>,
    for<'r> RevisionRow: FromRow<'r, D::Row>,
    for<'r> TokenRow: FromRow<'r, D::Row>,
    for<'r> WorkloadRow: FromRow<'r, D::Row>,
    for<'r> (i64,): FromRow<'r, D::Row>,
{
    pub(in crate::store) async fn head(&self) -> Result<Head, StoreError> {
        let clock: ClockRow = sqlx::query_as(CLOCK).fetch_one(&self.readers).await.map_err(self.failed("read"))?;
        Ok(clock.head())
    }

    pub(in crate::store) async fn load(&self) -> Result<Loaded, StoreError> {
        let failed = || self.failed("read everything");
        let mut transaction = self.readers.begin_with(D::BEGIN_READ).await.map_err(failed())?;
        let clock: ClockRow = sqlx::query_as(CLOCK).fetch_one(&mut *transaction).await.map_err(failed())?;
        let rows: Vec<ObjectRow> = sqlx::query_as(D::OBJECTS).fetch_all(&mut *transaction).await.map_err(failed())?;
        let tokens: Vec<TokenRow> = sqlx::query_as(D::TOKENS).fetch_all(&mut *transaction).await.map_err(failed())?;
        let workloads: Vec<WorkloadRow> =
            sqlx::query_as(D::WORKLOADS).fetch_all(&mut *transaction).await.map_err(failed())?;
        transaction.rollback().await.map_err(failed())?;
        let objects = rows.into_iter().filter_map(|row| row.read(&self.master)).collect();
        Ok(Loaded {
            head: clock.head(),
            objects,
            tokens: tokens.into_iter().filter_map(TokenRow::read).collect(),
            workloads: workloads.into_iter().filter_map(WorkloadRow::read).collect(),
        })
    }

    pub(in crate::store) async fn tail(&self, after: u64, limit: u32) -> Result<Tail, StoreError> {
        let failed = || self.failed("read the log");
        let mut transaction = self.readers.begin_with(D::BEGIN_READ).await.map_err(failed())?;
        let clock: ClockRow = sqlx::query_as(CLOCK).fetch_one(&mut *transaction).await.map_err(failed())?;
        let rows: Vec<HistoryRow> = sqlx::query_as(D::TAIL)
            .bind(after as i64)
            .bind(i64::from(limit.saturating_sub(1)))
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed())?;
        // Whole revisions: fewer rows than asked for are all that there are.
        let all = (rows.len() as u64) < u64::from(limit);
        let end = if all { (clock.resource_version, clock.revision) } else { end_of(&rows, after, &clock) };
        let workloads: Vec<WorkloadRow> = sqlx::query_as(D::WORKLOADS_TAIL)
            .bind(after as i64)
            .bind(end.0)
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed())?;
        transaction.rollback().await.map_err(failed())?;
        tail_of(after, &clock, end, rows, workloads, &self.master)
    }

    pub(in crate::store) async fn history(&self, query: HistoryQuery) -> Result<Vec<Change>, StoreError> {
        let mut sql = QueryBuilder::<D>::new(D::HISTORY);
        sql.push(" WHERE true");
        if let Some(key) = &query.key {
            let (group, kind, namespace, name) = key_columns(key);
            sql.push(r#" AND "group" = "#).push_bind(group).push(" AND kind = ").push_bind(kind);
            sql.push(" AND namespace = ").push_bind(namespace).push(" AND name = ").push_bind(name);
        }
        if let Some(revision) = query.revision {
            sql.push(" AND revision = ").push_bind(revision.0 as i64);
        }
        if let Some(before) = query.before {
            sql.push(" AND resource_version < ").push_bind(before as i64);
        }
        sql.push(" ORDER BY resource_version DESC LIMIT ").push_bind(i64::from(query.limit));
        let rows: Vec<HistoryRow> =
            sql.build_query_as().fetch_all(&self.readers).await.map_err(self.failed("read the history"))?;
        Ok(rows.into_iter().filter_map(|row| row.read(&self.master)).collect())
    }

    pub(in crate::store) async fn revisions(
        &self,
        before: Option<Revision>,
        limit: u32,
    ) -> Result<Vec<RevisionRecord>, StoreError> {
        let rows: Vec<RevisionRow> = sqlx::query_as(D::REVISIONS)
            .bind(before.map_or(i64::MAX, |before| before.0 as i64))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(self.failed("read the revisions"))?;
        Ok(rows.into_iter().map(RevisionRow::read).collect())
    }

    pub(in crate::store) async fn compact(&self, before: Timestamp, keep: &[ResourceKey]) -> Result<u64, StoreError> {
        let failed = || self.failed("compact the history");
        let keep: Vec<_> = keep.iter().map(key_columns).collect();
        let keep = serde_json::to_string(&keep).expect("strings serialise");
        let before = text(before);
        // First the mark, then the rows: whoever reads in between is told that it is too late, and writers, who need
        // the clock, wait for the first step only.
        let compacted: i64 =
            sqlx::query_scalar(D::COMPACT).bind(&*before).fetch_one(&self.writer).await.map_err(failed())?;
        let history = sqlx::query(D::FORGET_HISTORY).bind(compacted).bind(&*keep);
        history.execute(&self.writer).await.map_err(failed())?;
        sqlx::query(D::FORGET_REVISIONS).bind(&*before).execute(&self.writer).await.map_err(failed())?;
        Ok(compacted as u64)
    }
}
