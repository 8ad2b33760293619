//! Clusters whose requests say themselves where they go (`DYNAMIC_DNS`): each name under the wildcard is looked up when
//! it is first asked for, and kept up to date for as long as it is used.
//!
//! Names come from clients, so what they can cost is bounded: the names of a cluster in number and in idle time, their
//! look-ups in number at once. They stand back from the look-ups of other clusters. Connections are kept by endpoint,
//! and each name has endpoints of its own, so that no request reaches a server under another name than its own.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use route_model::table::cluster::WildcardNames;
use route_model::table::upstream::OutlierDetection;

use super::cluster_state::Discovered;
use super::outlier;
use super::resolve::Resolver;
use crate::rt::Task;

/// Names that one cluster knows at once (Envoy's `max_hosts`).
const MAX_NAMES: usize = 1024;

/// Names are looked over this often; their idle time is counted in it.
const TICK: Duration = Duration::from_secs(10);
/// A name that nobody asked for is forgotten after 5 minutes (Envoy's `host_ttl`), one without an address after 30 s.
const IDLE_TICKS: u32 = 30;
const IDLE_TICKS_UNRESOLVED: u32 = 3;

/// The names of one cluster. Kept under the cluster's key from table to table.
pub(crate) struct DynamicNames {
    wildcard: WildcardNames,
    retry: Duration,
    resolver: Arc<Resolver>,
    known: Arc<Known>,
    _expiry: Task,
}

#[derive(Default)]
struct Known {
    tick: AtomicU32,
    names: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    rules: Option<OutlierDetection>,
    by_name: HashMap<Arc<str>, Entry, foldhash::fast::RandomState>,
}

struct Entry {
    name: Arc<DynamicName>,
    /// Keeps it up to date.
    _following: Task,
    /// Brings its endpoint back into rotation.
    sweeping: Option<Task>,
}

/// One name and what is known of it.
#[derive(Debug)]
pub(crate) struct DynamicName {
    pub(crate) discovered: Arc<Discovered>,
    /// When it was last asked for, in ticks.
    used: AtomicU32,
    gone: AtomicBool,
}

/// Why a request's name leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoName {
    /// It is not one of the wildcard's.
    Foreign,
    /// As many names are in use as there may be.
    Full,
}

impl DynamicNames {
    /// `retry` is the longest time between tries of a name that cannot be looked up.
    pub(crate) fn new(wildcard: &WildcardNames, resolver: &Arc<Resolver>, retry: Duration) -> Self {
        let known = Arc::<Known>::default();
        let expiry = {
            let known = Arc::clone(&known);
            Task(resolver.handle().spawn(async move {
                loop {
                    tokio::time::sleep(TICK).await;
                    known.expire();
                }
            }))
        };
        Self { wildcard: wildcard.clone(), retry, resolver: Arc::clone(resolver), known, _expiry: expiry }
    }

    /// What is known of a name, which is looked up if it is new. Names are compared in lower case.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<DynamicName>, NoName> {
        if !self.wildcard.takes(name) {
            return Err(NoName::Foreign);
        }
        let mut names = self.known.names();
        if let Some(entry) = names.by_name.get(name) {
            return Ok(Arc::clone(&entry.name));
        }
        if names.by_name.len() >= MAX_NAMES && !names.make_room() {
            return Err(NoName::Full);
        }
        let discovered = Arc::new(Discovered::new());
        discovered.govern(names.rules.as_ref());
        let found = Arc::new(DynamicName {
            discovered: Arc::clone(&discovered),
            used: AtomicU32::new(self.known.tick.load(Ordering::Relaxed)),
            gone: AtomicBool::new(false),
        });
        let key: Arc<str> = name.into();
        let following = self.resolver.follow_name(Arc::clone(&key), self.wildcard.port, &discovered, self.retry);
        let sweeping = names.rules.as_ref().map(|rules| outlier::sweep(self.resolver.handle(), &discovered, rules));
        let entry = Entry { name: Arc::clone(&found), _following: following, sweeping };
        names.by_name.insert(key, entry);
        Ok(found)
    }

    /// Takes note that a name is in use; whether it still counts.
    pub(crate) fn touch(&self, name: &DynamicName) -> bool {
        name.used.store(self.known.tick.load(Ordering::Relaxed), Ordering::Relaxed);
        !name.is_gone()
    }

    /// Has endpoints leave the rotation and come back by these rules.
    pub(crate) fn govern(&self, rules: Option<&OutlierDetection>) {
        let mut names = self.known.names();
        if names.rules.as_ref() == rules {
            return;
        }
        names.rules = rules.cloned();
        for entry in names.by_name.values_mut() {
            let discovered = &entry.name.discovered;
            discovered.govern(rules);
            entry.sweeping = rules.map(|rules| outlier::sweep(self.resolver.handle(), discovered, rules));
            if rules.is_none() {
                discovered.pardon();
            }
        }
    }

    /// The names known now, sorted.
    pub(crate) fn names(&self) -> Vec<(Arc<str>, Arc<Discovered>)> {
        let names = self.known.names();
        let mut all: Vec<_> =
            names.by_name.iter().map(|(name, entry)| (Arc::clone(name), Arc::clone(&entry.name.discovered))).collect();
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        all
    }
}

