//! What is kept beside resources: the control plane's own secrets, tokens, and the state of proxies.

use std::time::Duration;

use sqlx::{Encode, Executor, FromRow, IntoArguments, Type};

use super::super::dialect::Dialect;
use super::super::rows::{ProxyRow, TokenRow, merge_proxies};
use super::super::{ProxyState, StoreError, Token, TokenHash, open_key, seal_key};
use super::{Database, text};

impl<D: Dialect> Database<D>
where
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
    for<'q> &'q str: Encode<'q, D> + Type<D>,
    for<'q> &'q [u8]: Encode<'q, D> + Type<D>,
    for<'q> Option<&'q str>: Encode<'q, D>,
    for<'q> Option<i64>: Encode<'q, D>,
    for<'q> i64: Encode<'q, D> + Type<D>,
    for<'q> f64: Encode<'q, D> + Type<D>,
    for<'q> bool: Encode<'q, D> + Type<D>,
    for<'r> TokenRow: FromRow<'r, D::Row>,
    for<'r> ProxyRow: FromRow<'r, D::Row>,
    for<'r> (Vec<u8>,): FromRow<'r, D::Row>,
{
    pub(in crate::store) async fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sealed: Option<Vec<u8>> = sqlx::query_scalar(D::KEY)
            .bind(name)
            .fetch_optional(&self.readers)
            .await
            .map_err(self.failed("read a key"))?;
        sealed.map(|sealed| open_key(&self.master, name, &sealed)).transpose()
    }

    pub(in crate::store) async fn secret_or(&self, name: &str, candidate: &[u8]) -> Result<Vec<u8>, StoreError> {
        let failed = || self.failed("keep a key");
        let sealed = seal_key(&self.master, name, candidate);
        sqlx::query(D::ADD_KEY).bind(name).bind(&*sealed).execute(&self.writer).await.map_err(failed())?;
        let kept: Vec<u8> = sqlx::query_scalar(D::KEY).bind(name).fetch_one(&self.writer).await.map_err(failed())?;
        open_key(&self.master, name, &kept)
    }

    pub(in crate::store) async fn put_secret(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        let sealed = seal_key(&self.master, name, value);
        let put = sqlx::query(D::PUT_KEY).bind(name).bind(&*sealed);
        put.execute(&self.writer).await.map_err(self.failed("keep a key"))?;
        Ok(())
    }

    pub(in crate::store) async fn put_token(&self, token: &Token) -> Result<(), StoreError> {
        let (scope, created, expires) = (token.scope.to_string(), text(token.created_at), token.expires_at.map(text));
        let added = sqlx::query(D::ADD_TOKEN)
            .bind(&*token.id)
            .bind(token.hash.as_bytes())
            .bind(token.purpose.as_str())
            .bind(&*token.name)
            .bind(&*scope)
            .bind(&*created)
            .bind(&*token.created_by)
            .bind(expires.as_deref())
            .bind(token.uses_left.map(i64::from))
            .execute(&self.writer)
            .await
            .map_err(self.failed("keep a token"))?;
        if D::rows_affected(&added) == 0 { Err(StoreError::TokenExists) } else { Ok(()) }
    }

    pub(in crate::store) async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let rows: Vec<TokenRow> =
            sqlx::query_as(D::TOKENS).fetch_all(&self.readers).await.map_err(self.failed("read the tokens"))?;
        Ok(rows.into_iter().filter_map(TokenRow::read).collect())
    }

    pub(in crate::store) async fn use_token(&self, hash: &TokenHash) -> Result<Option<Token>, StoreError> {
        let row: Option<TokenRow> = sqlx::query_as(D::USE_TOKEN)
            .bind(hash.as_bytes())
            .fetch_optional(&self.writer)
            .await
            .map_err(self.failed("use a token"))?;
        Ok(row.and_then(TokenRow::read))
    }

    pub(in crate::store) async fn delete_token(&self, id: &str) -> Result<bool, StoreError> {
        let deleted = sqlx::query(D::DELETE_TOKEN).bind(id).execute(&self.writer).await;
        Ok(D::rows_affected(&deleted.map_err(self.failed("delete a token"))?) > 0)
    }

    pub(in crate::store) async fn put_proxies(&self, replica: &str, states: &[ProxyState]) -> Result<(), StoreError> {
        let failed = || self.failed("write the state of proxies");
        let mut transaction = self.writer.begin_with(D::BEGIN_WRITE).await.map_err(failed())?;
        for state in states {
            let (issues, info) = (state.issues.to_string(), state.info.to_string());
            sqlx::query(D::PUT_PROXY)
                .bind(&*state.node)
                .bind(replica)
                .bind(state.connected)
                .bind(state.acked.0 as i64)
                .bind(state.sent.0 as i64)
                .bind(&*issues)
                .bind(&*info)
                .execute(&mut *transaction)
                .await
                .map_err(failed())?;
        }
        if let Some(notify) = D::NOTIFY_PROXIES {
            sqlx::query(notify).execute(&mut *transaction).await.map_err(failed())?;
        }
        transaction.commit().await.map_err(failed())
    }

    pub(in crate::store) async fn proxies(
        &self,
        stale_after: Duration,
        but: Option<&str>,
    ) -> Result<Vec<ProxyState>, StoreError> {
        let rows: Vec<ProxyRow> = sqlx::query_as(D::PROXIES)
            .bind(stale_after.as_secs_f64())
            // No replica has an empty name.
            .bind(but.unwrap_or_default())
            .fetch_all(&self.readers)
            .await
            .map_err(self.failed("read the state of proxies"))?;
        Ok(merge_proxies(rows))
    }

    pub(in crate::store) async fn forget_proxies(&self, unseen_for: Duration) -> Result<(), StoreError> {
        let forget = sqlx::query(D::FORGET_PROXIES).bind(unseen_for.as_secs_f64());
        forget.execute(&self.writer).await.map_err(self.failed("forget proxies"))?;
        Ok(())
    }
}
