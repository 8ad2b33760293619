//! Tries: a request is sent to an endpoint, and to another one when its route says so.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http_body::Body as _;
use route_model::table::retry::{RetryPolicy, TryFailure};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::body::Source;
use super::context::Exchange;
use super::deadline::Alarm;
use super::headers::{X_ENVOY_ATTEMPT_COUNT, number};
use super::local_reply::LocalReply;
use super::outgoing::Bodies;
use super::validate::authority;
use crate::http::message::{RequestParts, Response};
use crate::runtime_table::WorkerCluster;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::metrics::Count;
use crate::upstream::balance::Wish;
use crate::upstream::cluster_state::ActiveRequest;
use crate::upstream::connection::{self, SendFailure};
use crate::upstream::outlier::{self, TryOutcome};
use crate::upstream::peer::Peer;

/// What is read of an answer that nobody gets, so that its connection can be used again.
const DISCARDED_BYTES: usize = 64 * 1024;

/// Why a try brought no response.
#[derive(Debug)]
struct TryError {
    reply: LocalReply,
    /// The upstream got a byte of the request.
    sent: bool,
}

/// Sends a request to a cluster, as often as its retry policy allows.
pub(super) async fn send(
    exchange: &mut Exchange,
    cluster: &WorkerCluster,
    head: &mut RequestParts,
    mut bodies: Bodies,
    retry: Option<&RetryPolicy>,
    hash: Option<u64>,
) -> Result<Response<Source>, LocalReply> {
    if !cluster.state.is_known() {
        Box::pin(cluster.state.known()).await;
    }
    let per_try = retry.and_then(|retry| retry.per_try_timeout);
    let mut tried = SmallVec::<[u64; 4]>::new();
    let mut tries = 0;
    // Where nothing is tried again here, the application is to see what the proxy of its client has counted.
    let counted =
        retry.is_none() && exchange.connection.peer.is_proxy() && head.headers.contains_key(&X_ENVOY_ATTEMPT_COUNT);
    // Counts among the cluster's retries until the last of them is over.
    let mut retrying = None;
    loop {
        tries += 1;
        if !counted {
            head.headers.insert(X_ENVOY_ATTEMPT_COUNT, number(u64::from(tries)));
        }
        let wish = Wish { hash, tried: &tried };
        let outcome = one_try(exchange, cluster, head, &mut bodies, wish, per_try).await;
        let Some(policy) = retry else { return outcome.map_err(|error| error.reply) };
        let (wanted, sent) = match &outcome {
            Ok(response) => (policy.retries_response(response.status(), response.headers()), true),
            Err(error) => {
                let failure = error.reply.try_failure();
                (failure.is_some_and(|failure| policy.retries_failure(failure, error.sent)), error.sent)
            }
        };
        if !wanted || !policy.may_repeat(head.method.is_idempotent(), sent) || !bodies.can_repeat() {
            return outcome.map_err(|error| error.reply);
        }
        if tries > policy.attempts {
            exchange.flag(ResponseFlags::UPSTREAM_RETRY_LIMIT);
            return outcome.map_err(|error| error.reply);
        }
        if retrying.is_none() {
            retrying = cluster.state.load.retry(&cluster.state.cluster.policy.limits);
            if retrying.is_none() {
                exchange.worker().metrics.count(Count::UpstreamRetriesRefused);
                return outcome.map_err(|error| error.reply);
            }
        }
        if let Ok(response) = outcome {
            discard(response);
        }
        // A key stays with its endpoint, unless somebody wrote otherwise.
        if policy.avoid_previous.unwrap_or(hash.is_none()) {
            tried.extend(exchange.active.as_ref().map(|active| active.endpoint().id));
        }
        // Between two tries no endpoint is busy with the request.
        exchange.active = None;
        exchange.worker().metrics.count(Count::UpstreamRetries);
        Box::pin(tokio::time::sleep(policy.pause(tries, fastrand::u64(..)))).await;
    }
}

