//! What is kept beside resources: the control plane's own secrets, tokens, and the state of proxies.

use std::time::Duration;

use jiff::Timestamp;

use super::super::rows::{ProxyRow, TokenRow, merge_proxies};
use super::super::{ProxyState, StoreError, Token, TokenHash, open_key, seal_key};
use super::SqliteStore;

pub(super) const TOKENS: &str =
    "SELECT id, hash, purpose, name, scope, created_at, created_by, expires_at, uses_left, last_used_at FROM tokens
     ORDER BY created_at, id";

/// With milliseconds, always of the same length: text order is time order.
fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn ago(duration: Duration) -> String {
    text(Timestamp::now().saturating_sub(duration).unwrap_or(Timestamp::UNIX_EPOCH))
}

impl SqliteStore {
    pub(super) async fn read_secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sealed: Option<Vec<u8>> = sqlx::query_scalar("SELECT sealed FROM secret_keys WHERE name = ?1")
            .bind(name)
            .fetch_optional(&self.readers)
            .await
            .map_err(self.failed("read a key"))?;
        sealed.map(|sealed| open_key(&self.master, name, &sealed)).transpose()
    }

    pub(super) async fn read_secret_or(&self, name: &str, candidate: &[u8]) -> Result<Vec<u8>, StoreError> {
        let failed = || self.failed("keep a key");
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
        sqlx::query("INSERT INTO secret_keys (name, sealed) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
            .bind(name)
            .bind(seal_key(&self.master, name, candidate))
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        let sealed: Vec<u8> = sqlx::query_scalar("SELECT sealed FROM secret_keys WHERE name = ?1")
            .bind(name)
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        open_key(&self.master, name, &sealed)
    }

    pub(super) async fn write_secret(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO secret_keys (name, sealed) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET
                 sealed = excluded.sealed, updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
        )
        .bind(name)
        .bind(seal_key(&self.master, name, value))
        .execute(&self.writer)
        .await
        .map_err(self.failed("keep a key"))?;
        Ok(())
    }

    pub(super) async fn write_token(&self, token: &Token) -> Result<(), StoreError> {
        let inserted = sqlx::query(
            "INSERT INTO tokens (id, hash, purpose, name, scope, created_at, created_by, expires_at, uses_left)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
        )
        .bind(&token.id)
        .bind(token.hash.as_bytes())
        .bind(token.purpose.as_str())
        .bind(&token.name)
        .bind(token.scope.to_string())
        .bind(text(token.created_at))
        .bind(&token.created_by)
        .bind(token.expires_at.map(text))
        .bind(token.uses_left.map(i64::from))
        .execute(&self.writer)
        .await
        .map_err(self.failed("keep a token"))?;
        if inserted.rows_affected() == 0 { Err(StoreError::TokenExists) } else { Ok(()) }
    }

    pub(super) async fn read_tokens(&self) -> Result<Vec<Token>, StoreError> {
        let rows: Vec<TokenRow> =
            sqlx::query_as(TOKENS).fetch_all(&self.readers).await.map_err(self.failed("read the tokens"))?;
        Ok(rows.into_iter().filter_map(TokenRow::read).collect())
    }

    pub(super) async fn count_use(&self, hash: &TokenHash) -> Result<Option<Token>, StoreError> {
        let row: Option<TokenRow> = sqlx::query_as(
            "UPDATE tokens SET uses_left = uses_left - 1, last_used_at = ?2
             WHERE hash = ?1 AND (uses_left IS NULL OR uses_left > 0) AND (expires_at IS NULL OR expires_at > ?2)
             RETURNING id, hash, purpose, name, scope, created_at, created_by, expires_at, uses_left, last_used_at",
        )
        .bind(hash.as_bytes())
        .bind(text(Timestamp::now()))
        .fetch_optional(&self.writer)
        .await
        .map_err(self.failed("use a token"))?;
        Ok(row.and_then(TokenRow::read))
    }

    pub(super) async fn remove_token(&self, id: &str) -> Result<bool, StoreError> {
        let deleted = sqlx::query("DELETE FROM tokens WHERE id = ?1")
            .bind(id)
            .execute(&self.writer)
            .await
            .map_err(self.failed("delete a token"))?;
        Ok(deleted.rows_affected() > 0)
    }

    pub(super) async fn write_proxies(&self, replica: &str, states: &[ProxyState]) -> Result<(), StoreError> {
        let failed = || self.failed("write the state of proxies");
        let now = text(Timestamp::now());
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed())?;
        for state in states {
            sqlx::query(
                "INSERT INTO proxies (node, replica, connected, acked, sent, issues, info, seen)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (node, replica) DO UPDATE SET connected = excluded.connected, acked = excluded.acked,
                     sent = excluded.sent, issues = excluded.issues, info = excluded.info, seen = excluded.seen",
            )
            .bind(&state.node)
            .bind(replica)
            .bind(state.connected)
            .bind(state.acked.0 as i64)
            .bind(state.sent.0 as i64)
            .bind(state.issues.to_string())
            .bind(state.info.to_string())
            .bind(&now)
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        }
        transaction.commit().await.map_err(failed())
    }

    pub(super) async fn read_proxies(&self, stale_after: Duration) -> Result<Vec<ProxyState>, StoreError> {
        let rows: Vec<ProxyRow> = sqlx::query_as(
            "SELECT node, replica, connected AND seen >= ?1 AS connected, acked, sent, issues, info, seen FROM proxies
             ORDER BY node, connected AND seen >= ?1 DESC, seen DESC",
        )
        .bind(ago(stale_after))
        .fetch_all(&self.readers)
        .await
        .map_err(self.failed("read the state of proxies"))?;
        Ok(merge_proxies(rows))
    }

    pub(super) async fn remove_proxies(&self, unseen_for: Duration) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM proxies WHERE seen < ?1")
            .bind(ago(unseen_for))
            .execute(&self.writer)
            .await
            .map_err(self.failed("forget proxies"))?;
        Ok(())
    }
}
