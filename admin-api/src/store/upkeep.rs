//! What has to be done now and then, by one replica at a time: forgetting what is past.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;

use super::{Lease, ProxyState, Snapshot, StoreError, Token};

/// The lease that its holder does the upkeep under.
const LEASE: &str = "upkeep";

/// For how long the past is kept.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep {
    /// Between two rounds.
    pub every: Duration,
    /// Writes: for history, rollback, and watches that resume.
    pub history: Duration,
    /// Tokens after their end; those that a known proxy joined with are kept, because it comes back with them.
    pub tokens: Duration,
    /// Proxies that nobody has seen since.
    pub proxies: Duration,
    /// That there were workloads which left, for replicas that were without the database meanwhile.
    pub workloads: Duration,
}

impl Default for Upkeep {
    /// A round a minute; 30 days of history, a week of ended tokens, 30 days of absent proxies, an hour of workloads
    /// that left.
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            every: Duration::from_mins(1),
            history: DAY * 30,
            tokens: DAY * 7,
            proxies: DAY * 30,
            workloads: Duration::from_hours(1),
        }
    }
}

impl Upkeep {
    /// Does rounds for as long as it is polled, whenever no other replica does.
    pub async fn run(self, snapshot: Snapshot) {
        let mut lease: Option<Lease> = None;
        loop {
            let round = async {
                let held = match &mut lease {
                    Some(lease) => lease.is_held().await,
                    None => false,
                };
                if !held {
                    lease = snapshot.store().lease(LEASE).await?;
                }
                if lease.is_some() { self.round(&snapshot).await } else { Ok(()) }
            };
            if let Err(error) = round.await {
                tracing::warn!(%error, "a round of upkeep failed, the next one follows");
            }
            tokio::time::sleep(self.every.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
        }
    }

    async fn round(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let store = snapshot.store();
        let view = snapshot.view();
        let now = Timestamp::now();
        // The last valid form of an invalid row is in its history.
        let keep: Vec<_> = view.quarantine().map(|(key, _)| key.clone()).collect();
        store.compact(before(now, self.history), &keep).await?;
        store.forget_proxies(self.proxies).await?;
        store.forget_workloads(self.workloads).await?;
        let known = store.proxies(self.proxies, None).await?;
        let in_use: HashSet<_> = known.iter().filter_map(ProxyState::join_token).collect();
        let ended = before(now, self.tokens);
        let past = |token: &Token| token.expires_at.is_some_and(|end| end < ended) && !in_use.contains(&*token.id);
        for token in view.tokens().filter(|token| past(token)) {
            store.delete_token(&token.id).await?;
        }
        Ok(())
    }
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    now.saturating_sub(age).unwrap_or(Timestamp::MIN)
}
