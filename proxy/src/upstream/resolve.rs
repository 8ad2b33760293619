//! Names to addresses: keeps the endpoints of clusters that are found in DNS up to date, on the control runtime.
//!
//! Every address of a name (A and AAAA) is an endpoint, for as long as its TTL says, within bounds. An answer that
//! there is no such name empties the cluster; no answer keeps what was known and is tried again, sooner at first. A
//! worker that cannot reach an endpoint, or finds none, may ask to look again at once ([`Discovered::suspect`]), so
//! that a container that came back under another address is found before its old TTL has passed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use route_model::table::cluster::{Discovery, DnsEndpoint, Endpoint, EndpointAddress};
use route_model::table::locality::Rank;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::cluster_state::Discovered;
use crate::rt::Task;

/// When names are looked up again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// No name is looked up more often, whatever its TTL and whoever asks.
    pub(crate) floor: Duration,
    /// Addresses are looked up again after this time even if their TTL is longer. Container networks hand out TTLs
    /// of ten minutes for addresses that change with every restart.
    pub(crate) ceiling: Duration,
    /// How long a look-up may take.
    pub(crate) timeout: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { floor: Duration::from_secs(1), ceiling: Duration::from_mins(1), timeout: Duration::from_secs(10) }
    }
}

/// Look-ups under way at once.
const CONCURRENT: usize = 32;
/// The same for names that clients asked for.
const CONCURRENT_ASKED: usize = 16;

/// How often the resolver's own files are looked at.
const FILES_EVERY: Duration = Duration::from_secs(5);

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// Resolves names for all clusters of a process.
pub(crate) struct Resolver {
    handle: Handle,
    schedule: Schedule,
    slots: Semaphore,
    slots_asked: Semaphore,
    system: Mutex<System>,
}

/// The resolver made of the system's configuration, and when it was.
struct System {
    current: Arc<Names>,
    /// `None`: the configuration is fixed.
    files: Option<Files>,
}

struct Files {
    looked: Instant,
    seen: [Option<SystemTime>; 2],
    /// In place of those in the file.
    servers: Box<[SocketAddr]>,
}

/// The hosts file, and name servers for what it does not have.
struct Names {
    hosts: Hosts,
    /// `None`: no name server is configured.
    servers: Option<TokioResolver>,
}

/// What became of a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// In a fixed order, for as long as the TTL says.
    Addresses(Vec<IpAddr>, Duration),
    /// There is no such name, or it has no address.
    None,
    /// Nobody knows.
    Failed(String),
}

impl Resolver {
    /// A resolver by `/etc/hosts` and `/etc/resolv.conf`, which are read again when they change. Where there are
    /// `servers`, they stand in for the latter. `handle` is the runtime that look-ups run on.
    pub(crate) fn system(handle: Handle, servers: &[SocketAddr]) -> Arc<Self> {
        let files = Files { looked: Instant::now(), seen: Files::look(), servers: servers.into() };
        let system = System { current: Arc::new(Names::of_system(&handle, servers)), files: Some(files) };
        Self::new(handle, Schedule::default(), system)
    }

    fn new(handle: Handle, schedule: Schedule, system: System) -> Arc<Self> {
        let (slots, slots_asked) = (Semaphore::new(CONCURRENT), Semaphore::new(CONCURRENT_ASKED));
        Arc::new(Self { handle, schedule, slots, slots_asked, system: Mutex::new(system) })
    }

    /// Begins to keep `discovered` up to date; `None` where there is nothing to look up. `retry` is the longest time
    /// between tries of a name that cannot be looked up.
    pub(crate) fn follow(
        self: &Arc<Self>,
        discovery: &Discovery,
        discovered: &Arc<Discovered>,
        retry: Duration,
    ) -> Option<Task> {
        let (names, rule) = match discovery {
            Discovery::Dns(names) => (names.to_vec(), Rule::All),
            Discovery::LogicalDns(name) => (vec![name.clone()], Rule::OneAddress),
            Discovery::Undeclared(names) => (names.to_vec(), Rule::FirstName),
            Discovery::Static(_) | Discovery::Dynamic(_) | Discovery::Original | Discovery::None => return None,
        };
        Some(self.begin(names, rule, discovered, retry))
    }

    /// Begins to keep up to date what is known of a name that a client asked for.
    pub(crate) fn follow_name(
        self: &Arc<Self>,
        name: Arc<str>,
        port: u16,
        discovered: &Arc<Discovered>,
        retry: Duration,
    ) -> Task {
        self.begin(vec![DnsEndpoint::new(name, port, 1)], Rule::Asked, discovered, retry)
    }

    fn begin(
        self: &Arc<Self>,
        names: Vec<DnsEndpoint>,
        rule: Rule,
        discovered: &Arc<Discovered>,
        retry: Duration,
    ) -> Task {
        let names = names.into_iter().map(Followed::new).collect();
        let cluster = ClusterNames { resolver: Arc::clone(self), names, rule, retry, published: None };
        Task(self.handle.spawn(cluster.run(Arc::clone(discovered))))
    }

