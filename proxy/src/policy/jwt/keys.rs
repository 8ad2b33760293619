//! The keys of issuers, kept up to date on the control runtime.
//!
//! Each source is followed by one task for as long as a table names it, so there is one fetch at a time and no request
//! ever waits for keys that are known: they are fetched again before they are too old, and go on being used while that
//! fails. A request only waits while nothing is known yet, or when its token names a key that is not known.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use route_model::table::authentication::KeySource;
use route_model::verdict::authentication::jwks::{KeySet, KeySetError};
use route_model::verdict::authentication::{Token, TokenFault};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};

use super::fetch::{self, FetchError};
use super::verify::Keys;
use crate::rt::Task;
use crate::telemetry::keys::{KeyFetches, KeySeries};

/// When keys are fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Keys are fetched again after this time, or sooner if their server says so; Istio: 20 min.
    pub(crate) refresh: Duration,
    /// … but not sooner than after this time.
    pub(crate) shortest: Duration,
    /// No source is asked more often, whoever wants it.
    pub(crate) floor: Duration,
    /// Keys that cannot be fetched again are used for so long; Istio: 7 days.
    pub(crate) stale: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            refresh: Duration::from_mins(20),
            shortest: Duration::from_secs(30),
            floor: Duration::from_secs(5),
            stale: Duration::from_hours(7 * 24),
        }
    }
}

/// Fetches under way at once.
const CONCURRENT: usize = 8;
/// The longest pause between tries while fetching fails.
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// The keys of all issuers that a process knows.
#[derive(Debug)]
pub(crate) struct KeyStore {
    handle: Handle,
    schedule: Schedule,
    slots: Arc<Semaphore>,
    known: HashMap<(KeySource, Duration), Followed, foldhash::fast::RandomState>,
    /// By URL.
    fetches: BTreeMap<Arc<str>, Arc<KeyFetches>>,
}

#[derive(Debug)]
struct Followed {
    keys: Arc<IssuerKeys>,
    /// `None` for keys that are written in the rule.
    _following: Option<Task>,
}

/// The keys of one source, shared by all workers.
#[derive(Debug)]
pub(crate) struct IssuerKeys {
    state: watch::Sender<State>,
    /// The generation of the keys that count, or that are about to.
    generation: AtomicU64,
    /// When the last fetch began, in milliseconds since `epoch`.
    asked: AtomicU64,
    epoch: Instant,
    floor: Duration,
    is_fetched: bool,
    /// Keys are wanted that are not known.
    wanted: Notify,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Fetches that ended.
    fetches: u64,
    /// `None`: nothing could be fetched so far, or not for too long.
    keys: Option<Arc<Keys>>,
    /// No two sets of keys have the same.
    generation: u64,
}

/// Why a token could not be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    Fault(TokenFault),
    /// It may be verified when one more fetch than this ended; else it has this fault.
    Later(u64, TokenFault),
}

#[derive(Debug, Error)]
enum KeysError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("it took longer than {0:?}")]
    TimedOut(Duration),
    #[error("{0}")]
    Set(#[from] KeySetError),
    #[error("the document of the issuer names no jwks_uri, or one without https although it came by https")]
    Discovery,
}

impl KeyStore {
    pub(crate) fn new(handle: Handle, schedule: Schedule) -> Self {
        Self {
            handle,
            schedule,
            slots: Arc::new(Semaphore::new(CONCURRENT)),
            known: HashMap::default(),
            fetches: BTreeMap::new(),
        }
    }

