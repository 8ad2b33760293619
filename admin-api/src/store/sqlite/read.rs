//! Reading objects and history, and forgetting history.

use jiff::Timestamp;
use route_model::meta::{ResourceKey, Revision};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::super::rows::{ClockRow, HistoryRow, ObjectRow, RevisionRow, TokenRow, key_columns};
use super::super::{Change, Head, HistoryQuery, Loaded, RevisionRecord, StoreError, Tail};
use super::SqliteStore;

const HISTORY: &str =
    r#"SELECT resource_version, revision, "group", kind, namespace, name, before, after FROM history WHERE true"#;

impl SqliteStore {
    pub(super) async fn read_head(&self) -> Result<Head, StoreError> {
        let mut connection = self.readers.acquire().await.map_err(self.failed("read"))?;
        Ok(clock(&mut connection).await.map_err(self.failed("read"))?.head())
    }

    pub(super) async fn read_all(&self) -> Result<Loaded, StoreError> {
        let failed = || self.failed("read everything");
        // One read transaction sees one state.
        let mut transaction = self.readers.begin().await.map_err(failed())?;
        let head = clock(&mut transaction).await.map_err(failed())?.head();
        let rows: Vec<ObjectRow> = sqlx::query_as(
            r#"SELECT "group", kind, namespace, name, image FROM images ORDER BY kind, namespace, name"#,
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed())?;
        let tokens: Vec<TokenRow> =
            sqlx::query_as(super::side::TOKENS).fetch_all(&mut *transaction).await.map_err(failed())?;
        transaction.rollback().await.map_err(failed())?;
        let objects = rows.into_iter().filter_map(|row| row.read(&self.master)).collect();
        Ok(Loaded { head, objects, tokens: tokens.into_iter().filter_map(TokenRow::read).collect() })
    }

    pub(super) async fn read_tail(&self, after: u64, limit: u32) -> Result<Tail, StoreError> {
        let failed = || self.failed("read the log");
        let mut transaction = self.readers.begin().await.map_err(failed())?;
        let clock = clock(&mut transaction).await.map_err(failed())?;
        // Up to the end of the revision that the last row within the limit belongs to.
        let rows: Vec<HistoryRow> = sqlx::query_as(
            r#"SELECT resource_version, revision, "group", kind, namespace, name, before, after FROM history
               WHERE resource_version > ?1 AND revision <= COALESCE(
                   (SELECT revision FROM history WHERE resource_version > ?1 ORDER BY resource_version
                    LIMIT 1 OFFSET ?2),
                   9223372036854775807)
               ORDER BY resource_version"#,
        )
        .bind(after as i64)
        .bind(i64::from(limit.saturating_sub(1)))
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed())?;
        transaction.rollback().await.map_err(failed())?;
        super::super::tail_of(after, clock, rows, &self.master)
    }

    pub(super) async fn read_history(&self, query: HistoryQuery) -> Result<Vec<Change>, StoreError> {
        let mut sql = QueryBuilder::<Sqlite>::new(HISTORY);
        if let Some(key) = &query.key {
            let (group, kind, namespace, name) = key_columns(key);
            sql.push(r#" AND "group" = "#).push_bind(group).push(" AND kind = ").push_bind(kind);
            sql.push(" AND namespace = ").push_bind(namespace.to_owned());
            sql.push(" AND name = ").push_bind(name.to_owned());
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

    pub(super) async fn read_revisions(
        &self,
        before: Option<Revision>,
        limit: u32,
    ) -> Result<Vec<RevisionRecord>, StoreError> {
        let rows: Vec<RevisionRow> = sqlx::query_as(
            "SELECT revision, at, author, via, message FROM revisions WHERE revision < ?1
             ORDER BY revision DESC LIMIT ?2",
        )
        .bind(before.map_or(i64::MAX, |before| before.0 as i64))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(self.failed("read the revisions"))?;
        Ok(rows.into_iter().map(RevisionRow::read).collect())
    }

    pub(super) async fn forget_history(&self, before: Timestamp, keep: &[ResourceKey]) -> Result<u64, StoreError> {
        let failed = || self.failed("compact the history");
        let keep: Vec<_> = keep.iter().map(key_columns).collect();
        let keep = serde_json::to_string(&keep).expect("strings serialise");
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
        let compacted: i64 = sqlx::query_scalar(
            "UPDATE clock SET compacted = max(compacted, COALESCE(
                 (SELECT max(resource_version) FROM history WHERE revision <=
                     (SELECT max(revision) FROM revisions WHERE at < ?1)), 0))
             RETURNING compacted",
        )
        .bind(before.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed())?;
        sqlx::query(
            r#"DELETE FROM history WHERE resource_version <= ?1 AND NOT EXISTS (
                   SELECT 1 FROM json_each(?2) AS kept WHERE "group" = kept.value ->> 0 AND kind = kept.value ->> 1
                       AND namespace = kept.value ->> 2 AND name = kept.value ->> 3)"#,
        )
        .bind(compacted)
        .bind(keep)
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        sqlx::query(
            "DELETE FROM revisions WHERE at < ?1 AND revision < (SELECT revision FROM clock)
                 AND NOT EXISTS (SELECT 1 FROM history WHERE history.revision = revisions.revision)",
        )
        .bind(before.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        Ok(compacted as u64)
    }
}

async fn clock(connection: &mut SqliteConnection) -> Result<ClockRow, sqlx::Error> {
    sqlx::query_as("SELECT store_id, resource_version, revision, compacted, tokens FROM clock, instance")
        .fetch_one(connection)
        .await
}