async fn one_try(
    exchange: &mut Exchange,
    cluster: &WorkerCluster,
    head: &RequestParts,
    bodies: &mut Bodies,
    wish: Wish<'_>,
    limit: Option<Duration>,
) -> Result<Response<Source>, TryError> {
    let Some(endpoint) = cluster.pick(wish) else {
        cluster.state.discovered.suspect();
        return Err(TryError { reply: LocalReply::NoHealthyUpstream, sent: false });
    };
    let Some(active) = ActiveRequest::admitted(&endpoint, &cluster.state) else {
        return Err(TryError { reply: LocalReply::Overflow, sent: false });
    };
    exchange.active = Some(active);
    let worker = Rc::clone(exchange.worker());
    let client = || Some(exchange.connection.as_client());
    let peer =
        Peer::new(&cluster.state, endpoint, || Some(authority(head)), client, &worker.pool).map_err(|error| {
            exchange.transport_failure = Some(error.to_string().into());
            TryError { reply: LocalReply::TlsTerms, sent: false }
        })?;
    let http2 = cluster.state.cluster.protocol.is_http2(exchange.version)
        || (cluster.state.cluster.multiplexed && peer.is_in_mesh());
    let mut reuse = true;
    loop {
        let Some(body) = bodies.next() else { return Err(TryError { reply: LocalReply::UpstreamClosed, sent: true }) };
        let sending = pin!(connection::send(&worker, cluster, &peer, http2, head, body, reuse));
        let sent = within(limit, sending).await;
        if let Some(outcome) = try_outcome(sent.as_ref()) {
            outlier::note(&cluster.state, &peer.endpoint, outcome, &worker.metrics);
        }
        match sent {
            Some(Ok(response)) => {
                exchange.transport_failure = None;
                return Ok(response);
            }
            Some(Err(SendFailure::Stale(unsent))) => {
                worker.metrics.count(Count::UpstreamStaleRetries);
                bodies.put_back(unsent);
                reuse = false;
            }
            Some(Err(SendFailure::Failed { reply, sent, reason })) => {
                exchange.transport_failure = reason;
                // Whatever became of the try then, the client is why.
                let reply = exchange.progress.as_ref().and_then(|progress| progress.failed()).unwrap_or(reply);
                if reply.try_failure() == Some(TryFailure::Connect) {
                    // Its address may be out of date.
                    cluster.state.discovered.suspect();
                }
                return Err(TryError { reply, sent });
            }
            None => return Err(TryError { reply: LocalReply::TryTimeout, sent: true }),
        }
    }
}

/// What a try says of its endpoint; `None` if nothing.
fn try_outcome(sent: Option<&Result<Response<Source>, SendFailure>>) -> Option<TryOutcome> {
    match sent {
        None => Some(TryOutcome::TimedOut),
        Some(Ok(response)) => Some(TryOutcome::Answered(response.status())),
        Some(Err(SendFailure::Stale(_))) => None,
        Some(Err(SendFailure::Failed { reply, .. })) => match reply.try_failure()? {
            TryFailure::Timeout => Some(TryOutcome::TimedOut),
            TryFailure::Connect | TryFailure::RefusedStream | TryFailure::Reset => Some(TryOutcome::Failed),
        },
    }
}

/// `None` when the time passes first.
async fn within<F: Future>(limit: Option<Duration>, mut future: Pin<&mut F>) -> Option<F::Output> {
    let Some(limit) = limit else { return Some(future.await) };
    let at = Instant::now() + limit;
    let mut alarm = pin!(Alarm::default());
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => alarm.as_mut().poll(at, cx).map(|()| None),
    })
    .await
}

/// Reads what has arrived of an answer that is not passed on: a connection whose exchange is over goes back to the pool.
fn discard(mut response: Response<Source>) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut left = DISCARDED_BYTES;
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(response.body_mut()).poll_frame(&mut cx) {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, bytes::Bytes::len)) else { return };
        left = rest;
    }
}

impl LocalReply {
    /// How a try failed that this reply tells of; `None` where another try could not do better.
    fn try_failure(self) -> Option<TryFailure> {
        match self {
            Self::ConnectFailure | Self::ConnectTimeout | Self::TlsFailure => Some(TryFailure::Connect),
            Self::UpstreamRefusedStream => Some(TryFailure::RefusedStream),
            Self::UpstreamClosed | Self::UpstreamReset | Self::UpstreamProtocol => Some(TryFailure::Reset),
            Self::TryTimeout => Some(TryFailure::Timeout),
            _ => None,
        }
    }
}
