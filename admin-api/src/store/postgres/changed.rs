//! Waiting until something was written, here or elsewhere.

use std::time::Duration;

use sqlx::postgres::PgListener;

use super::PostgresStore;

/// How long to leave the server alone after it refused a listener.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl PostgresStore {
    pub(super) async fn wait_for_change(&self, at_most: Duration) {
        tokio::select! {
            () = self.written.notified() => {}
            () = self.notice() => {}
            () = tokio::time::sleep(at_most) => {}
        }
    }

    /// Returns with a notice of the server, and when one may have been missed.
    async fn notice(&self) {
        let mut slot = self.listener.lock().await;
        let Some(listener) = &mut *slot else {
            match self.listen().await {
                Ok(listener) => *slot = Some(listener),
                Err(error) => {
                    tracing::debug!(%error, "cannot listen for changes, asking now and then instead");
                    tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
                }
            }
            return;
        };
        match listener.try_recv().await {
            Ok(Some(_)) => while listener.next_buffered().is_some() {},
            Ok(None) | Err(_) => *slot = None,
        }
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.eager_reconnect(false);
        listener.listen("fairway").await?;
        Ok(listener)
    }
}
