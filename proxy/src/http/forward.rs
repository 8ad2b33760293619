//! Sending a request to an upstream and bringing the response back.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::header::{HOST, HeaderValue, SET_COOKIE};
use route_model::table::cluster::LoadBalancer;
use route_model::table::fault::Fraction;
use route_model::table::hash::{self, HashKey};
use route_model::table::headers::{HeaderOps, ValueTemplate};
use route_model::table::{Destination, Forward, Route};

use super::attempts;
use super::body::{RequestBody, ResponseBody};
use super::context::Exchange;
use super::deadline::{Alarm, Deadline};
use super::headers::{GRPC_STATUS, X_ENVOY_ORIGINAL_PATH, X_ENVOY_UPSTREAM_SERVICE_TIME, number, strip_response};
use super::local_reply::LocalReply;
use super::outgoing::Bodies;
use super::request::{apply_to_local, asked, replace_target, reply, stamp};
use super::upgrade;
use super::validate::authority;
use crate::http::message::{RequestParts, Response};
use crate::runtime_table::{WorkerCluster, WorkerTable};
use crate::upstream::dynamic::NoName;
use crate::{h1, policy};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A request as it came in and was admitted.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) head: Box<RequestParts>,
    pub(crate) body: RequestBody,
    pub(crate) scheme: &'static str,
}

/// Sends a request to the one of its route's destinations that was chosen for it.
pub(crate) async fn forward(
    mut exchange: Box<Exchange>,
    table: &WorkerTable,
    route: &Route,
    action: &Forward,
    inbound: Inbound,
) -> Response<ResponseBody> {
    let Inbound { mut head, body, scheme } = inbound;
    let destination = &action.destinations[exchange.destination];
    let cluster = table.cluster(destination.cluster);
    exchange.cluster.clone_from(&cluster);
    let Some(cluster) = cluster else {
        return local(exchange, LocalReply::NoCluster, &action.local_reply_headers, &head, scheme);
    };
    if rewrite(&mut head, &exchange, route, destination, scheme).is_err() {
        return local(exchange, LocalReply::BadRequest, &action.local_reply_headers, &head, scheme);
    }
    let cluster = match cluster.of_host(|| authority(&head), exchange.connection.destination()) {
        Ok(cluster) => cluster,
        Err(problem) => return local(exchange, nowhere(problem), &action.local_reply_headers, &head, scheme),
    };
    exchange.cluster = Some(Rc::clone(&cluster));
    let (hash, cookie) = affinity(&exchange, &cluster, &head, scheme);
    exchange.deadline = deadline(&exchange, action, &head);
    let mirrored = !action.mirrors.is_empty();
    let repeatable = action.retry.is_some() || mirrored;
    let bodies = Bodies::new(body, exchange.progress.clone(), repeatable);
    if !bodies.keep_to(action.max_request_body) {
        return local(exchange, LocalReply::PayloadTooLarge, &action.local_reply_headers, &head, scheme);
    }
    if mirrored {
        mirror(&exchange, table, action, &head, &bodies);
    }
    let answered = {
        let mut deadline = exchange.deadline.take();
        let mut alarm = pin!(Alarm::default());
        let answered = {
            let mut sending =
                pin!(attempts::send(&mut exchange, &cluster, &mut head, bodies, action.retry.as_deref(), hash));
            poll_fn(|cx| match (sending.as_mut().poll(cx), &mut deadline) {
                (Poll::Ready(answered), _) => Poll::Ready(answered),
                (Poll::Pending, Some(deadline)) => match deadline.at(cx) {
                    Some(at) => alarm.as_mut().poll(at, cx).map(|()| Err(deadline.reply)),
                    None => Poll::Pending,
                },
                (Poll::Pending, None) => Poll::Pending,
            })
            .await
        };
        exchange.deadline = deadline;
        answered
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
    headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, number(elapsed.as_millis() as u64));
    if exchange.grpc {
        exchange.note_grpc_status(headers.get(GRPC_STATUS));
    }
    for ops in destination.response_headers.iter().filter(|ops| !ops.is_empty()) {
        let evaluation = ops.evaluate(&exchange.facts(&head, scheme, Some(headers)));
        evaluation.apply(headers);
    }
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    stamp(&mut response);
    let response = if upgrade::is_agreed(&head, &response) {
        Box::pin(upgrade::switched(exchange, &mut head, response)).await
    } else {
        response.map(|source| ResponseBody::new(source, exchange))
    };
    // Its memory serves the next request.
    h1::recycle(head);
    response
}

