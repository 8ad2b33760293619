//! The one way in which resources are written.

use std::sync::Arc;

use route_model::meta::{ResourceKey, Revision};
use sqlx::SqliteConnection;

use super::super::decide::{Decision, decide};
use super::super::row::{Columns, read_image};
use super::super::rows::key_columns;
use super::super::{ChangeSet, Committed, StoreError, StoredObject, Write, Written};
use super::SqliteStore;

impl SqliteStore {
    pub(super) async fn write(&self, changes: ChangeSet) -> Result<Committed, StoreError> {
        let failed = || self.database.failed("write");
        let ChangeSet { author, via, message, writes, require } = changes;
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
        let connection = &mut *transaction;
        for key in require {
            if self.stored(connection, &key).await?.is_none() {
                return Err(StoreError::NotFound { key });
            }
        }
        let before = open_revision(connection).await.map_err(failed())?;
        let mut written = Vec::with_capacity(writes.len());
        for write in writes {
            written.push(self.carry_out(connection, write).await?);
        }
        let revision = if written.iter().any(|w| w.changed) {
            close_revision(connection, before + 1, &author, &via, &message).await.map_err(failed())?;
            transaction.commit().await.map_err(failed())?;
            before + 1
        } else {
            transaction.rollback().await.map_err(failed())?;
            before
        };
        Ok(Committed { revision: Revision(revision as u64), written })
    }

    async fn carry_out(&self, connection: &mut SqliteConnection, write: Write) -> Result<Written, StoreError> {
        let key = write.key.clone();
        let stored = self.stored(connection, &key).await?;
        match decide(write, stored, &self.database.master)? {
            Decision::Nothing(written) => return Ok(written),
            Decision::Insert { columns, uid } => insert(connection, &key, columns, uid).await,
            Decision::Update(columns) => update(connection, &key, columns).await,
            Decision::Delete(stored) => {
                let version = delete(connection, &key).await.map_err(self.database.failed("delete"))?;
                return Ok(Written { object: Some(Arc::new(stored.at_version(version as u64))), changed: true });
            }
        }
        .map_err(self.database.failed("write"))?;
        Ok(Written { object: self.stored(connection, &key).await?.map(Arc::new), changed: true })
    }

    async fn stored(
        &self,
        connection: &mut SqliteConnection,
        key: &ResourceKey,
    ) -> Result<Option<StoredObject>, StoreError> {
        let (group, kind, namespace, name) = key_columns(key);
        let image: Option<String> = sqlx::query_scalar(
            r#"SELECT image FROM images WHERE "group" = ?1 AND kind = ?2 AND namespace = ?3 AND name = ?4"#,
        )
        .bind(group)
        .bind(kind)
        .bind(namespace)
        .bind(name)
        .fetch_optional(connection)
        .await
        .map_err(self.database.failed("read"))?;
        Ok(image.map(|image| read_image(key.clone(), &image, &self.database.master)))
    }
}

/// Tells the triggers which revision the writes belong to; answers the one before it.
async fn open_revision(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("UPDATE clock SET open = revision + 1 RETURNING revision").fetch_one(connection).await
}

async fn close_revision(
    connection: &mut SqliteConnection,
    revision: i64,
    author: &str,
    via: &str,
    message: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE revisions SET author = ?2, via = ?3, message = ?4 WHERE revision = ?1")
        .bind(revision)
        .bind(author)
        .bind(via)
        .bind(message)
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE clock SET open = NULL").execute(connection).await?;
    Ok(())
}

async fn insert(
    connection: &mut SqliteConnection,
    key: &ResourceKey,
    columns: Columns,
    uid: String,
) -> Result<(), sqlx::Error> {
    let (group, kind, namespace, name) = key_columns(key);
    sqlx::query(
        r#"INSERT INTO resources ("group", kind, namespace, name, uid, deletion_timestamp, labels, annotations,
               finalizers, owner_references, managed_fields, spec, extra, sealed)
           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"#,
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
    .execute(connection)
    .await?;
    Ok(())
}

async fn update(connection: &mut SqliteConnection, key: &ResourceKey, columns: Columns) -> Result<(), sqlx::Error> {
    let (group, kind, namespace, name) = key_columns(key);
    sqlx::query(
        r#"UPDATE resources SET deletion_timestamp = ?5, labels = ?6, annotations = ?7, finalizers = ?8,
               owner_references = ?9, managed_fields = ?10, spec = ?11, extra = ?12, sealed = ?13
           WHERE "group" = ?1 AND kind = ?2 AND namespace = ?3 AND name = ?4"#,
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
    .execute(connection)
    .await?;
    Ok(())
}

/// Answers the resourceVersion of the deletion.
async fn delete(connection: &mut SqliteConnection, key: &ResourceKey) -> Result<i64, sqlx::Error> {
    let (group, kind, namespace, name) = key_columns(key);
    sqlx::query(r#"DELETE FROM resources WHERE "group" = ?1 AND kind = ?2 AND namespace = ?3 AND name = ?4"#)
        .bind(group)
        .bind(kind)
        .bind(namespace)
        .bind(name)
        .execute(&mut *connection)
        .await?;
    sqlx::query_scalar("SELECT resource_version FROM clock").fetch_one(connection).await
}
