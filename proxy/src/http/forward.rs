//! Sending a request to an upstream and bringing the response back.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Response, Version};
use route_model::table::cluster::UpstreamProtocol;
use route_model::table::headers::{HeaderOps, ValueTemplate};
use route_model::table::{Destination, Forward, Route};

use super::body::{Deadline, OutgoingBody, RequestBody, ResponseBody, Source};
use super::context::Exchange;
use super::headers::{X_ENVOY_ORIGINAL_PATH, X_ENVOY_UPSTREAM_SERVICE_TIME, strip_response};
use super::local_reply::LocalReply;
use super::request::{apply_to_local, replace_target, reply, stamp};
use super::upgrade;
use crate::h1;
use crate::runtime_table::{WorkerCluster, WorkerTable};
use crate::telemetry::metrics::Count;
use crate::upstream::cluster_state::ActiveRequest;
use crate::upstream::connection::{self, SendFailure};

/// A request as it came in and was admitted.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) head: Parts,
    pub(crate) body: RequestBody,
    pub(crate) scheme: &'static str,
}

/// Sends a request to one of a route's destinations.
pub(crate) async fn forward(
    mut exchange: Box<Exchange>,
    table: &WorkerTable,
    route: &Route,
    action: &Forward,
    inbound: Inbound,
) -> Response<ResponseBody> {
    let Inbound { mut head, body, scheme } = inbound;
    let destination = choose(action);
    let cluster = table.cluster(destination.cluster);
    exchange.cluster.clone_from(&cluster);
    let Some(cluster) = cluster else {
        return local(exchange, LocalReply::NoCluster, &action.local_reply_headers, &head, scheme);
    };
    if rewrite(&mut head, &exchange, route, destination, scheme).is_err() {
        return local(exchange, LocalReply::BadRequest, &action.local_reply_headers, &head, scheme);
    }
    let mut deadline = action.timeout.map(|timeout| Box::new(Deadline::new(timeout, exchange.progress.clone())));
    let answered = {
        let mut sending = pin!(send(&mut exchange, &cluster, &head, body));
        poll_fn(|cx| match (sending.as_mut().poll(cx), &mut deadline) {
            (Poll::Ready(answered), _) => Poll::Ready(answered),
            (Poll::Pending, Some(deadline)) => deadline.poll(cx).map(|()| Err(LocalReply::Timeout)),
            (Poll::Pending, None) => Poll::Pending,
        })
        .await
    };
    let mut response = match answered {
        Ok(response) => response,
        Err(failure) => return local(exchange, failure, &action.local_reply_headers, &head, scheme),
    };
    exchange.status = Some(response.status());
    exchange.details = Some("via_upstream");
    let elapsed = exchange.upstream_answered();
    let headers = response.headers_mut();
    strip_response(headers);
    headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, milliseconds(elapsed.as_millis() as u64));
    exchange.note_grpc_status(headers);
    for ops in destination.response_headers.iter().filter(|ops| !ops.is_empty()) {
        let evaluation = ops.evaluate(&exchange.facts(&head, scheme, Some(headers)));
        evaluation.apply(headers);
    }
    stamp(&mut response);
    let response = if upgrade::is_agreed(head.headers.contains_key(UPGRADE), &response) {
        Box::pin(upgrade::switched(exchange, &mut head, response)).await
    } else {
        response.map(|source| ResponseBody::new(source, exchange, deadline))
    };
    // The table of header fields serves the next request.
    h1::recycle(head.headers);
    response
}

