//! The admin ports: HTTP/1.1 and HTTP/2, plain on loopback and over TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::activity::Activity;

/// Connections of a port at a time. Watches hold theirs for long.
pub(super) const MAX_CONNECTIONS: usize = 4096;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client has this long to send a request's head (slowloris).
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
/// After a shutdown began, open connections may finish what they do for so long.
const GRACE: Duration = Duration::from_secs(5);

/// A socket that is bound already, and what is served there.
pub(super) struct Listen {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) router: Router,
    /// More connections than this at a time wait in the kernel's queue.
    pub(super) max_connections: usize,
}

/// Binds an admin port; the error names the flag to change.
pub(super) async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, super::StartError> {
    TcpListener::bind(address).await.map_err(|error| super::StartError::Bind { flag, address, error })
}

/// Accepts until the shutdown; then lets open connections finish for a short while.
pub(super) async fn serve(listen: Listen, mut shutdown: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(listen.max_connections));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listen.listener.accept() => accepted,
            () = stopped(&mut shutdown) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (tls, router, shutdown) = (listen.tls.clone(), listen.router.clone(), shutdown.clone());
                connections.spawn(async move {
                    if let Err(error) = connection(stream, tls, router, shutdown).await {
                        debug!(%peer, %error, "admin connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors or the like: accepting again at once would only spin.
                warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listen.listener);
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    shutdown: watch::Receiver<bool>,
) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    match tls {
        None => http(stream, router, shutdown).await,
        Some(acceptor) => {
            let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await.map_err(io::Error::from)??;
            http(stream, router, shutdown).await
        }
    }
}

async fn http<S>(stream: S, router: Router, mut shutdown: watch::Receiver<bool>) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(32 * 1024)
        .max_concurrent_streams(200)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(Duration::from_secs(20));
    let activity = Activity::new();
    let service = service_fn(|request: http::Request<Incoming>| {
        let in_flight = activity.begin();
        let answering = router.clone().oneshot(request.map(Body::new));
        async move { answering.await.map(|response| response.map(|body| in_flight.answer(body))) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut ending = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => return result,
            why = activity.over() => return Err(why.into()),
            () = stopped(&mut shutdown), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Returns when the shutdown begins, or when nobody is left who could begin it.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}
