//! Handshakes of the mesh that came to nothing, in the log: each reason and peer at once when it is new, and then how
//! often it happened again, once a minute. A peer that tries for ever fills no disk.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::tls::identity::PeerIs;

/// How often it is said how many more there were.
const EVERY: Duration = Duration::from_mins(1);

/// Reasons and peers that are told apart at once; what comes beyond is counted together.
const MOST: usize = 256;

/// The refusals of a process.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    known: Mutex<HashMap<Refusal, Count>>,
}

/// What is told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Refusal {
    /// Which end the peer was at.
    server: bool,
    /// `None`: one of many.
    peer: Option<IpAddr>,
    reason: Box<str>,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    more: u64,
}

impl Refusals {
    /// Notes a handshake that came to nothing, with a peer at an address, at a port of one of the two ends.
    pub(crate) fn note(&self, which: PeerIs, peer: IpAddr, port: u16, reason: &str) {
        if !self.is_news(which, peer, reason, Instant::now()) {
            return;
        }
        match which {
            PeerIs::Client => {
                tracing::info!(error = %reason, %peer, port, "refused a connection that is not mutual TLS of the mesh");
            }
            PeerIs::Server => {
                tracing::info!(error = %reason, %peer, port, "there is no mutual TLS with an endpoint of the mesh");
            }
        }
    }

    /// Says what else there was. To be called every now and then.
    pub(crate) fn sweep(&self) {
        for (Refusal { server, peer, reason }, times) in self.due(Instant::now()) {
            let peer = peer.map_or_else(|| "several".to_owned(), |peer| peer.to_string());
            if server {
                tracing::info!(error = %reason, peer, times, "there was no mutual TLS with an endpoint of the mesh in the last minute");
            } else {
                tracing::info!(error = %reason, peer, times, "refused connections that were not mutual TLS of the mesh in the last minute");
            }
        }
    }

    /// Whether it is to be said at once; otherwise it is counted.
    fn is_news(&self, which: PeerIs, peer: IpAddr, reason: &str, now: Instant) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let server = which == PeerIs::Server;
        let mut refusal = Refusal { server, peer: Some(peer), reason: reason.into() };
        if known.len() >= MOST && !known.contains_key(&refusal) {
            refusal = Refusal { server, peer: None, reason: "various".into() };
        }
        if let Some(count) = known.get_mut(&refusal) {
            count.more += 1;
            return false;
        }
        known.insert(refusal, Count { since: now, more: 0 });
        true
    }

    /// What happened again since it was said, and how often. What did not is forgotten.
    fn due(&self, now: Instant) -> Vec<(Refusal, u64)> {
        let mut due = Vec::new();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|refusal, count| {
            if now.duration_since(count.since) < EVERY {
                return true;
            }
            let again = count.more > 0;
            if again {
                due.push((refusal.clone(), count.more));
                *count = Count { since: now, more: 0 };
            }
            again
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn the_first_is_said_and_the_others_are_counted() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let news = |reason, second| refusals.is_news(PeerIs::Client, HERE, reason, at(second));
        assert!(news("expired", 0) && news("plain text", 1));
        assert!((2..50).all(|second| !news("expired", second)));
        assert!(refusals.is_news(PeerIs::Server, HERE, "expired", at(50)), "the other end is another matter");
        assert_eq!(refusals.due(at(59)), []);
        let due = refusals.due(at(61));
        assert_eq!(
            due.iter().map(|(refusal, times)| (&*refusal.reason, *times)).collect::<Vec<_>>(),
            [("expired", 48)]
        );
        assert!(!news("expired", 62) && news("plain text", 62), "what did not happen again is new");
        assert_eq!(refusals.due(at(130))[0].1, 1);
        assert_eq!(refusals.due(at(500)), []);
        assert!(refusals.known.lock().unwrap().is_empty());
    }

    #[test]
    fn what_differs_every_time_is_counted_together() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let news = |n: usize| refusals.is_news(PeerIs::Client, HERE, &n.to_string(), now);
        assert_eq!((0..10_000).filter(|n| news(*n)).count(), MOST + 1);
        let due = refusals.due(now + EVERY);
        assert_eq!(
            due.iter().map(|(refusal, times)| (&*refusal.reason, *times)).collect::<Vec<_>>(),
            [("various", 10_000 - MOST as u64 - 1)]
        );
    }
}
