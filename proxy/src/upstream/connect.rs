//! Connecting to an endpoint.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use route_model::table::cluster::EndpointAddress;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::telemetry::metrics::{Count, WorkerMetrics};

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    metrics: WorkerMetrics,
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

/// Connects within `limit`; an error of kind `TimedOut` when it passes.
pub(crate) async fn connect(address: &EndpointAddress, limit: Duration, metrics: &WorkerMetrics) -> io::Result<Stream> {
    let connecting = async {
        match address {
            EndpointAddress::Ip(ip, port) => {
                let stream = TcpStream::connect(SocketAddr::new(*ip, *port)).await?;
                stream.set_nodelay(true)?;
                io::Result::Ok(Socket::Tcp(stream))
            }
            EndpointAddress::Unix(path) => Ok(Socket::Unix(UnixStream::connect(&**path).await?)),
        }
    };
    let socket =
        tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    metrics.count(Count::UpstreamOpened);
    Ok(Stream { socket, metrics: metrics.clone() })
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