    /// The runtime that look-ups run on.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    async fn resolve(&self, name: &str, rule: Rule) -> Answer {
        if let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse() {
            return Answer::Addresses(vec![ip], self.schedule.ceiling);
        }
        let slots = if rule == Rule::Asked { &self.slots_asked } else { &self.slots };
        let Ok(_slot) = slots.acquire().await else { return Answer::Failed("the proxy is ending".into()) };
        let names = self.names();
        match tokio::time::timeout(self.schedule.timeout, names.resolve(name)).await {
            Ok(Answer::Addresses(mut addresses, ttl)) => {
                if rule == Rule::Asked {
                    addresses.retain(|ip| !is_link_local(ip));
                }
                if addresses.is_empty() { Answer::None } else { Answer::Addresses(usable(addresses), ttl) }
            }
            Ok(answer) => answer,
            Err(_) => Answer::Failed("no answer in time".into()),
        }
    }

    fn names(&self) -> Arc<Names> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &mut system.files
            && files.looked.elapsed() >= FILES_EVERY
        {
            files.looked = Instant::now();
            let seen = Files::look();
            if files.seen != seen {
                files.seen = seen;
                system.current = Arc::new(Names::of_system(&self.handle, &files.servers));
            }
        }
        Arc::clone(&system.current)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("schedule", &self.schedule).finish_non_exhaustive()
    }
}

impl Files {
    fn look() -> [Option<SystemTime>; 2] {
        [RESOLV_CONF, HOSTS].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
    }
}

impl Names {
    fn of_system(handle: &Handle, servers: &[SocketAddr]) -> Self {
        let hosts = Hosts::from_system().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read {HOSTS}");
            Hosts::default()
        });
        if !servers.is_empty() {
            return Self { hosts, servers: build(handle, asking(servers), ResolverOpts::default()) };
        }
        let configuration = system_conf::read_system_conf()
            .inspect_err(|error| tracing::warn!(%error, "cannot read {RESOLV_CONF}; only {HOSTS} resolves names"));
        Self { hosts, servers: configuration.ok().and_then(|(config, options)| build(handle, config, options)) }
    }

    async fn resolve(&self, name: &str) -> Answer {
        // As ASCII, because container names have underscores, which stricter parsers refuse.
        let Ok(parsed) = Name::from_ascii(name) else { return Answer::None };
        let listed: Vec<IpAddr> = [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| self.hosts.lookup_static_host(&Query::query(parsed.clone(), kind)))
            .flat_map(|found| found.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
            .collect();
        if !listed.is_empty() {
            return Answer::Addresses(listed, Duration::MAX);
        }
        let Some(servers) = &self.servers else { return Answer::Failed("there is no name server".into()) };
        match servers.lookup_ip(parsed).await {
            Ok(found) => {
                let ttl = found.as_lookup().answers().iter().map(|record| record.ttl).min().unwrap_or(0);
                match found.iter().collect::<Vec<IpAddr>>() {
                    addresses if addresses.is_empty() => Answer::None,
                    addresses => Answer::Addresses(addresses, Duration::from_secs(ttl.into())),
                }
            }
            Err(error) if is_negative(&error) => Answer::None,
            Err(error) => Answer::Failed(error.to_string()),
        }
    }
}

/// By UDP, and by TCP where an answer is too long for that.
fn asking(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |server: &SocketAddr| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = server.port();
        }
        NameServerConfig::new(server.ip(), true, connections)
    };
    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect())
}

fn build(handle: &Handle, config: ResolverConfig, mut options: ResolverOpts) -> Option<TokioResolver> {
    // The hosts file is asked first, and alone if it has the name; an address is looked up when it is wanted.
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    let _runtime = handle.enter();
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .inspect_err(|error| tracing::warn!(%error, "cannot make a DNS resolver; only {HOSTS} resolves names"))
        .ok()
}

fn is_negative(error: &NetError) -> bool {
    error.is_no_records_found() || error.is_nx_domain()
}

/// The addresses that this host has a route to, without duplicates, in an order that does not change with the
/// server's rotation. Where a name has loopback addresses of both kinds only IPv4 stays: most local servers listen
/// there alone.
fn usable(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.iter().any(|ip| ip.is_ipv4() && ip.is_loopback()) {
        addresses.retain(|ip| !(ip.is_ipv6() && ip.is_loopback()));
    }
    let reachable: Vec<IpAddr> = addresses.iter().copied().filter(has_route).collect();
    // Without any route the addresses are still the truth, and failing to connect to them says what is wrong.
    if reachable.is_empty() { addresses } else { reachable }
}

/// Addresses that name nobody but a neighbour on the link or this machine: where a cloud keeps its metadata, and what no
/// name that a client chooses should lead to.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast(),
    }
}

/// Connecting a datagram socket sends nothing, but fails where there is no route.
fn has_route(ip: &IpAddr) -> bool {
    let unspecified: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind(SocketAddr::new(unspecified, 0)).and_then(|socket| socket.connect(SocketAddr::new(*ip, 9))).is_ok()
}

