//! The connections that a proxy opens where it takes what its host opens.
//!
//! What the host opens is led to a sidecar by rules that leave the sidecar's own connections alone: by the user that it
//! runs as, or by a mark on them. Where they know it by neither, a connection of its own comes back to it, for which it
//! opens the next, until there are no files left. So its own are marked where that is allowed, and one that comes back
//! all the same is refused. It is known by both its ends: no other connection can have the same two meanwhile.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

use crate::options::OwnTraffic;

/// How often it is said that connections were refused.
const EVERY: Duration = Duration::from_mins(1);

/// The open ones of a process.
#[derive(Debug)]
pub(crate) struct OwnConnections {
    mark: Option<u32>,
    open: Mutex<HashSet<Ends, foldhash::fast::RandomState>>,
    refused: Mutex<Refused>,
}

/// One of them; forgotten when dropped.
#[derive(Debug)]
pub(crate) struct OwnConnection {
    all: Arc<OwnConnections>,
    ends: Ends,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ends {
    from: SocketAddr,
    /// Where it was to go, before anybody redirected it.
    to: SocketAddr,
}

impl Ends {
    fn new(from: SocketAddr, to: SocketAddr) -> Self {
        // Without what only one side sees: the IPv6 form of an IPv4 address, the scope of a link-local one.
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { from: plain(from), to: plain(to) }
    }
}

#[derive(Debug, Default)]
struct Refused {
    said: Option<Instant>,
    /// Since it was said.
    times: u64,
}

impl Refused {
    /// Counts one; answers how many there are to be told of now.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        if self.said.is_some_and(|said| now.duration_since(said) < EVERY) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.times))
    }
}

impl OwnConnections {
    /// `None`: nothing has to be known of them.
    pub(crate) fn new(traffic: OwnTraffic) -> Option<Arc<Self>> {
        let mark = match traffic {
            OwnTraffic::NotLedHere => return None,
            OwnTraffic::Watched => None,
            OwnTraffic::Marked(mark) => Some(mark),
        };
        Some(Arc::new(Self { mark, open: Mutex::default(), refused: Mutex::default() }))
    }

    /// Opens a connection.
    pub(crate) async fn connect(self: &Arc<Self>, to: SocketAddr) -> io::Result<(TcpStream, OwnConnection)> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        let own = self.begin(&socket, to)?;
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        match stream.take_error()? {
            None => Ok((stream, own)),
            Some(error) => Err(error),
        }
    }

    fn begin(self: &Arc<Self>, socket: &Socket, to: SocketAddr) -> io::Result<OwnConnection> {
        // Whoever accepts it asks for it only after this.
        let mut open = self.open();
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let from = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("the socket is not one of IP"))?;
        let ends = Ends::new(from, to);
        open.insert(ends);
        Ok(OwnConnection { all: Arc::clone(self), ends })
    }

    /// Whether a connection that was accepted is one of these: by its client's address, and where that wanted to go.
    pub(crate) fn contains(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.open().contains(&Ends::new(from, to))
    }

    /// Says every now and then that one came back, and what to do about it. `redirected`: by the kernel.
    pub(crate) fn refuse(&self, to: SocketAddr, redirected: bool) {
        let times = self.refused.lock().unwrap_or_else(PoisonError::into_inner).count(Instant::now());
        let Some(times) = times else { return };
        if redirected {
            let uid = rustix::process::geteuid().as_raw();
            tracing::error!(
                %to, times,
                "this sidecar's own connections are led back to it, and refused: apply the capture for the user that it \
                 runs as (fairway-sidecar capture apply --uid {uid}), or let it mark them (capability NET_ADMIN)"
            );
        } else {
            tracing::warn!(%to, times, "refused a connection of this proxy's own: a client has asked it for itself");
        }
    }

    fn open(&self) -> MutexGuard<'_, HashSet<Ends, foldhash::fast::RandomState>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnConnection {
    fn drop(&mut self) {
        self.all.open().remove(&self.ends);
    }
}

/// Sets the packet mark (`SO_MARK`) that a socket's connections are known by.
///
/// # Errors
/// The process lacks the capability NET_ADMIN.
pub fn set_mark(socket: impl AsFd, mark: u32) -> io::Result<()> {
    SockRef::from(&socket).set_mark(mark)
}

/// Whether this process may mark its connections.
pub fn can_mark(mark: u32) -> bool {
    // Any kind of socket will do, and this one needs no network.
    Socket::new(Domain::UNIX, Type::STREAM, None).is_ok_and(|socket| set_mark(&socket, mark).is_ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_own_connection_is_known_by_both_its_ends_while_it_is_open() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let all = OwnConnections::new(OwnTraffic::Watched).unwrap();
        let (stream, own) = all.connect(to).await.unwrap();
        let (_accepted, from) = listener.accept().await.unwrap();
        assert_eq!(stream.local_addr().unwrap(), from);
        assert!(all.contains(from, to));
        let mapped = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), from.port());
        assert!(all.contains(mapped, to), "as a listener of both families sees it");
        // The kernel gives one port to connections that go elsewhere.
        assert!(!all.contains(from, SocketAddr::new(to.ip(), to.port() ^ 1)));
        let other = TcpStream::connect(to).await.unwrap();
        assert!(!all.contains(other.local_addr().unwrap(), to));
        drop(own);
        assert!(!all.contains(from, to) && all.open().is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_reached_is_no_connection() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let all = OwnConnections::new(OwnTraffic::Watched).unwrap();
        let error = all.connect(free).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(all.open().is_empty());
    }

    #[test]
    fn many_refusals_are_told_of_once_in_a_while() {
        let (mut refused, start) = (Refused::default(), Instant::now());
        assert_eq!(refused.count(start), Some(1));
        assert!((0..30_000).all(|_| refused.count(start + EVERY / 2).is_none()));
        assert_eq!(refused.count(start + EVERY), Some(30_001));
    }
}
