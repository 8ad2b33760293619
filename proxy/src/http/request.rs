//! A request from its head to its response's head: admitted, looked up, and answered or sent on.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{LOCATION, SERVER};
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, Uri};
use route_model::request::claims::Claims;
use route_model::request::headers::Headers;
use route_model::request::path::normalise;
use route_model::table::headers::HeaderOps;
use route_model::table::redirect::https_location;
use route_model::table::{Action, Lookup, RequestHead, Route};
use route_model::verdict::cors::CorsVerdict;

use super::body::{RequestBody, ResponseBody, Source};
use super::context::{Connection, Exchange};
use super::facts::RequestFacts;
use super::forward::{self, Inbound};
use super::headers::{GRPC_STATUS, new_request_id};
use super::local_reply::{LocalReply, grpc_response, text_response};
use super::validate::{Violation, authority};
use crate::http::message::{RequestParts, Response};
use crate::policy;
use crate::policy::authorization::Asked;
use crate::policy::jwt;
use crate::policy::rate_limit::{self, Standing};
use crate::runtime_table::WorkerTable;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::metrics::Count;

/// What every response says it comes from, as Envoy does with its own name.
const SERVER_NAME: HeaderValue = HeaderValue::from_static("fairway");

/// Answers one request. Dropping the future abandons it, wherever it is.
pub(crate) async fn handle(
    connection: &Rc<Connection>,
    mut head: Box<RequestParts>,
    body: RequestBody,
) -> Response<ResponseBody> {
    let mut exchange = Box::new(Exchange::new(connection, &head, &body));
    // One table from here to the end of the response.
    let table = connection.table();
    let normalised = normalise_target(&mut head);
    let entrance = connection.routes(&table);
    let settings = &table.runtime().table.settings;
    let trusted_hops =
        entrance.map_or(settings.num_trusted_proxies, |entrance| settings.trusted_hops(entrance.listener()));
    let admitted = connection.peer.admit(&mut head.headers, trusted_hops, new_request_id());
    exchange.client = admitted.client;
    exchange.capture(&head);
    if normalised.is_err() {
        return reply(exchange, LocalReply::BadRequest);
    }
    let routes = entrance.and_then(|entrance| Some((entrance, entrance.for_request(&head)?)));
    let Some((entrance, routes)) = routes else { return reply(exchange, LocalReply::Misdirected) };
    let authorization = table.runtime().authorization.as_ref().filter(|_| entrance.is_guarded());
    let (mut verified, mut judged) = (None, None);
    if !routes.authentication.is_none()
        && let Some(rules) = routes.authentication.of_authority(authority(&head))
    {
        if let Some(authorization) = authorization.filter(|policies| policies.has_external()) {
            let asked = asked(&head, admitted.scheme, None);
            let found = routes.lookup(&asked);
            let client = exchange.client.ip();
            let verdict = authorization.admits_before_tokens(connection, client, entrance, found, &asked);
            if denied(&mut exchange, verdict) {
                return refused(found, exchange, &head, admitted.scheme);
            }
            judged = Some(Asked::of(entrance, found));
        }
        let verifiers = &table.runtime().verifiers;
        match jwt::authenticate(&connection.worker, verifiers, rules, &mut head, admitted.scheme).await {
            Ok(known) => verified = known,
            Err(fault) => {
                exchange.details = Some(fault.details());
                return local(exchange, jwt::refusal(fault, &head, admitted.scheme));
            }
        }
        // Where the token was in the query it is no more.
        exchange.recapture_path(&head);
    }
    let asked = asked(&head, admitted.scheme, verified.as_deref().map(|verified| &verified.claims));
    let found = routes.lookup(&asked);
    let verdict = authorization.map_or(Ok(()), |policies| {
        policies.admits_request(connection, exchange.client.ip(), entrance, found, &asked, judged)
    });
    if denied(&mut exchange, verdict) {
        return refused(found, exchange, &head, admitted.scheme);
    }
    let route = match found {
        Lookup::Route(_, route) => route,
        Lookup::NoRoute(_) | Lookup::NoHost => return reply(exchange, LocalReply::NoRoute),
        Lookup::HttpsRedirect(_) => {
            exchange.details = Some("direct_response");
            return local(exchange, redirect(StatusCode::MOVED_PERMANENTLY, &https_location(&asked)));
        }
    };
    exchange.set_route(route);
    let crossing =
        route.cors.as_deref().map_or(CorsVerdict::Indifferent, |cors| cors.judge(asked.method, asked.headers));
    let preflight = matches!(crossing, CorsVerdict::Preflight { .. });
    let standing = match limits(&mut exchange, &table, route, &asked, preflight) {
        Ok(standing) => standing,
        Err(refusal) => return replied_for(route, exchange, &head, admitted.scheme, *refusal),
    };
    if let Some(fault) = &route.fault
        && let Some(aborted) = Box::pin(policy::fault::inject(fault, &mut exchange)).await
    {
        return told(standing, replied_for(route, exchange, &head, admitted.scheme, aborted));
    }
    if let CorsVerdict::Preflight { allowed } = crossing {
        exchange.details = Some("direct_response");
        let mut response = text_response(StatusCode::OK, Bytes::new());
        if let (Some(origin), Some(cors)) = (allowed, &route.cors) {
            cors.permit(origin, response.headers_mut());
        }
        return told(standing, replied_for(route, exchange, &head, admitted.scheme, response));
    }
    let mut response = match &route.action {
        Action::Forward(action) => {
            // Nobody asks for claims any more.
            drop(verified);
            let inbound = Inbound { head, body, scheme: admitted.scheme };
            forward::forward(exchange, &table, route, action, inbound).await
        }
        Action::Redirect(action) => {
            exchange.details = Some("direct_response");
            let response = redirect(action.status, &route.location(action, &asked));
            replied_for(route, exchange, &head, admitted.scheme, response)
        }
        Action::Direct(action) => {
            exchange.details = Some("direct_response");
            let mut response = text_response(action.status, action.body.clone());
            if let Some(content_type) = &action.content_type {
                response.headers_mut().insert(http::header::CONTENT_TYPE, content_type.clone());
            }
            replied_for(route, exchange, &head, admitted.scheme, response)
        }
    };
    if let (CorsVerdict::Allowed(origin), Some(cors)) = (crossing, &route.cors) {
        cors.expose(origin, response.headers_mut());
    }
    told(standing, response)
}

