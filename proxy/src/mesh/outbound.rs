//! What the sidecar's application opens.

use route_model::table::Outbound;
use tokio::net::TcpStream;

use super::serving::Arrival;
use crate::http::context::Lane;
use crate::listener::original_dst::original_destination;

/// Serves a connection by where it was going before it was redirected here; one that was meant for this very address is
/// to a forward proxy for HTTP. One that this proxy itself has opened goes no further.
pub(super) async fn serve(mut arrival: Arrival, stream: TcpStream, outbound: &Outbound) {
    let redirected_from = match original_destination(&stream) {
        Ok(destination) => destination,
        Err(error) => {
            tracing::warn!(%error, "cannot find out where a redirected connection was going, closed");
            return;
        }
    };
    if let Some(own) = &arrival.worker.process.own {
        let to = redirected_from.unwrap_or(arrival.facts.local);
        if own.contains(arrival.facts.peer, to) {
            own.refuse(to, redirected_from.is_some());
            return;
        }
    }
    let Some(destination) = redirected_from else { return arrival.http(stream).await };
    arrival.facts.local = destination;
    arrival.lane = Lane::Captured;
    let routes = outbound.find(destination);
    arrival.serve(stream, routes).await;
}
