//! What others open to the sidecar's application.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use route_model::table::{Inbound, InboundPort, MutualTls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::corked::Corked;
use super::serving::Arrival;
use super::sniff::{PATIENCE, Spoken, sniff};
use crate::http::rewound::Rewound;
use crate::listener::original_dst::original_destination;
use crate::tcp::{Hello, read_hello};
use crate::telemetry::metrics::Count;
use crate::tls::bonds::Bound;
use crate::tls::identity::{PeerIs, reason};
use crate::tls::upstream::Inside;

/// Serves a connection by the port of the application that it is for: `port`, or the one that it was going to before it
/// was redirected here. What was meant for this very address is for nobody.
pub(super) async fn serve(mut arrival: Arrival, stream: TcpStream, port: Option<u16>, inbound: &Inbound) {
    arrival.facts.local = match (port, original_destination(&stream)) {
        (Some(port), _) => SocketAddr::new(arrival.facts.local.ip(), port),
        (None, Ok(Some(destination))) => destination,
        (None, Ok(None)) => {
            tracing::debug!(peer = %arrival.facts.peer, "a connection was not redirected here, closed");
            return;
        }
        (None, Err(error)) => {
            tracing::warn!(%error, "cannot find out where a redirected connection was going, closed");
            return;
        }
    };
    let port = Arc::clone(inbound.find(arrival.facts.local.port()));
    match port.mutual_tls {
        MutualTls::Disable => arrival.serve(stream, &port.routes).await,
        MutualTls::Strict => accept(arrival, stream, &port).await,
        MutualTls::Permissive => permissive(arrival, stream, &port).await,
    }
}

/// Tells mutual TLS of the mesh from what is for the application as it comes.
async fn permissive(arrival: Arrival, mut stream: TcpStream, port: &InboundPort) {
    let peer = arrival.facts.peer;
    let (spoken, start) = match sniff(&mut stream, PATIENCE).await {
        Ok(found) => found,
        Err(error) => return tracing::debug!(%error, %peer, "a connection ended before it began"),
    };
    let mut stream = Rewound::new(start, stream);
    if spoken != Spoken::Tls {
        return arrival.serve_as(spoken, stream, &port.routes).await;
    }
    let limit = arrival.worker.process.options.limits.handshake_timeout;
    match tokio::time::timeout(limit, read_hello(&mut stream)).await {
        Ok(Ok(Hello { for_mesh: true, bytes, .. })) => accept(arrival, Rewound::new(bytes, stream), port).await,
        // TLS that is the application's own.
        Ok(Ok(Hello { bytes, .. })) => arrival.serve_as(Spoken::Tls, Rewound::new(bytes, stream), &port.routes).await,
        Ok(Err(error)) => tracing::debug!(%error, %peer, "a ClientHello cannot be read"),
        Err(_) => tracing::debug!(%peer, "a ClientHello took too long"),
    }
}

/// Runs the handshake of the mesh and serves what is inside.
async fn accept<I>(mut arrival: Arrival, io: I, port: &InboundPort)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let process = Arc::clone(&arrival.worker.process);
    let handshake = async {
        // The semaphore is never closed.
        let _turn = arrival.worker.handshakes.acquire().await;
        process.mesh.accept(io).await
    };
    let accepted = tokio::time::timeout(process.options.limits.handshake_timeout, handshake).await;
    let accepted = accepted.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long")));
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            arrival.worker.metrics.count(Count::TlsHandshakesFailed);
            let (peer, port) = (arrival.facts.peer.ip(), arrival.facts.local.port());
            process.refusals.note(PeerIs::Client, peer, port, &reason(&error));
            return;
        }
    };
    arrival.worker.metrics.count(Count::TlsHandshakes);
    arrival.facts.tls = Some(Box::new(accepted.facts));
    arrival.certificate = accepted.certificate;
    let bond = arrival.worker.bonds.enter(accepted.stream.get_ref().1.peer_certificates());
    let stream = Box::new(Bound::new(accepted.stream, bond));
    match accepted.inside {
        Some(Inside::Http2) => arrival.http2(Corked::new(stream)).await,
        Some(Inside::Http1) => arrival.http(stream).await,
        Some(Inside::Tcp) | None => arrival.serve(stream, &port.routes).await,
    }
}