/// Chooses where a request goes, and asks the rate limits of its route and of the service there.
fn limits(
    exchange: &mut Exchange,
    table: &WorkerTable,
    route: &Route,
    asked: &RequestHead<'_>,
    preflight: bool,
) -> Result<Option<Box<Standing>>, Box<Response<Bytes>>> {
    let table = table.runtime();
    let service = match &route.action {
        Action::Forward(action) => {
            exchange.destination = forward::choose(action);
            table.limits_of(action.destinations[exchange.destination].cluster)
        }
        Action::Redirect(_) | Action::Direct(_) => None,
    };
    // A preflight reaches no service.
    let service = service.filter(|_| !preflight);
    let of_route = route.limits.as_deref();
    if of_route.is_none() && service.is_none() {
        return Ok(None);
    }
    let (client, common) = (exchange.client.ip(), &exchange.worker().process.rate_limits);
    match rate_limit::ask(of_route, service, &table.limits, asked, client, common) {
        rate_limit::Verdict::Admitted(told) => Ok(told),
        rate_limit::Verdict::Refused(refusal) => {
            exchange.flag(ResponseFlags::RATE_LIMITED);
            exchange.details = Some("local_rate_limited");
            Err(Box::new(refusal))
        }
    }
}

/// The head as routes and policies look at it.
pub(crate) fn asked<'a>(head: &'a RequestParts, scheme: &'a str, claims: Option<&'a Claims>) -> RequestHead<'a> {
    RequestHead {
        method: head.method.as_str(),
        scheme,
        authority: authority(head),
        path: head.uri.path(),
        query: head.uri.query(),
        headers: &head.headers,
        claims,
    }
}

/// What a request gets that an authorization policy denies.
fn refused(
    found: Lookup<'_>,
    mut exchange: Box<Exchange>,
    head: &RequestParts,
    scheme: &str,
) -> Response<ResponseBody> {
    let response = LocalReply::Denied.response();
    match found {
        Lookup::Route(_, route) => {
            exchange.set_route(route);
            replied_for(route, exchange, head, scheme, response)
        }
        _ => local(exchange, response),
    }
}

/// Whether the authorization policies deny a request, by their verdict, which is noted.
fn denied(exchange: &mut Exchange, verdict: Result<(), Option<Arc<str>>>) -> bool {
    let Err(by) = verdict else { return false };
    exchange.details = Some(LocalReply::Denied.details());
    exchange.denied_by = by;
    true
}

/// A response that says how its client stands with the rate limits.
fn told(standing: Option<Box<Standing>>, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    if let Some(standing) = standing {
        standing.tell(response.headers_mut());
    }
    response
}

