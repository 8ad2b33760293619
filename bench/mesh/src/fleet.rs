//! All simulated sidecars together.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use push::credential::Credential;
use push::message::ProxyMessage;
use push::transport::TlsTransport;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

use crate::join::join;
use crate::proxy::{Identity, Proxy};
use crate::stream::Stream;

/// Joining is not what is measured: so many do it at a time.
const JOINING: usize = 16;
/// Before another attempt to connect.
const RETRY: Duration = Duration::from_millis(500);

pub(crate) struct Fleet {
    pub(crate) proxies: Vec<Arc<Proxy>>,
    /// Counts how often all connections were cut.
    cuts: watch::Sender<u64>,
    seen: Mutex<Seen>,
    failures: AtomicUsize,
    last_failure: Mutex<String>,
}

/// What came from the control plane since this was cleared.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Seen {
    deltas: usize,
    bytes: usize,
    /// Resources of small deltas.
    kinds: BTreeMap<String, usize>,
}

/// How the fleet is.
#[derive(Debug, Serialize)]
pub(crate) struct Counts {
    connected: usize,
    /// The lowest and the highest revision that is held.
    oldest: u64,
    newest: u64,
    scopes: usize,
    /// Scopes whose proxies do not hold the same.
    torn: usize,
    /// Attempts to connect that failed, and streams that ended by themselves.
    failures: usize,
    last_failure: String,
    #[serde(flatten)]
    seen: Seen,
}

impl Fleet {
    pub(crate) fn new(control_plane: &str, ca: &[u8], identities: Vec<Identity>) -> anyhow::Result<Self> {
        let proxies = identities.into_iter().map(|identity| {
            let credential = Arc::new(Credential::default());
            let transport = TlsTransport::new(control_plane, ca)?.with_credential(credential.clone())?;
            Ok(Arc::new(Proxy::new(identity, transport, credential)))
        });
        Ok(Self {
            proxies: proxies.collect::<anyhow::Result<_>>()?,
            cuts: watch::Sender::new(0),
            seen: Mutex::default(),
            failures: AtomicUsize::new(0),
            last_failure: Mutex::default(),
        })
    }

    /// Gets every proxy its certificate, then connects all.
    pub(crate) async fn join(self: &Arc<Self>) -> anyhow::Result<()> {
        let turns = Arc::new(Semaphore::new(JOINING));
        let mut joining = tokio::task::JoinSet::new();
        for proxy in &self.proxies {
            let (proxy, turn) = (proxy.clone(), turns.clone().acquire_owned().await?);
            joining.spawn(async move {
                let joined = join(&proxy).await;
                drop(turn);
                joined
            });
        }
        while let Some(joined) = joining.join_next().await {
            joined??;
        }
        for proxy in &self.proxies {
            tokio::spawn(self.clone().keep_connected(proxy.clone()));
        }
        Ok(())
    }

    /// Cuts all connections at once. Each proxy comes back at once: the worst that can happen.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub(crate) fn clear(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
        self.failures.store(0, Ordering::Relaxed);
        self.proxies.iter().for_each(|proxy| proxy.held().acks = Vec::new());
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut digests: HashMap<String, Vec<bytes::Bytes>> = HashMap::new();
        let (mut connected, mut oldest, mut newest) = (0, u64::MAX, 0);
        for proxy in &self.proxies {
            let held = proxy.held();
            connected += usize::from(held.connected);
            (oldest, newest) = (oldest.min(held.revision), newest.max(held.revision));
            let known = digests.entry(held.scope.clone()).or_default();
            if !known.contains(&held.digest) {
                known.push(held.digest.clone());
            }
        }
        Counts {
            connected,
            oldest,
            newest,
            scopes: digests.len(),
            torn: digests.values().filter(|known| known.len() > 1).count(),
            failures: self.failures.load(Ordering::Relaxed),
            last_failure: self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            seen: self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    async fn keep_connected(self: Arc<Self>, proxy: Arc<Proxy>) {
        let mut cuts = self.cuts.subscribe();
        loop {
            let ended = tokio::select! {
                ended = self.follow(&proxy) => ended,
                _ = cuts.changed() => Ok(()),
            };
            proxy.held().connected = false;
            if let Err(error) = ended {
                self.failures.fetch_add(1, Ordering::Relaxed);
                *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = format!("{error:#}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Takes deltas and acknowledges them for as long as the connection holds.
    async fn follow(&self, proxy: &Proxy) -> anyhow::Result<()> {
        let mut stream = Stream::open(proxy).await?;
        loop {
            let part = stream.next().await?;
            if part.nonce == 0 {
                proxy.held().connected = true;
                continue;
            }
            {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.deltas += usize::from(!part.more);
                seen.bytes += part.bytes();
                for kind in part.kinds() {
                    *seen.kinds.entry(kind).or_default() += 1;
                }
            }
            if !part.more {
                let ack = proxy.take(&part);
                stream.say(ProxyMessage::Ack(ack)).await?;
            }
        }
    }
}
