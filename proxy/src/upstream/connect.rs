//! Connecting to an endpoint.

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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::load::Permit;
use crate::telemetry::metrics::{Count, WorkerMetrics};

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    metrics: WorkerMetrics,
    opened: Instant,
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
        match &self.socket {
            Socket::Tcp(stream) => stream.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// The time since it was connected.
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }
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

/// Connects within the cluster's connect timeout; an error of kind `TimedOut` when it passes.
pub(crate) async fn connect(
    address: &EndpointAddress,
    cluster: &Cluster,
    permit: ConnectionPermit,
    metrics: &WorkerMetrics,
) -> io::Result<Stream> {
    let connecting = async {
        match address {
            EndpointAddress::Ip(ip, port) => {
                let stream = TcpStream::connect(SocketAddr::new(*ip, *port)).await?;
                stream.set_nodelay(true)?;
                if let Some(keepalive) = &cluster.policy.connections.keepalive {
                    socket2::SockRef::from(&stream).set_tcp_keepalive(&self::keepalive(keepalive))?;
                }
                io::Result::Ok(Socket::Tcp(stream))
            }
            EndpointAddress::Unix(path) => Ok(Socket::Unix(UnixStream::connect(&**path).await?)),
        }
    };
    let socket = tokio::time::timeout(cluster.connect_timeout, connecting)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    metrics.count(Count::UpstreamOpened);
    Ok(Stream { socket, metrics: metrics.clone(), opened: Instant::now(), _permit: permit })
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
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
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
        match &mut self.get_mut().socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
