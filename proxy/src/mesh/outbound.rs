//! What the sidecar's application opens.

use route_model::table::Outbound;
use tokio::net::TcpStream;

use super::serving::Arrival;
use crate::http::context::Lane;
use crate::listener::original_dst::original_destination;

/// Serves a connection by where it was going before it was redirected here; one that was meant for this very address is
/// to a forward proxy for HTTP.
pub(super) async fn serve(mut arrival: Arrival, stream: TcpStream, outbound: &Outbound) {
    match original_destination(&stream) {
        Ok(Some(destination)) => {
            arrival.facts.local = destination;
            arrival.lane = Lane::Captured;
            let routes = outbound.find(destination);
            arrival.serve(stream, routes).await;
        }
        Ok(None) => arrival.http(stream).await,
        Err(error) => tracing::warn!(%error, "cannot find out where a redirected connection was going, closed"),
    }
}
