//! Waiting until something was written, here or elsewhere.

use std::time::Duration;

use sqlx::postgres::PgListener;

use super::PostgresStore;

/// How long to leave the server alone after it refused a listener.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Notices that resources or tokens were written; triggers send them.
const RESOURCES: &str = "fairway";
/// Notices that a replica wrote what it knows of its proxies, with [`NOTIFY_PROXIES`](super::super::dialect::Dialect).
const PROXIES: &str = "fairway_proxies";

impl PostgresStore {
    pub(super) async fn wait_for_change(&self, at_most: Duration) {
        tokio::select! {
            () = self.written.notified() => {}
            () = self.notice() => {}
            () = tokio::time::sleep(at_most) => {}
        }
    }

    /// Returns with a notice of the server about what a snapshot shows, and when one may have been missed. Passes on
    /// those about proxies.
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
        loop {
            let Ok(Some(first)) = listener.try_recv().await else {
                *slot = None;
                return;
            };
            let mut of_resources = false;
            let mut next = Some(first);
            while let Some(notice) = next {
                match notice.channel() {
                    PROXIES => self.proxies_written.notify_one(),
                    _ => of_resources = true,
                }
                next = listener.next_buffered();
            }
            if of_resources {
                return;
            }
        }
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.database.writer).await?;
        listener.eager_reconnect(false);
        listener.listen_all([RESOURCES, PROXIES]).await?;
        Ok(listener)
    }
}
