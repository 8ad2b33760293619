//! Connections to endpoints that wait for their next request. Each worker has its own, so nothing is locked.
//!
//! The last connection put in is the first taken out, so that those beyond the need grow old and are closed. A
//! connection that shows an end or bytes while nobody asked for any is closed, when it is taken at the latest.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::connection::{Http1, Http2};
use super::peer::{HostName, Peer, PoolKey, Worth};
use crate::limits::Limits;

/// The idle HTTP/1 connections and the HTTP/2 connections of one worker.
///
/// They are kept by endpoint id and terms. An endpoint belongs to one cluster, and its id is never used again, so a
/// connection cannot reach a request that was not meant for it.
#[derive(Debug)]
pub(crate) struct Pool {
    peers: RefCell<HashMap<PoolKey, PeerPool, foldhash::fast::RandomState>>,
    /// Hosts that servers are asked for, in lower case; as many as connections need. The names come from clients.
    hosts: RefCell<HashMap<Box<str>, Rc<HostName>>>,
    /// Of the hosts so far; 0 is none's number.
    last_host: Cell<u64>,
    /// Idle HTTP/1 connections of all endpoints.
    idle: Cell<usize>,
    /// Seconds, as the sweep counts them.
    clock: Cell<u64>,
    max_idle: usize,
    max_idle_per_endpoint: usize,
    max_streams: u32,
}

#[derive(Debug)]
struct PeerPool {
    worth: Worth,
    /// The oldest first.
    idle: Vec<Idle>,
    http2: Vec<Rc<Http2>>,
    /// Held while an HTTP/2 connection is opened: others wait for it instead of opening their own.
    opening: Rc<tokio::sync::Mutex<()>>,
    /// Connections to the peer, busy or idle.
    open: Rc<Cell<u32>>,
}

#[derive(Debug)]
struct Idle {
    connection: Http1,
    /// By [`Pool::clock`].
    expires: u64,
}

impl Pool {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            peers: RefCell::default(),
            hosts: RefCell::default(),
            last_host: Cell::new(0),
            idle: Cell::new(0),
            clock: Cell::new(0),
            max_idle: limits.max_idle,
            max_idle_per_endpoint: limits.max_idle_per_endpoint,
            max_streams: limits.upstream_h2_streams,
        }
    }

    /// An idle HTTP/1 connection to the peer.
    pub(crate) fn take_http1(&self, peer: &Peer) -> Option<Http1> {
        let mut peers = self.peers.borrow_mut();
        let pool = peers.get_mut(&peer.key())?;
        while let Some(mut idle) = pool.idle.pop() {
            self.idle.set(self.idle.get() - 1);
            if idle.is_usable() {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Keeps a connection for later. At a ceiling the oldest of its peer goes, or where there is none this one.
    pub(crate) fn put_http1(&self, peer: &Peer, connection: Http1, idle_timeout: Duration) {
        let mut peers = self.peers.borrow_mut();
        let pool = peers.entry(peer.key()).or_insert_with(|| PeerPool::new(peer));
        if pool.idle.len() >= self.max_idle_per_endpoint || self.idle.get() >= self.max_idle {
            if pool.idle.is_empty() {
                return;
            }
            pool.idle.remove(0);
            self.idle.set(self.idle.get() - 1);
        }
        let expires = self.clock.get().saturating_add(idle_timeout.as_secs().max(1));
        pool.idle.push(Idle { connection, expires });
        self.idle.set(self.idle.get() + 1);
    }

    /// An HTTP/2 connection to the peer with room for one more request: the busiest such, so that the others can
    /// fall idle.
    pub(crate) fn take_http2(&self, peer: &Peer, max_streams: u32) -> Option<Rc<Http2>> {
        let mut peers = self.peers.borrow_mut();
        let pool = peers.get_mut(&peer.key())?;
        // One that is spent ends by itself once its last stream has.
        pool.http2.retain(|connection| !connection.is_closed() && !connection.is_spent());
        let max_streams = self.max_streams.min(max_streams);
        let free = pool.http2.iter().filter(|connection| connection.streams() < max_streams);
        let connection = free.max_by_key(|connection| connection.streams())?;
        connection.touch(self.clock.get());
        Some(Rc::clone(connection))
    }

    pub(crate) fn put_http2(&self, peer: &Peer, connection: &Rc<Http2>) {
        let mut peers = self.peers.borrow_mut();
        let pool = peers.entry(peer.key()).or_insert_with(|| PeerPool::new(peer));
        connection.touch(self.clock.get());
        pool.http2.push(Rc::clone(connection));
    }

    /// The number of connections to the peer, busy or idle.
    pub(crate) fn open(&self, peer: &Peer) -> Rc<Cell<u32>> {
        let mut peers = self.peers.borrow_mut();
        let pool = peers.entry(peer.key()).or_insert_with(|| PeerPool::new(peer));
        Rc::clone(&pool.open)
    }

    /// To be held while an HTTP/2 connection to the peer is opened.
    pub(crate) fn opening(&self, peer: &Peer) -> Rc<tokio::sync::Mutex<()>> {
        let mut peers = self.peers.borrow_mut();
        let pool = peers.entry(peer.key()).or_insert_with(|| PeerPool::new(peer));
        Rc::clone(&pool.opening)
    }

    /// Once a second: closes what is too old, has been closed by its endpoint, or leads to an endpoint that is gone or by
    /// terms that are not in force any more.
    pub(crate) fn sweep(&self) {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        let mut idle = 0;
        self.peers.borrow_mut().retain(|_, pool| {
            if !pool.worth.holds() {
                return false;
            }
            pool.idle.retain_mut(|idle| idle.expires > now && idle.is_usable());
            pool.http2.retain(|connection| !connection.is_closed() && !connection.is_stale(now));
            idle += pool.idle.len();
            !pool.idle.is_empty()
                || !pool.http2.is_empty()
                || Rc::strong_count(&pool.opening) > 1
                || Rc::strong_count(&pool.open) > 1
        });
        self.idle.set(idle);
        self.hosts.borrow_mut().retain(|_, host| Rc::strong_count(host) > 1);
    }

    /// The name to ask a server for; `None` for what cannot be one. Equal hosts have one number while connections to
    /// them are there.
    pub(super) fn host(&self, host: &str) -> Option<Rc<HostName>> {
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        let mut hosts = self.hosts.borrow_mut();
        if let Some(known) = hosts.get(&*host) {
            return Some(Rc::clone(known));
        }
        let name = Rc::new(HostName::new(self.last_host.get() + 1, &host)?);
        self.last_host.set(name.id);
        hosts.insert(host.into(), Rc::clone(&name));
        Some(name)
    }
}

impl Idle {
    /// Whether its endpoint has neither closed it nor sent what nobody asked for, and its time is not over.
    fn is_usable(&mut self) -> bool {
        let retired = self.connection.io().retires().is_some_and(|at| at <= Instant::now());
        !retired && (self.connection.io().is_silent() || self.connection.is_quiet())
    }
}

impl PeerPool {
    fn new(peer: &Peer) -> Self {
        Self { worth: peer.worth(), idle: Vec::new(), http2: Vec::new(), opening: Rc::default(), open: Rc::default() }
    }
}