/// How names become endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Every address of every name.
    All,
    /// One address, for as long as it is among the answers.
    OneAddress,
    /// Every address of the first name that has any.
    FirstName,
    /// A name that a client asked for: one address, which must not be one that belongs to this machine's own network.
    Asked,
}

/// The names of one cluster and what is known of them.
struct ClusterNames {
    resolver: Arc<Resolver>,
    names: Vec<Followed>,
    rule: Rule,
    retry: Duration,
    published: Option<Vec<Endpoint>>,
}

struct Followed {
    name: DnsEndpoint,
    addresses: Vec<IpAddr>,
    due: Instant,
    /// Look-ups in a row that nobody answered.
    failures: u32,
}

impl Followed {
    fn new(name: DnsEndpoint) -> Self {
        Self { name, addresses: Vec::new(), due: Instant::now(), failures: 0 }
    }
}

impl ClusterNames {
    async fn run(mut self, discovered: Arc<Discovered>) {
        loop {
            let started = Instant::now();
            self.look_up(started).await;
            let endpoints = self.endpoints();
            if self.published.as_ref() != Some(&endpoints) {
                discovered.publish(&endpoints);
                self.published = Some(endpoints);
            }
            let due = self.names.iter().map(|name| name.due).min().unwrap_or(started + self.retry);
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                () = discovered.suspected() => {
                    tokio::time::sleep_until((started + self.resolver.schedule.floor).into()).await;
                    let now = Instant::now();
                    self.names.iter_mut().for_each(|name| name.due = now);
                }
            }
        }
    }

    /// Looks up every name that is due.
    async fn look_up(&mut self, now: Instant) {
        let (resolver, retry, rule) = (&*self.resolver, self.retry, self.rule);
        match self.rule {
            Rule::All | Rule::OneAddress | Rule::Asked => {
                let due = self.names.iter_mut().filter(|name| name.due <= now);
                join_all(due.map(async |name| {
                    let answer = resolver.resolve(&name.name.name, rule).await;
                    name.take(answer, &resolver.schedule, retry);
                }))
                .await;
            }
            Rule::FirstName => {
                for index in 0..self.names.len() {
                    let name = &mut self.names[index];
                    let answer = resolver.resolve(&name.name.name, rule).await;
                    name.take(answer, &resolver.schedule, retry);
                    // Addresses that are kept because nobody answered hold the place too: another name must not
                    // take over from one that is merely unanswered.
                    if !name.addresses.is_empty() {
                        let due = name.due;
                        for later in &mut self.names[index + 1..] {
                            later.addresses.clear();
                            later.due = due;
                        }
                        break;
                    }
                }
            }
        }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let kept = self.published.as_deref().and_then(<[_]>::first).map(|endpoint| &endpoint.address);
        let mut found: BTreeMap<(IpAddr, u16), (u32, Rank, bool)> = BTreeMap::new();
        for Followed { name, addresses, .. } in &self.names {
            let chosen = match self.rule {
                Rule::All | Rule::FirstName => &addresses[..],
                Rule::OneAddress | Rule::Asked => {
                    let is_kept = |ip: &IpAddr| kept == Some(&EndpointAddress::Ip(*ip, name.port));
                    let place = addresses.iter().position(is_kept).unwrap_or_default();
                    addresses.get(place..=place).unwrap_or_default()
                }
            };
            for ip in chosen {
                let (weight, rank, _) = found.entry((*ip, name.port)).or_insert((0, name.rank, name.in_mesh));
                *weight = weight.saturating_add(name.weight);
                // An address that is behind two names is as near as the nearer of them.
                *rank = (*rank).min(name.rank);
            }
        }
        let endpoint = |((ip, port), (weight, rank, in_mesh))| Endpoint {
            rank,
            in_mesh,
            ..Endpoint::new(EndpointAddress::Ip(ip, port), weight)
        };
        found.into_iter().map(endpoint).collect()
    }
}

impl Followed {
    fn take(&mut self, answer: Answer, schedule: &Schedule, retry: Duration) {
        let wait = match answer {
            Answer::Addresses(addresses, ttl) => {
                self.addresses = addresses;
                self.failures = 0;
                // Early rather than late, and not all names of a table at once.
                ttl.min(schedule.ceiling).mul_f64(0.85 + 0.15 * fastrand::f64())
            }
            Answer::None => {
                self.addresses.clear();
                self.backed_off(schedule, retry)
            }
            Answer::Failed(error) => {
                tracing::debug!(name = %self.name.name, %error, kept = self.addresses.len(), "cannot look up a name");
                self.backed_off(schedule, retry)
            }
        };
        self.due = Instant::now() + wait.max(schedule.floor);
    }

    fn backed_off(&mut self, schedule: &Schedule, retry: Duration) -> Duration {
        let wait = schedule.floor.saturating_mul(1 << self.failures.min(16)).min(retry);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(0.75 + 0.25 * fastrand::f64())
    }
}

#[cfg(test)]
pub(super) mod tests;
