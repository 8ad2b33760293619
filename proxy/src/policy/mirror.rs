//! Mirrors: copies of requests that are sent and forgotten.
//!
//! A copy never holds up the request it is a copy of: it runs in a task of its own, its body lags behind within bounds,
//! and beyond a number of copies under way further ones are left out and counted.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::Version;
use http::header::EXPECT;
use http_body::Body as _;
use route_model::table::Cluster;
use tokio::task::spawn_local;

use crate::http::message::RequestParts;
use crate::http::outgoing::OutgoingBody;
use crate::http::validate::authority;
use crate::runtime_table::WorkerCluster;
use crate::telemetry::metrics::Count;
use crate::upstream::balance::Wish;
use crate::upstream::cluster_state::ActiveRequest;
use crate::upstream::connection::{self, SendFailure};
use crate::upstream::peer::Peer;
use crate::worker::Worker;

/// Copies under way on one worker.
const MAX_COPIES: usize = 1024;

/// For a route without a timeout; nobody waits for a mirror, so something has to.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Sends a copy of a request, unless too many are under way.
pub(crate) fn send(
    worker: &Rc<Worker>,
    cluster: Rc<WorkerCluster>,
    head: &RequestParts,
    version: Version,
    body: OutgoingBody,
    timeout: Option<Duration>,
) {
    if worker.mirrors.get() >= MAX_COPIES {
        worker.metrics.count(Count::MirrorsDropped);
        return;
    }
    worker.mirrors.set(worker.mirrors.get() + 1);
    worker.metrics.count(Count::MirroredRequests);
    let head = copy(head);
    let worker = Rc::clone(worker);
    spawn_local(async move {
        let sending = pin!(exchange(&worker, &cluster, &head, version, body));
        let _ = tokio::time::timeout(timeout.unwrap_or(TIMEOUT), sending).await;
        worker.mirrors.set(worker.mirrors.get() - 1);
    });
}

/// The head as the mirror gets it: no upgrade, and no question whether the body is welcome.
fn copy(head: &RequestParts) -> RequestParts {
    let mut headers = head.headers.clone();
    headers.remove(EXPECT);
    RequestParts {
        method: head.method.clone(),
        uri: head.uri.clone(),
        version: head.version,
        headers,
        ..RequestParts::default()
    }
}

async fn exchange(
    worker: &Rc<Worker>,
    cluster: &WorkerCluster,
    head: &RequestParts,
    version: Version,
    body: OutgoingBody,
) {
    cluster.state.known().await;
    let Some(endpoint) = cluster.pick(Wish::default()) else { return };
    let Some(_active) = ActiveRequest::admitted(&endpoint, &cluster.state) else { return };
    let peer = match Peer::new(&cluster.state, endpoint, || Some(authority(head)), || None, &worker.pool) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::debug!(%error, cluster = %cluster.state.cluster.name, "a mirror was not reached");
            return;
        }
    };
    let Cluster { protocol, multiplexed, .. } = &*cluster.state.cluster;
    let http2 = protocol.is_http2(version) || (*multiplexed && peer.is_in_mesh());
    let mut sent = connection::send(worker, cluster, &peer, http2, head, body, true).await;
    if let Err(SendFailure::Stale(body)) = sent {
        sent = connection::send(worker, cluster, &peer, http2, head, body, false).await;
    }
    match sent {
        Ok(mut response) => {
            // To its end, so that the connection can be used again.
            while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)).await {}
        }
        Err(failure) => tracing::debug!(?failure, cluster = %cluster.state.cluster.name, "a mirror was not reached"),
    }
}
