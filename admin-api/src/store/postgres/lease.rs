//! Leases are advisory locks of a session: they end with their connection, so with their holder.

use async_trait::async_trait;
use sqlx::Postgres;
use sqlx::pool::PoolConnection;

use super::super::{Lease, LeaseHold, StoreError};
use super::PostgresStore;

#[derive(Debug)]
struct Hold {
    session: PoolConnection<Postgres>,
}

#[async_trait]
impl LeaseHold for Hold {
    async fn is_held(&mut self) -> bool {
        sqlx::query("SELECT 1").execute(&mut *self.session).await.is_ok()
    }
}

impl PostgresStore {
    pub(super) async fn take_lease(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        let failed = || self.database.failed("take a lease");
        let mut session = self.database.writer.acquire().await.map_err(failed())?;
        let taken: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('fairway lease ' || $1, 0))")
                .bind(name)
                .fetch_one(&mut *session)
                .await
                .map_err(failed())?;
        if !taken {
            return Ok(None);
        }
        session.close_on_drop();
        Ok(Some(Lease { hold: Box::new(Hold { session }) }))
    }
}
