//! What is kept beside resources: the control plane's own secrets, tokens, and the state of proxies.

use std::time::Duration;

use super::super::rows::{ProxyRow, TokenRow, merge_proxies};
use super::super::{ProxyState, StoreError, Token, TokenHash, open_key, seal_key};
use super::PostgresStore;
use super::changed::PROXIES;

pub(super) const TOKENS: &str =
    "SELECT id, hash, purpose, name, scope::text, to_json(created_at) #>> '{}' AS created_at, created_by,
         to_json(expires_at) #>> '{}' AS expires_at, uses_left, to_json(last_used_at) #>> '{}' AS last_used_at
     FROM tokens ORDER BY tokens.created_at, id";

impl PostgresStore {
    pub(super) async fn read_secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sealed: Option<Vec<u8>> = sqlx::query_scalar("SELECT sealed FROM secret_keys WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read a key"))?;
        sealed.map(|sealed| open_key(&self.master, name, &sealed)).transpose()
    }

    pub(super) async fn read_secret_or(&self, name: &str, candidate: &[u8]) -> Result<Vec<u8>, StoreError> {
        let failed = || self.failed("keep a key");
        sqlx::query("INSERT INTO secret_keys (name, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(name)
            .bind(seal_key(&self.master, name, candidate))
            .execute(&self.pool)
            .await
            .map_err(failed())?;
        let sealed: Vec<u8> = sqlx::query_scalar("SELECT sealed FROM secret_keys WHERE name = $1")
            .bind(name)
            .fetch_one(&self.pool)
            .await
            .map_err(failed())?;
        open_key(&self.master, name, &sealed)
    }

    pub(super) async fn write_secret(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO secret_keys (name, sealed) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, updated_at = now()",
        )
        .bind(name)
        .bind(seal_key(&self.master, name, value))
        .execute(&self.pool)
        .await
        .map_err(self.failed("keep a key"))?;
        Ok(())
    }

    pub(super) async fn write_token(&self, token: &Token) -> Result<(), StoreError> {
        let inserted = sqlx::query(
            "INSERT INTO tokens (id, hash, purpose, name, scope, created_at, created_by, expires_at, uses_left)
             VALUES ($1, $2, $3, $4, $5::jsonb, $6::timestamptz, $7, $8::timestamptz, $9) ON CONFLICT DO NOTHING",
        )
        .bind(&token.id)
        .bind(token.hash.as_bytes())
        .bind(token.purpose.as_str())
        .bind(&token.name)
        .bind(token.scope.to_string())
        .bind(token.created_at.to_string())
        .bind(&token.created_by)
        .bind(token.expires_at.map(|end| end.to_string()))
        .bind(token.uses_left.map(i64::from))
        .execute(&self.pool)
        .await
        .map_err(self.failed("keep a token"))?;
        if inserted.rows_affected() == 0 { Err(StoreError::TokenExists) } else { Ok(()) }
    }

    pub(super) async fn read_tokens(&self) -> Result<Vec<Token>, StoreError> {
        let rows: Vec<TokenRow> =
            sqlx::query_as(TOKENS).fetch_all(&self.pool).await.map_err(self.failed("read the tokens"))?;
        Ok(rows.into_iter().filter_map(TokenRow::read).collect())
    }

    pub(super) async fn count_use(&self, hash: &TokenHash) -> Result<Option<Token>, StoreError> {
        let row: Option<TokenRow> = sqlx::query_as(
            "UPDATE tokens SET uses_left = uses_left - 1, last_used_at = now()
             WHERE hash = $1 AND (uses_left IS NULL OR uses_left > 0) AND (expires_at IS NULL OR expires_at > now())
             RETURNING id, hash, purpose, name, scope::text, to_json(created_at) #>> '{}' AS created_at, created_by,
                 to_json(expires_at) #>> '{}' AS expires_at, uses_left, to_json(last_used_at) #>> '{}' AS last_used_at",
        )
        .bind(hash.as_bytes())
        .fetch_optional(&self.pool)
        .await
        .map_err(self.failed("use a token"))?;
        Ok(row.and_then(TokenRow::read))
    }

    pub(super) async fn remove_token(&self, id: &str) -> Result<bool, StoreError> {
        let deleted = sqlx::query("DELETE FROM tokens WHERE id = $1")
            .bind(id)
            .execute(&self.pool)
            .await
            .map_err(self.failed("delete a token"))?;
        Ok(deleted.rows_affected() > 0)
    }

    pub(super) async fn write_proxies(&self, replica: &str, states: &[ProxyState]) -> Result<(), StoreError> {
        let failed = || self.failed("write the state of proxies");
        let mut transaction = self.pool.begin().await.map_err(failed())?;
        for state in states {
            sqlx::query(
                "INSERT INTO proxies (node, replica, connected, acked, sent, issues, info, seen)
                 VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, clock_timestamp())
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
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        }
        sqlx::query("SELECT pg_notify($1, '')").bind(PROXIES).execute(&mut *transaction).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }

    pub(super) async fn read_proxies(&self, stale_after: Duration) -> Result<Vec<ProxyState>, StoreError> {
        let rows: Vec<ProxyRow> = sqlx::query_as(
            "SELECT node, replica, live AS connected, acked, sent, issues::text, info::text, to_json(seen) #>> '{}' AS seen
             FROM (SELECT *, connected AND seen >= clock_timestamp() - make_interval(secs => $1) AS live FROM proxies) p
             ORDER BY node, live DESC, p.seen DESC",
        )
        .bind(stale_after.as_secs_f64())
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("read the state of proxies"))?;
        Ok(merge_proxies(rows))
    }

    pub(super) async fn remove_proxies(&self, unseen_for: Duration) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM proxies WHERE seen < clock_timestamp() - make_interval(secs => $1)")
            .bind(unseen_for.as_secs_f64())
            .execute(&self.pool)
            .await
            .map_err(self.failed("forget proxies"))?;
        Ok(())
    }
}