    /// The keys of a source; they are being fetched when this returns. `timeout` bounds one fetch.
    pub(super) fn keys(&mut self, source: &KeySource, timeout: Duration) -> Arc<IssuerKeys> {
        let identity = (source.clone(), timeout);
        if let Some(known) = self.known.get(&identity) {
            return Arc::clone(&known.keys);
        }
        let is_fetched = matches!(source, KeySource::Url(_) | KeySource::Discovery(_));
        let keys = Arc::new(IssuerKeys::new(self.schedule.floor, is_fetched));
        let following = match source {
            KeySource::Inline(text) => {
                let set = KeySet::parse(text.as_bytes()).unwrap_or_else(|error| {
                    tracing::warn!(%error, "the keys of a RequestAuthentication are no JSON Web Key Set");
                    KeySet::default()
                });
                keys.publish(Some(set));
                None
            }
            KeySource::None => {
                keys.publish(Some(KeySet::default()));
                None
            }
            KeySource::Url(url) | KeySource::Discovery(url) => {
                let fetches = Arc::clone(self.fetches.entry(Arc::clone(url)).or_default());
                let (schedule, slots) = (self.schedule, Arc::clone(&self.slots));
                let follow = follow(Arc::clone(&keys), source.clone(), timeout, schedule, slots, fetches);
                Some(Task(self.handle.spawn(follow)))
            }
        };
        self.known.insert(identity, Followed { keys: Arc::clone(&keys), _following: following });
        keys
    }

    /// Forgets what is not among these.
    pub(super) fn retain(&mut self, used: &HashSet<*const IssuerKeys>) {
        self.known.retain(|_, known| used.contains(&Arc::as_ptr(&known.keys)));
        let known = &self.known;
        self.fetches.retain(|url, _| known.keys().any(|(source, _)| source.url() == Some(url)));
    }

    /// What there is to count.
    pub(crate) fn series(&self) -> Vec<KeySeries> {
        let series = self.fetches.iter();
        series.map(|(url, fetches)| KeySeries { url: Arc::clone(url), fetches: Arc::clone(fetches) }).collect()
    }
}

impl IssuerKeys {
    fn new(floor: Duration, is_fetched: bool) -> Self {
        Self {
            state: watch::Sender::default(),
            generation: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            epoch: Instant::now(),
            floor,
            is_fetched,
            wanted: Notify::new(),
        }
    }

    /// Which keys count: what was verified by those of another generation has to be verified again.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Verifies a token's signature; by keys of which generation.
    ///
    /// # Errors
    /// It is not true, or the keys to tell are not known.
    pub(super) fn verify(&self, token: &Token<'_>) -> Result<u64, Miss> {
        let State { fetches, keys, generation } = self.state.borrow().clone();
        let fault = match keys {
            Some(keys) => match keys.verify(token) {
                Ok(()) => return Ok(generation),
                // The issuer may have new keys.
                Err(fault @ (TokenFault::NoKey | TokenFault::NoKeys)) => fault,
                Err(fault) => return Err(Miss::Fault(fault)),
            },
            None => TokenFault::Fetch,
        };
        Err(if self.may_ask(fetches) { Miss::Later(fetches, fault) } else { Miss::Fault(fault) })
    }

    /// Whether keys are about to be fetched for the first time, or the last fetch was long enough ago. Never so for keys
    /// that are not fetched.
    fn may_ask(&self, fetches: u64) -> bool {
        let asked = Duration::from_millis(self.asked.load(Ordering::Relaxed));
        self.is_fetched && (fetches == 0 || self.epoch.elapsed() >= asked + self.floor)
    }

    /// Waits until more fetches than these ended; asks for one.
    pub(super) async fn fetched(&self, before: u64) {
        if before > 0 {
            self.wanted.notify_one();
        }
        let _ = self.state.subscribe().wait_for(|state| state.fetches > before).await;
    }

    /// What a fetch brought; `None`: nothing, and what is known is too old.
    fn publish(&self, set: Option<KeySet>) {
        static GENERATIONS: AtomicU64 = AtomicU64::new(1);
        let known = self.state.borrow().keys.clone();
        let keys = match (set, known) {
            (Some(set), Some(known)) if known.are(&set) => {
                self.state.send_modify(|state| state.fetches += 1);
                return;
            }
            (Some(set), _) => {
                for (index, reason) in &set.unusable {
                    tracing::warn!(index, %reason, "a key of a JSON Web Key Set cannot be used");
                }
                Some(Arc::new(Keys::new(set)))
            }
            (None, _) => None,
        };
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        // Before the keys: once anybody is verified by these, nobody is remembered by those before.
        self.generation.store(generation, Ordering::Release);
        self.state.send_modify(|state| *state = State { fetches: state.fetches + 1, keys, generation });
    }
}

