//! Clusters that lead where their clients were going (`PassthroughCluster`, resolution `NONE`): each address is an
//! endpoint of its own, and for clients of a forward proxy each name is looked up.
//!
//! Both come from the application beside this proxy. What they can cost is bounded all the same, by number.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use route_model::table::cluster::{Endpoint, EndpointAddress, WildcardNames};

use super::cluster_state::Discovered;
use super::dynamic::{DynamicNames, NoName};
use super::resolve::Resolver;

/// Addresses that one cluster remembers at once.
const MAX_ADDRESSES: usize = 4096;
/// Ports of names at once; each has up to 1,024 names.
const MAX_PORTS: usize = 64;

/// Where a client was going.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    Address(SocketAddr),
    /// A host in lower case, and a port.
    Name(&'a str, u16),
}

/// The endpoints of one cluster. Kept under the cluster's key from table to table.
pub(crate) struct Originals {
    retry: Duration,
    resolver: Arc<Resolver>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// With the count of the look-ups at the last one.
    by_address: HashMap<SocketAddr, (Arc<Discovered>, u64), foldhash::fast::RandomState>,
    by_port: HashMap<u16, DynamicNames, foldhash::fast::RandomState>,
    lookups: u64,
}

impl Originals {
    /// `retry` is the longest time between tries of a name that cannot be looked up.
    pub(crate) fn new(resolver: &Arc<Resolver>, retry: Duration) -> Self {
        Self { retry, resolver: Arc::clone(resolver), known: Mutex::default() }
    }

    /// The endpoint that is wanted.
    pub(crate) fn find(&self, wanted: Wanted<'_>) -> Result<Arc<Discovered>, NoName> {
        match wanted {
            Wanted::Address(address) => Ok(self.address(address)),
            Wanted::Name(host, port) => match host.parse::<IpAddr>() {
                Ok(ip) => Ok(self.address(SocketAddr::new(ip, port))),
                Err(_) => self.name(host, port),
            },
        }
    }

    fn address(&self, address: SocketAddr) -> Arc<Discovered> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let mut known = self.known();
        known.lookups += 1;
        let now = known.lookups;
        if let Some((discovered, used)) = known.by_address.get_mut(&address) {
            *used = now;
            return Arc::clone(discovered);
        }
        if known.by_address.len() >= MAX_ADDRESSES {
            // Half of them at once, so that the next ones do not have to look again.
            let mut used: Vec<_> = known.by_address.values().map(|(_, used)| *used).collect();
            let (_, median, _) = used.select_nth_unstable(MAX_ADDRESSES / 2);
            let median = *median;
            known.by_address.retain(|_, (_, used)| *used > median);
        }
        let discovered = Arc::new(Discovered::new());
        discovered.publish(&[Endpoint::new(EndpointAddress::Ip(address.ip(), address.port()), 1)]);
        known.by_address.insert(address, (Arc::clone(&discovered), now));
        discovered
    }

    fn name(&self, host: &str, port: u16) -> Result<Arc<Discovered>, NoName> {
        let mut known = self.known();
        if known.by_port.len() >= MAX_PORTS && !known.by_port.contains_key(&port) {
            return Err(NoName::Full);
        }
        let names = known.by_port.entry(port).or_insert_with(|| {
            // Every name.
            DynamicNames::new(&WildcardNames { suffix: Arc::default(), port }, &self.resolver, self.retry)
        });
        let name = names.find(host)?;
        names.touch(&name);
        Ok(Arc::clone(&name.discovered))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Originals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Originals").field("addresses", &self.known().by_address.len()).finish_non_exhaustive()
    }
}