/// A reply of the proxy's own for a route, with the route's response operations.
fn replied_for(
    route: &Route,
    exchange: Box<Exchange>,
    head: &RequestParts,
    scheme: &str,
    response: Response<Bytes>,
) -> Response<ResponseBody> {
    let mut response = local(exchange, response);
    apply_to_local(route.reply_headers(), head, scheme, &mut response);
    response
}

/// Answers a request whose head could not be understood.
pub(crate) fn refuse(connection: &Rc<Connection>, violation: Violation) -> Response<ResponseBody> {
    let mut exchange = Box::new(Exchange::unread(connection));
    exchange.capture_unread();
    connection.worker.metrics.count(Count::ProtocolViolationsDownstream);
    exchange.flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
    exchange.details = Some(violation.details());
    tracing::debug!(peer = %connection.facts.peer, error = %violation, "refused a request");
    local(exchange, text_response(violation.status(), Bytes::new()))
}

/// Answers with one of the proxy's own replies.
pub(crate) fn reply(mut exchange: Box<Exchange>, reply: LocalReply) -> Response<ResponseBody> {
    exchange.flag(reply.flags());
    exchange.details = Some(reply.details());
    local(exchange, reply.response())
}

/// Makes a response of the proxy's own ready to be sent.
pub(crate) fn local(mut exchange: Box<Exchange>, mut response: Response<Bytes>) -> Response<ResponseBody> {
    if exchange.grpc {
        response = grpc_response(response);
        exchange.note_grpc_status(response.headers().get(GRPC_STATUS));
    }
    stamp(&mut response);
    exchange.status = Some(response.status());
    response.map(|body| ResponseBody::new(Source::Local(body), exchange))
}

/// Puts the proxy's name on a response.
pub(crate) fn stamp<B>(response: &mut Response<B>) {
    response.headers_mut().insert(SERVER, SERVER_NAME);
}

/// Runs a route's response operations on a reply that the proxy makes for it.
pub(crate) fn apply_to_local(
    ops: &HeaderOps,
    head: &RequestParts,
    scheme: &str,
    response: &mut Response<ResponseBody>,
) {
    if ops.is_empty() {
        return;
    }
    let evaluation = {
        let Some(exchange) = response.body().exchange() else { return };
        ops.evaluate(&exchange.facts(head, scheme, Some(response.headers())))
    };
    evaluation.apply(response.headers_mut());
}

fn redirect(status: StatusCode, location: &str) -> Response<Bytes> {
    let mut response = text_response(status, Bytes::new());
    // What a client sent in its Host or path and cannot be said in a header was refused long before.
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Brings the path into its canonical form, which is what is matched, logged and sent on.
fn normalise_target(head: &mut RequestParts) -> Result<(), ()> {
    let Some(target) = head.uri.path_and_query() else { return Err(()) };
    let normalised = match normalise(target.as_str()) {
        Ok(std::borrow::Cow::Borrowed(_)) => return Ok(()),
        Ok(std::borrow::Cow::Owned(normalised)) => normalised,
        Err(error) => {
            tracing::debug!(%error, "refused a request");
            return Err(());
        }
    };
    replace_target(&mut head.uri, Bytes::from(normalised))
}

/// Replaces path and query.
pub(crate) fn replace_target(uri: &mut Uri, target: Bytes) -> Result<(), ()> {
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(target).map_err(|_| ())?);
    *uri = Uri::from_parts(parts).map_err(|_| ())?;
    Ok(())
}

impl Exchange {
    /// A view of the request for formatters.
    pub(crate) fn facts<'a>(
        &'a self,
        head: &'a RequestParts,
        scheme: &'a str,
        response_headers: Option<&'a Headers>,
    ) -> RequestFacts<'a> {
        RequestFacts {
            connection: &self.connection.facts,
            client: self.client,
            method: head.method.as_str(),
            scheme,
            authority: authority(head),
            path_and_query: head.uri.path_and_query().map_or("", PathAndQuery::as_str),
            version: self.version,
            request_headers: &head.headers,
            response_headers,
            start: self.wall_start(),
            elapsed: self.start.elapsed(),
            status: self.status,
            flags: self.flags,
            route_name: self.route_name(),
            upstream_host: self.active.as_ref().map(|active| &*active.endpoint().name),
            upstream_cluster: self.cluster.as_ref().map(|cluster| &*cluster.state.cluster.name),
            bytes_received: self.progress.as_ref().map_or(0, |progress| progress.received()),
            bytes_sent: self.sent,
            hostname: &self.worker().process.hostname,
        }
    }
}
