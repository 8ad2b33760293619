//! Where proxies connect: the push port, over TLS, and the pipe inside this process.

use std::sync::Arc;
use std::time::Duration;

use push::server::{Peer, PushServer};
use push::transport::PipeListener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::PushService;
use super::roster::Roster;

/// More connections than this at once wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16_384;
/// Handshakes cost a signature each: so many at a time, the rest wait their turn.
const MAX_HANDSHAKES: usize = 64;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sessions may take to end when the control plane does.
const ENDING: Duration = Duration::from_secs(3);

/// Accepts proxies for as long as it is polled. Connections outlive it; the server's end ends them.
pub(super) async fn accept(server: &PushServer<PushService>, listener: &TcpListener, tls: &TlsAcceptor) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        // The semaphores are never closed.
        let Ok(slot) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (server, tls, handshakes) = (server.clone(), tls.clone(), handshakes.clone());
                tokio::spawn(async move {
                    match handshake(stream, &tls, &handshakes).await {
                        Ok(stream) => {
                            if let Err(error) = server.serve_connection(stream, Peer::Remote(peer)).await {
                                debug!(%peer, %error, "a proxy's connection ended");
                            }
                        }
                        Err(error) => debug!(%peer, %error, "a connection to the push port failed its handshake"),
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors or the like: accepting again at once would only spin.
                warn!(%error, "cannot accept a proxy's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    tls: &TlsAcceptor,
    handshakes: &Semaphore,
) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let _turn = handshakes.acquire().await.map_err(std::io::Error::other)?;
    timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await?
}

pub(super) async fn accept_piped(server: &PushServer<PushService>, listener: Option<PipeListener>) {
    if let Some(mut listener) = listener {
        while let Some(io) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                if let Err(error) = server.serve_connection(io, Peer::InProcess).await {
                    debug!(%error, "a proxy's connection inside this process ended");
                }
            });
        }
    }
    std::future::pending::<()>().await;
}

/// Waits for the sessions to end, but not for long.
pub(super) async fn until_idle(roster: &Roster) {
    let deadline = Instant::now() + ENDING;
    while roster.connected() > 0 && Instant::now() < deadline {
        let _ = timeout(Duration::from_millis(20), roster.changed()).await;
    }
}
