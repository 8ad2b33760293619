//! The one way in which this program writes resources.

use std::sync::Arc;

use route_model::meta::{ResourceKey, Revision};
use sqlx::PgConnection;

use super::super::decide::{Decision, decide};
use super::super::row::{Columns, read_image};
use super::super::rows::key_columns;
use super::super::{ChangeSet, Committed, StoreError, StoredObject, Write, Written};
use super::PostgresStore;

impl PostgresStore {
    pub(super) async fn write(&self, changes: ChangeSet) -> Result<Committed, StoreError> {
        let failed = || self.database.failed("write");
        let ChangeSet { author, via, message, writes, require } = changes;
        let mut transaction = self.database.writer.begin().await.map_err(failed())?;
        let connection = &mut *transaction;
        // From here to the commit this is the only writer.
        sqlx::query("SELECT fairway_begin($1, $2, $3)")
            .bind(author)
            .bind(via)
            .bind(message)
            .execute(&mut *connection)
            .await
            .map_err(failed())?;
        for key in require {
            if self.stored(connection, &key).await?.is_none() {
                return Err(StoreError::NotFound { key });
            }
        }
        let mut written = Vec::with_capacity(writes.len());
        for write in writes {
            written.push(self.carry_out(connection, write).await?);
        }
        let revision: i64 =
            sqlx::query_scalar("SELECT revision FROM clock").fetch_one(connection).await.map_err(failed())?;
        transaction.commit().await.map_err(|error| match self.database.failed("commit")(error) {
            StoreError::Unavailable { location, reason } => StoreError::Unavailable {
                location,
                reason: format!("the connection was lost at the commit, whether it happened is unknown: {reason}"),
            },
            other => other,
        })?;
        Ok(Committed { revision: Revision(revision as u64), written })
    }

    async fn carry_out(&self, connection: &mut PgConnection, write: Write) -> Result<Written, StoreError> {
        let key = write.key.clone();
        let stored = self.stored(connection, &key).await?;
        let image = match decide(write, stored.clone(), &self.database.master)? {
            Decision::Nothing(written) => return Ok(written),
            Decision::Insert { columns, uid } => insert(connection, &key, columns, uid).await.map(Some),
            Decision::Update(columns) => update(connection, &key, columns).await,
            Decision::Delete(stored) => {
                let version = delete(connection, &key).await.map_err(self.database.failed("delete"))?;
                return Ok(Written { object: Some(Arc::new(stored.at_version(version as u64))), changed: true });
            }
        };
        let image = image.map_err(|error| self.refused(&key, error))?;
        // No image: to Postgres the values are equal (1.0 and 1.00), and its trigger let the write fall away.
        let changed = image.is_some();
        let object = image.map(|image| read_image(key, &image, &self.database.master)).or(stored);
        Ok(Written { object: object.map(Arc::new), changed })
    }

    /// Some well-formed values have no place in Postgres; that is the writer's concern, not an outage.
    fn refused(&self, key: &ResourceKey, error: sqlx::Error) -> StoreError {
        /// A NUL character in JSON, or in text; a malformed time; a value beyond a limit of the server.
        const NOT_STORABLE: [&str; 5] = ["22P05", "22021", "22007", "22008", "54000"];
        match error.as_database_error().and_then(|e| Some((e.code()?, e.message()))) {
            Some((code, message)) if NOT_STORABLE.contains(&&*code) => {
                StoreError::Invalid { key: key.clone(), reason: message.to_owned() }
            }
            _ => self.database.failed("write")(error),
        }
    }

    async fn stored(
        &self,
        connection: &mut PgConnection,
        key: &ResourceKey,
    ) -> Result<Option<StoredObject>, StoreError> {
        let (group, kind, namespace, name) = key_columns(key);
        let image: Option<String> = sqlx::query_scalar(
            r#"SELECT fairway_image(r)::text FROM resources r
               WHERE "group" = $1 AND kind = $2 AND namespace = $3 AND name = $4"#,
        )
        .bind(group)
        .bind(kind)
        .bind(namespace)
        .bind(name)
        .fetch_optional(connection)
        .await
        .map_err(|error| self.refused(key, error))?;
        Ok(image.map(|image| read_image(key.clone(), &image, &self.database.master)))
    }
}

async fn insert(
    connection: &mut PgConnection,
    key: &ResourceKey,
    columns: Columns,
    uid: String,
) -> Result<String, sqlx::Error> {
    let (group, kind, namespace, name) = key_columns(key);
    sqlx::query_scalar(
        r#"INSERT INTO resources ("group", kind, namespace, name, uid, deletion_timestamp, labels, annotations,
               finalizers, owner_references, managed_fields, spec, extra, sealed)
           VALUES ($1, $2, $3, $4, COALESCE(NULLIF($5, ''), gen_random_uuid()::text), $6::timestamptz, $7::jsonb,
               $8::jsonb, $9::jsonb, $10::jsonb, $11::jsonb, $12::jsonb, $13::jsonb, $14)
           RETURNING fairway_image(resources)::text"#,
    )
    .bind(group)
    .bind(kind)
    .bind(namespace)
    .bind(name)
    .bind(uid)
    .bind(columns.deletion_timestamp)
    .bind(columns.labels)
    .bind(columns.annotations)
    .bind(columns.finalizers)
    .bind(columns.owner_references)
    .bind(columns.managed_fields)
    .bind(columns.spec)
    .bind(columns.extra)
    .bind(columns.sealed)
    .fetch_one(connection)
    .await
}

async fn update(
    connection: &mut PgConnection,
    key: &ResourceKey,
    columns: Columns,
) -> Result<Option<String>, sqlx::Error> {
    let (group, kind, namespace, name) = key_columns(key);
    sqlx::query_scalar(
        r#"UPDATE resources SET deletion_timestamp = $5::timestamptz, labels = $6::jsonb, annotations = $7::jsonb,
               finalizers = $8::jsonb, owner_references = $9::jsonb, managed_fields = $10::jsonb, spec = $11::jsonb,
               extra = $12::jsonb, sealed = $13
           WHERE "group" = $1 AND kind = $2 AND namespace = $3 AND name = $4
           RETURNING fairway_image(resources)::text"#,
    )
    .bind(group)
    .bind(kind)
    .bind(namespace)
    .bind(name)
    .bind(columns.deletion_timestamp)
    .bind(columns.labels)
    .bind(columns.annotations)
    .bind(columns.finalizers)
    .bind(columns.owner_references)
    .bind(columns.managed_fields)
    .bind(columns.spec)
    .bind(columns.extra)
    .bind(columns.sealed)
    .fetch_optional(connection)
    .await
}

/// Answers the resourceVersion of the deletion.
async fn delete(connection: &mut PgConnection, key: &ResourceKey) -> Result<i64, sqlx::Error> {
    let (group, kind, namespace, name) = key_columns(key);
    sqlx::query(r#"DELETE FROM resources WHERE "group" = $1 AND kind = $2 AND namespace = $3 AND name = $4"#)
        .bind(group)
        .bind(kind)
        .bind(namespace)
        .bind(name)
        .execute(&mut *connection)
        .await?;
    sqlx::query_scalar("SELECT resource_version FROM clock").fetch_one(connection).await
}
