//! Connecting to an endpoint, and agreeing with it on TLS where the cluster asks for that.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use route_model::table::Cluster;
use route_model::table::cluster::EndpointAddress;
use route_model::table::upstream::TcpKeepalive;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::load::Permit;
use super::outlier::TryOutcome;
use super::own::OwnConnection;
use super::peer::{Peer, PeerTls};
use crate::process::Process;
use crate::proxy_protocol::{self, Addresses};
use crate::telemetry::metrics::{Count, WorkerMetrics};
use crate::tls::bonds::Bound;
use crate::tls::identity::{PeerIs, reason};
use crate::tls::upstream::Inside;
use crate::worker::Worker;

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Stream {
    transport: Transport,
    metrics: WorkerMetrics,
    opened: Instant,
    _own: Option<OwnConnection>,
    _permit: ConnectionPermit,
}

/// An open connection of a worker to an endpoint; counts until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    _cluster: Permit,
    open: Rc<Cell<u32>>,
}

impl ConnectionPermit {
    /// `open` counts this worker's connections to the endpoint.
    pub(crate) fn new(cluster: Permit, open: Rc<Cell<u32>>) -> Self {
        open.set(open.get() + 1);
        Self { _cluster: cluster, open }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

impl Stream {
    /// This end's address; `None` for a Unix domain socket.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        let socket = match &self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => stream.get_ref().get_ref().0,
        };
        match socket {
            Socket::Tcp(stream) => stream.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Whether there is surely nothing to be read: no event came for it. Costs no system call and registers nobody to
    /// be woken. TLS may hold bytes that it has read, so of it nothing is sure.
    pub(crate) fn is_silent(&self) -> bool {
        let Transport::Plain(Socket::Tcp(stream)) = &self.transport else { return false };
        // The closure is called only when there was an event.
        stream.try_io(Interest::READABLE, || Ok(())).is_err()
    }

    /// When it is to take no further request, because of the certificates that it was agreed on by.
    pub(crate) fn retires(&self) -> Option<Instant> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => Some(stream.bond()?.retires()),
        }
    }

    /// The time since it was connected.
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }
}

#[derive(Debug)]
enum Transport {
    Plain(Socket),
    Tls(Box<Bound<TlsStream<Socket>>>),
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.metrics.count(Count::UpstreamClosed);
    }
}

/// Why there is no connection, in the words of the access log (`%UPSTREAM_TRANSPORT_FAILURE_REASON%`).
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connection timeout")]
    TimedOut,
    #[error("{0}")]
    Failed(io::Error),
    /// The server was reached; it could not be agreed with, or is not the one that was asked for.
    #[error("TLS_error: {0}")]
    Tls(Box<str>),
}

impl ConnectError {
    /// What it says of the endpoint.
    pub(crate) fn outcome(&self) -> TryOutcome {
        match self {
            Self::TimedOut => TryOutcome::TimedOut,
            Self::Failed(_) | Self::Tls(_) => TryOutcome::Failed,
        }
    }
}

/// Connects, handshake included, within the cluster's connect timeout.
pub(crate) async fn connect(
    peer: &Peer,
    inside: Inside,
    cluster: &Cluster,
    permit: ConnectionPermit,
    worker: &Worker,
) -> Result<Stream, ConnectError> {
    let metrics = &worker.metrics;
    let until = Instant::now() + cluster.connect_timeout;
    let connecting = tokio::time::timeout_at(until.into(), open(peer, cluster, worker));
    let (socket, own) = connecting.await.map_err(|_| ConnectError::TimedOut)?.map_err(ConnectError::Failed)?;
    let transport = match peer.tls() {
        None => Transport::Plain(socket),
        Some(tls) => {
            let agreed = tokio::time::timeout_at(until.into(), handshake(tls, inside, socket)).await;
            let agreed = agreed.unwrap_or_else(|_| Err(ConnectError::Tls("the handshake took too long".into())));
            metrics.count(if agreed.is_ok() { Count::UpstreamTlsHandshakes } else { Count::UpstreamTlsFailed });
            let in_mesh = tls.context.is_of_mesh();
            let stream = agreed.inspect_err(|error| {
                if let (true, ConnectError::Tls(reason)) = (in_mesh, error) {
                    unagreed(&worker.process, &peer.endpoint.address, reason);
                }
            })?;
            let chain = stream.get_ref().1.peer_certificates().filter(|_| in_mesh);
            let bond = worker.bonds.enter(chain);
            Transport::Tls(Box::new(Bound::new(stream, bond)))
        }
    };
    metrics.count(Count::UpstreamOpened);
    Ok(Stream { transport, metrics: metrics.clone(), opened: Instant::now(), _own: own, _permit: permit })
}

/// Notes that there is no mutual TLS with an endpoint of the mesh, and why.
pub(crate) fn unagreed(process: &Process, endpoint: &EndpointAddress, reason: &str) {
    if let EndpointAddress::Ip(address, port) = *endpoint {
        process.refusals.note(PeerIs::Server, address, port, reason);
    }
}

async fn open(peer: &Peer, cluster: &Cluster, worker: &Worker) -> io::Result<(Socket, Option<OwnConnection>)> {
    let (mut socket, own) = connect_socket(&peer.endpoint.address, cluster, worker).await?;
    if let Some(version) = cluster.policy.proxy_protocol {
        let addresses =
            peer.client().map(|client| Addresses { source: client.source, destination: client.destination });
        socket.write_all(&proxy_protocol::header(version, addresses)).await?;
    }
    Ok((socket, own))
}

async fn connect_socket(
    address: &EndpointAddress,
    cluster: &Cluster,
    worker: &Worker,
) -> io::Result<(Socket, Option<OwnConnection>)> {
    match address {
        EndpointAddress::Ip(ip, port) => {
            let address = SocketAddr::new(*ip, *port);
            let (stream, own) = match &worker.process.own {
                None => (TcpStream::connect(address).await?, None),
                Some(all) => {
                    let (stream, own) = all.connect(address).await?;
                    (stream, Some(own))
                }
            };
            stream.set_nodelay(true)?;
            if let Some(keepalive) = &cluster.policy.connections.keepalive {
                socket2::SockRef::from(&stream).set_tcp_keepalive(&self::keepalive(keepalive))?;
            }
            Ok((Socket::Tcp(stream), own))
        }
        EndpointAddress::Unix(path) => Ok((Socket::Unix(UnixStream::connect(&**path).await?), None)),
    }
}

async fn handshake(tls: &PeerTls, inside: Inside, socket: Socket) -> Result<TlsStream<Socket>, ConnectError> {
    let failed = |reason: String| ConnectError::Tls(reason.into());
    let session = tls.context.session().map_err(|fault| failed(fault.message))?;
    let Some(name) = session.name(tls.host.as_ref().map(|host| &host.name)) else {
        return Err(failed("there is no name to ask the server for; set tls.sni".to_owned()));
    };
    let connector = TlsConnector::from(session.config(inside));
    connector.connect(name.clone(), socket).await.map_err(|error| failed(reason(&error)))
}

fn keepalive(settings: &TcpKeepalive) -> socket2::TcpKeepalive {
    let mut keepalive = socket2::TcpKeepalive::new();
    if let Some(time) = settings.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = settings.interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = settings.probes {
        keepalive = keepalive.with_retries(probes);
    }
    keepalive
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            // Sockets have no buffer of their own.
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have no buffer of their own.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