fn nowhere(problem: NoName) -> LocalReply {
    match problem {
        NoName::Foreign => LocalReply::NoHealthyUpstream,
        NoName::Full => LocalReply::Overflow,
    }
}

/// The hash by which the request finds its endpoint, and the cookie that brings the client back to it.
fn affinity(
    exchange: &Exchange,
    cluster: &WorkerCluster,
    head: &RequestParts,
    scheme: &str,
) -> (Option<u64>, Option<HeaderValue>) {
    let LoadBalancer::Hash(by) = &cluster.state.cluster.load_balancer else { return (None, None) };
    match (by.of(&asked(head, scheme, None), exchange.client.ip()), &by.key) {
        (None, HashKey::Cookie(cookie)) => {
            let value = format!("{:016x}", fastrand::u64(..));
            match cookie.issue(&value).and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
                Some(cookie) => (Some(hash::hash(value.as_bytes())), Some(cookie)),
                None => (None, None),
            }
        }
        (hash, _) => (hash, None),
    }
}

/// The route's timeout, or the time that a gRPC client gives itself if that is shorter (`grpc-timeout`).
fn deadline(exchange: &Exchange, action: &Forward, head: &RequestParts) -> Option<Deadline> {
    let asked = if exchange.grpc { head.headers.get(GRPC_TIMEOUT).and_then(grpc_timeout) } else { None };
    let (timeout, reply) = match (action.timeout, asked) {
        (Some(timeout), Some(asked)) if timeout <= asked => (timeout, LocalReply::Timeout),
        (_, Some(asked)) => (asked, LocalReply::GrpcDeadline),
        (Some(timeout), None) => (timeout, LocalReply::Timeout),
        (None, None) => return None,
    };
    // A route's time counts from the end of the request, a gRPC client's own from its beginning.
    let from = if reply == LocalReply::GrpcDeadline { None } else { exchange.progress.clone() };
    Some(Deadline::new(timeout, reply, from))
}

/// `TimeoutValue TimeoutUnit` of gRPC's protocol: at most eight digits and one of `H M S m u n`.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

fn mirror(exchange: &Exchange, table: &WorkerTable, action: &Forward, head: &RequestParts, bodies: &Bodies) {
    for mirror in action.mirrors.iter().filter(|mirror| mirror.fraction.takes(fastrand::u32(..Fraction::WHOLE))) {
        // Where the service does not exist there is nobody to send the copy to.
        let cluster = table
            .cluster(mirror.cluster)
            .and_then(|cluster| cluster.of_host(|| authority(head), exchange.connection.destination()).ok());
        if let Some(cluster) = cluster {
            policy::mirror::send(exchange.worker(), cluster, head, exchange.version, bodies.tap(), action.timeout);
        }
    }
}

/// Draws a destination by weight; answers its place in the list.
pub(crate) fn choose(action: &Forward) -> usize {
    let last = action.destinations.len().saturating_sub(1);
    if last == 0 {
        return 0;
    }
    let mut drawn = fastrand::u64(..action.total_weight.max(1));
    let taken = action.destinations.iter().position(|destination| {
        let left = drawn.checked_sub(u64::from(destination.weight));
        drawn = left.unwrap_or(0);
        left.is_none()
    });
    taken.unwrap_or(last)
}

/// Applies header operations and rewrites. Formatters see the request as it was admitted.
fn rewrite(
    head: &mut RequestParts,
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
    head: &RequestParts,
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

fn rewrite_path(head: &mut RequestParts, path: String) -> Result<(), ()> {
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
    head: &RequestParts,
    scheme: &str,
) -> Response<ResponseBody> {
    let mut response = reply(exchange, failure);
    apply_to_local(ops, head, scheme, &mut response);
    response
}