async fn follow(
    keys: Arc<IssuerKeys>,
    source: KeySource,
    timeout: Duration,
    schedule: Schedule,
    slots: Arc<Semaphore>,
    fetches: Arc<KeyFetches>,
) {
    let Some(url) = source.url() else { return };
    let mut failures = 0u32;
    let mut good: Option<Instant> = None;
    loop {
        let slot = slots.acquire().await;
        let began = tokio::time::Instant::now();
        keys.asked.store(keys.epoch.elapsed().as_millis() as u64, Ordering::Relaxed);
        let outcome = tokio::time::timeout(timeout, fetch(&source)).await;
        drop(slot);
        let outcome = outcome.unwrap_or(Err(KeysError::TimedOut(timeout)));
        let pause = match outcome {
            Ok((set, max_age)) => {
                if failures > 0 {
                    tracing::info!(%url, "keys were fetched again");
                }
                failures = 0;
                good = Some(Instant::now());
                fetches.fetched();
                keys.publish(Some(set));
                max_age.unwrap_or(schedule.refresh).clamp(schedule.shortest, schedule.refresh)
            }
            Err(error) => {
                failures += 1;
                let stale = good.is_some_and(|good| good.elapsed() < schedule.stale);
                tracing::warn!(%url, %error, failures, using_old_keys = stale, "keys cannot be fetched");
                fetches.failed(stale);
                if stale {
                    keys.state.send_modify(|state| state.fetches += 1);
                } else {
                    keys.publish(None);
                }
                backoff(failures)
            }
        };
        // Not all issuers of a process at one moment.
        let pause = pause.mul_f64(0.9 + 0.1 * fastrand::f64());
        let wanted = async {
            keys.wanted.notified().await;
            tokio::time::sleep_until(began + schedule.floor).await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wanted => {}
        }
    }
}

/// One second, doubled with each failure.
fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(MAX_PAUSE)
}

async fn fetch(source: &KeySource) -> Result<(KeySet, Option<Duration>), KeysError> {
    let url = match source {
        KeySource::Discovery(url) => {
            let document = fetch::get(url).await?;
            let document: serde_json::Value =
                serde_json::from_slice(&document.body).map_err(|_| KeysError::Discovery)?;
            let secure = |uri: &&str| !url.starts_with("https:") || uri.starts_with("https:");
            document["jwks_uri"].as_str().filter(secure).ok_or(KeysError::Discovery)?.to_owned()
        }
        KeySource::Url(url) => url.to_string(),
        KeySource::Inline(_) | KeySource::None => return Ok((KeySet::default(), None)),
    };
    let fetched = fetch::get(&url).await?;
    Ok((KeySet::parse(&fetched.body)?, fetched.max_age))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::AtomicBool;

    use serde_json::json;
    use testkit::Issuer;

    use super::*;

    #[test]
    fn who_was_verified_by_old_keys_is_forgotten_before_new_ones_count() {
        const ROUNDS: usize = 2000;
        let (old, new) = (Issuer::p256("old"), Issuer::p256("new"));
        let payload = json!({"iss": "i", "sub": "s"});
        let texts = [&old, &new].map(|issuer| issuer.token(&payload));
        let [of_old, of_new] = texts.each_ref().map(|text| Token::parse(text).unwrap());
        let set = |issuer: &Issuer| Some(KeySet::parse(issuer.jwks().as_bytes()).unwrap());
        let (keys, done) = (IssuerKeys::new(Duration::ZERO, false), AtomicBool::new(false));
        keys.publish(set(&old));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    keys.publish(set(&new));
                    keys.publish(set(&old));
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let Ok(remembered) = keys.verify(&of_old) else { continue };
                if keys.verify(&of_new).is_ok() {
                    assert_ne!(keys.generation(), remembered);
                }
            }
        });
    }
}