/// Sends the request, over a connection that is there or a new one.
async fn send(
    exchange: &mut Exchange,
    cluster: &WorkerCluster,
    head: &Parts,
    body: RequestBody,
) -> Result<Response<Source>, LocalReply> {
    let settings = &cluster.state.cluster;
    if cluster.state.discovered.version() == 0 {
        // A name that was never looked up yet; an answer, also a negative one, comes soon.
        let _ = tokio::time::timeout(settings.connect_timeout, cluster.state.discovered.known()).await;
    }
    let http2 = match settings.protocol {
        UpstreamProtocol::Http1 => false,
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::Client => exchange.version == Version::HTTP_2,
    };
    let Some(endpoint) = cluster.pick(None) else {
        cluster.state.discovered.suspect();
        return Err(LocalReply::NoHealthyUpstream);
    };
    exchange.active = Some(ActiveRequest::new(Arc::clone(&endpoint)));
    let worker = Rc::clone(exchange.worker());
    let mut body = OutgoingBody::new(body, exchange.progress.clone());
    let mut reuse = true;
    loop {
        match connection::send(&worker, cluster, &endpoint, http2, head, body, reuse).await {
            Ok(response) => return Ok(response),
            Err(SendFailure::Stale(unsent)) => {
                worker.metrics.count(Count::UpstreamStaleRetries);
                body = unsent;
                reuse = false;
            }
            Err(SendFailure::Failed(failure)) => {
                if matches!(failure, LocalReply::ConnectFailure | LocalReply::ConnectTimeout) {
                    // Its address may be out of date.
                    cluster.state.discovered.suspect();
                }
                return Err(failure);
            }
        }
    }
}

/// Draws a destination by weight.
fn choose(action: &Forward) -> &Destination {
    let (first, others) = match &*action.destinations {
        [only] => return only,
        [first, others @ ..] => (first, others),
        [] => unreachable!("a forwarding route has a destination"),
    };
    let mut drawn = fastrand::u64(..action.total_weight.max(1));
    let mut chosen = first;
    for destination in std::iter::once(first).chain(others) {
        chosen = destination;
        match drawn.checked_sub(u64::from(destination.weight)) {
            Some(left) => drawn = left,
            None => break,
        }
    }
    chosen
}

/// Applies header operations and rewrites. Formatters see the request as it was admitted.
fn rewrite(
    head: &mut Parts,
    exchange: &Exchange,
    route: &Route,
    destination: &Destination,
    scheme: &str,
) -> Result<(), ()> {
    let authority = match &destination.authority {
        Some(template) => Some(rewritten_authority(template, head, exchange, scheme)?),
        None => None,
    };
    for ops in destination.request_headers.iter().filter(|ops| !ops.is_empty()) {
        let evaluation = ops.evaluate(&exchange.facts(head, scheme, None));
        evaluation.apply(&mut head.headers);
    }
    if let Some(path) = route.rewrite_path(head.uri.path()) {
        rewrite_path(head, path)?;
    }
    if let Some(authority) = authority.filter(|authority| !authority.is_empty()) {
        head.headers.insert(HOST, authority);
    }
    Ok(())
}

fn rewritten_authority(
    template: &ValueTemplate,
    head: &Parts,
    exchange: &Exchange,
    scheme: &str,
) -> Result<HeaderValue, ()> {
    if let Some(value) = template.as_static() {
        return Ok(value.clone());
    }
    let mut authority = Vec::new();
    template.render(&exchange.facts(head, scheme, None), &mut authority);
    super::validate::host(&authority).map_err(|_| ())?;
    HeaderValue::from_maybe_shared(Bytes::from(authority)).map_err(|_| ())
}

fn rewrite_path(head: &mut Parts, path: String) -> Result<(), ()> {
    let mut target = path.into_bytes();
    if let Some(query) = head.uri.query() {
        target.push(b'?');
        target.extend_from_slice(query.as_bytes());
    }
    let original = head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let original = HeaderValue::from_str(original).map_err(|_| ())?;
    head.headers.insert(X_ENVOY_ORIGINAL_PATH, original);
    replace_target(&mut head.uri, Bytes::from(target))
}

fn local(
    exchange: Box<Exchange>,
    failure: LocalReply,
    ops: &HeaderOps,
    head: &Parts,
    scheme: &str,
) -> Response<ResponseBody> {
    let mut response = reply(exchange, failure);
    apply_to_local(ops, head, scheme, &mut response);
    response
}

/// A number as a header value; the small ones, which are most, without allocating.
fn milliseconds(value: u64) -> HeaderValue {
    const SMALL: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match SMALL.get(value as usize) {
        Some(text) => HeaderValue::from_static(text),
        None => HeaderValue::from(value),
    }
}