impl fmt::Debug for DynamicNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamicNames").field("wildcard", &self.wildcard).finish_non_exhaustive()
    }
}

impl DynamicName {
    /// It was forgotten, and counts no more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl Known {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the names that nobody asks for any more.
    fn expire(&self) {
        let now = self.tick.fetch_add(1, Ordering::Relaxed) + 1;
        self.names().by_name.retain(|_, entry| {
            let limit = if entry.is_unresolved() { IDLE_TICKS_UNRESOLVED } else { IDLE_TICKS };
            let stays = now.saturating_sub(entry.name.used.load(Ordering::Relaxed)) < limit;
            entry.name.gone.store(!stays, Ordering::Relaxed);
            stays
        });
    }
}

impl Names {
    /// Gives up a name that turned out to have no address, so that made-up ones do not keep out real ones.
    fn make_room(&mut self) -> bool {
        let unresolved = self.by_name.iter().filter(|(_, entry)| entry.is_unresolved());
        let oldest = unresolved.min_by_key(|(_, entry)| entry.name.used.load(Ordering::Relaxed));
        let Some(name) = oldest.map(|(name, _)| Arc::clone(name)) else { return false };
        if let Some(entry) = self.by_name.remove(&name) {
            entry.name.gone.store(true, Ordering::Relaxed);
        }
        true
    }
}

impl Entry {
    /// It was looked up and has no address.
    fn is_unresolved(&self) -> bool {
        self.name.discovered.version() > 0 && self.name.discovered.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::resolve::tests::{QUICK, RETRY, Reply, Zone, resolver, until};
    use super::*;

    fn wildcard() -> WildcardNames {
        WildcardNames { suffix: ".apps.test".into(), port: 80 }
    }

    fn addresses(name: &DynamicName) -> Vec<String> {
        name.discovered.current().1.endpoints.iter().map(|endpoint| endpoint.state.name.to_string()).collect()
    }

    #[tokio::test]
    async fn a_name_is_looked_up_when_it_is_asked_for_and_followed() {
        let zone = Zone::default();
        zone.set("a.apps.test", Reply::Addresses(&["127.0.0.2"], 0));
        let resolver = resolver(&zone, QUICK, "", &[]).await;
        let names = DynamicNames::new(&wildcard(), &resolver, RETRY);
        assert_eq!(zone.asked("a.apps.test"), 0);
        let name = names.find("a.apps.test").unwrap();
        name.discovered.known().await;
        assert_eq!(addresses(&name), ["127.0.0.2:80"]);
        assert!(Arc::ptr_eq(&name, &names.find("a.apps.test").unwrap()));
        // The name moves, goes, and comes back.
        for (reply, expected) in [
            (Reply::Addresses(&["127.0.0.3"], 0), vec!["127.0.0.3:80".to_owned()]),
            (Reply::NoSuchName, vec![]),
            (Reply::Addresses(&["127.0.0.2"], 0), vec!["127.0.0.2:80".to_owned()]),
        ] {
            zone.set("a.apps.test", reply);
            until("the new address", || addresses(&name) == expected).await;
        }
    }

    #[tokio::test]
    async fn foreign_names_and_addresses_of_the_machine_itself_are_not_followed() {
        let zone = Zone::default();
        zone.set("meta.apps.test", Reply::Addresses(&["169.254.169.254", "0.0.0.0", "224.0.0.1"], 60));
        let resolver = resolver(&zone, QUICK, "", &[]).await;
        let names = DynamicNames::new(&wildcard(), &resolver, RETRY);
        for foreign in ["apps.test", ".apps.test", "a.apps.test.evil.test", "169.254.169.254", "", "a..apps.test"] {
            assert_eq!(names.find(foreign).err(), Some(NoName::Foreign), "{foreign}");
        }
        let name = names.find("meta.apps.test").unwrap();
        name.discovered.known().await;
        assert!(addresses(&name).is_empty());
    }

    #[tokio::test]
    async fn made_up_names_do_not_keep_out_real_ones_and_idle_ones_are_forgotten() {
        let zone = Zone::default();
        zone.set("real.apps.test", Reply::Addresses(&["127.0.0.2"], 60));
        let resolver = resolver(&zone, QUICK, "", &[]).await;
        let names = DynamicNames::new(&wildcard(), &resolver, RETRY);
        let fake: Vec<_> = (0..MAX_NAMES).map(|n| names.find(&format!("n{n}.apps.test")).unwrap()).collect();
        assert_eq!(names.find("real.apps.test").err(), Some(NoName::Full), "nobody has been looked up yet");
        until("all are looked up", || fake.iter().all(|name| name.discovered.version() > 0)).await;
        let real = names.find("real.apps.test").unwrap();
        real.discovered.known().await;
        assert_eq!(fake.iter().filter(|name| !names.touch(name)).count(), 1);
        assert!(names.touch(&real));
        for _ in 0..IDLE_TICKS_UNRESOLVED {
            names.known.expire();
        }
        assert_eq!(names.names().iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["real.apps.test"]);
        for _ in 0..IDLE_TICKS {
            names.known.expire();
        }
        assert!(names.names().is_empty() && !names.touch(&real));
    }
}
