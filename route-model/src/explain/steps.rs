//! The steps of a request through a gateway, up to where its fate is known. They call what the data plane calls.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::{HOST, HeaderName, HeaderValue};

use super::authentication;
use super::authorization::{self, Stage};
use super::request::Sent;
use super::stream::{self, Handling};
use super::{
    ChangedHeader, ExplainedDestination, ExplainedLimit, ExplainedMirror, ExplainedRetries, Explanation,
    HeaderOperation, NormalisedPath, Operation, Outcome, RuleVerdict,
};
use crate::matching::quoted;
use crate::request::admission::Peer;
use crate::request::claims::Claims;
use crate::request::form;
use crate::request::headers::Headers;
use crate::request::path::{escape, normalise};
use crate::table::fault::Abort;
use crate::table::headers::HeaderOps;
use crate::table::redirect::https_location;
use crate::table::retry::RetryPolicy;
use crate::table::route::{Action, Destination, Forward, Mirror};
use crate::table::tls::TlsMode;
use crate::table::{
    HttpRoutes, Listener, ListenerProtocol, Lookup, PassthroughServer, RequestHead, Route, RouteTable, ServerRef,
    StreamRoutes, TlsChoice, TlsListener, TlsRoutes, VirtualHost,
};
use crate::verdict::authorization::Facts;
use crate::verdict::cors::CorsVerdict;
use crate::verdict::limits::{LimitPolicy, LimitRule, together};

/// Up to so many rules of a host are all listed; of more only those whose path can fit.
pub(super) const MAX_LISTED: usize = 200;

/// Explains what becomes of a request.
pub(super) fn explain(table: &RouteTable, sent: &Sent<'_>) -> Explanation {
    let mut explanation = Explanation {
        revision: table.revision,
        routes: None,
        servers: Vec::new(),
        path: None,
        headers: Vec::new(),
        token: None,
        host: None,
        rules: Vec::new(),
        skipped: 0,
        policies: Vec::new(),
        limits: Vec::new(),
        faults: Vec::new(),
        cors: None,
        outcome: Outcome::Refused { status: None, reason: String::new() },
    };
    explanation.outcome = walk(table, sent, &mut explanation).unwrap_or_else(|refused| refused);
    explanation
}

/// Answers with an error where a request goes no further.
fn walk(table: &RouteTable, sent: &Sent<'_>, explanation: &mut Explanation) -> Result<Outcome, Outcome> {
    let entrance = Entrance::find(table, sent)?;
    if let Entrance::Stream { listener, server, routes, handling } = &entrance {
        return Ok(stream::explain(table, listener, server, routes, *handling, sent, explanation));
    }
    explanation.routes = entrance.routes().map(|routes| routes.name.to_string());
    explanation.servers =
        entrance.servers().iter().map(|server| format!("{} servers[{}]", server.gateway, server.index)).collect();
    let mut received = Received::of(sent, entrance.trusted_hops(table), explanation)?;
    let routes = entrance.routes_for(&received.authority).ok_or_else(|| {
        let name = if sent.sni.is_empty() {
            "no server name".to_owned()
        } else {
            format!("the server name {}", quoted(sent.sni))
        };
        refused(
            421,
            format!(
                "the host {} does not belong to the TLS server that {name} leads to; clients try again on a new \
                 connection",
                quoted(&received.authority)
            ),
        )
    })?;
    let judge = |head: &RequestHead<'_>, client: IpAddr, stage: Stage, explanation: &mut Explanation| {
        let shown = facts_of_connection(sent, entrance.listener().bind, entrance.asks_for_certificates());
        let facts = Facts { head: Some(head), client, ..shown };
        let of_route = match routes.lookup(head) {
            Lookup::Route(_, route) => route.gateway.as_deref(),
            _ => None,
        };
        let of_servers = entrance.servers().iter().map(|server| &server.gateway).filter(|_| of_route.is_none());
        authorization::explain(table, of_route.into_iter().chain(of_servers), &facts, stage, explanation)
    };
    let (mut claims, mut stage) = (None, Stage::All);
    if let Some(rules) = routes.authentication.of_authority(&received.authority) {
        let asked = received.head(sent, None);
        if let Some(denied) = judge(&asked, received.client, Stage::BeforeTokens, explanation) {
            look_up(table, routes, &asked, received.client, explanation);
            return Ok(refused_early(denied, explanation));
        }
        stage = Stage::AfterTokens;
        let authenticated = authentication::explain(rules, &asked, explanation)?;
        let path = received.target.split('?').next().unwrap_or_default();
        received.target = match authenticated.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        received.headers = authenticated.headers;
        explanation.headers = changed(&sent.headers, &received.headers);
        claims = authenticated.claims;
    }
    let head = received.head(sent, claims.as_ref());
    let outcome = look_up(table, routes, &head, received.client, explanation);
    Ok(match judge(&head, received.client, stage, explanation) {
        Some(denied) => refused_early(denied, explanation),
        None => outcome,
    })
}

/// A request that a policy denies ends before any of these.
fn refused_early(denied: Outcome, explanation: &mut Explanation) -> Outcome {
    explanation.limits.clear();
    explanation.faults.clear();
    explanation.cors = None;
    denied
}

/// What a connection shows, its certificate to a server that `asks` for one. The address connected to is the listener's,
/// or 127.0.0.1 where it has none.
pub(super) fn facts_of_connection<'a>(sent: &'a Sent<'_>, bind: Option<IpAddr>, asks: bool) -> Facts<'a> {
    Facts {
        head: None,
        peer: sent.client,
        client: sent.client,
        destination: bind.unwrap_or(Ipv4Addr::LOCALHOST.into()),
        port: sent.port,
        sni: Some(sent.sni).filter(|sni| sent.tls && !sni.is_empty()),
        principals: if asks { sent.identity.as_slice() } else { &[] },
    }
}

fn refused(status: u16, reason: impl Into<String>) -> Outcome {
    Outcome::Refused { status: Some(status), reason: reason.into() }
}

fn no_answer(reason: String) -> Outcome {
    Outcome::Refused { status: None, reason }
}

/// Where a connection leads.
enum Entrance<'t> {
    Plain(&'t Arc<HttpRoutes>, &'t Listener),
    Tls(&'t TlsListener, usize, &'t Listener),
    Stream { listener: &'t Listener, server: &'t ServerRef, routes: &'t StreamRoutes, handling: Handling },
}

impl<'t> Entrance<'t> {
    fn find(table: &'t RouteTable, sent: &Sent<'_>) -> Result<Self, Outcome> {
        let fits = |listener: &&Arc<Listener>| {
            listener.port == sent.port && sent.bind.is_none_or(|bind| listener.bind == Some(bind))
        };
        let port = sent.port;
        let Some(listener) = table.listeners.iter().find(fits) else {
            let ports: Vec<_> = table.listeners.iter().map(|listener| listener.port.to_string()).collect();
            let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
            return Err(no_answer(format!("nothing listens on port {port}; ports with a Gateway server: {ports}")));
        };
        match (&listener.protocol, sent.tls) {
            (ListenerProtocol::Http(routes), false) => Ok(Self::Plain(routes, listener)),
            (ListenerProtocol::Tls(tls), true) => Self::handshake(listener, tls, sent),
            (ListenerProtocol::Tcp(routes), _) => {
                let server =
                    listener.servers.first().ok_or_else(|| no_answer("the listener has no server".to_owned()))?;
                Ok(Self::Stream { listener, server, routes, handling: Handling::Raw })
            }
            (ListenerProtocol::Service(_) | ListenerProtocol::Outbound(_) | ListenerProtocol::Inbound { .. }, _) => {
                Err(no_answer(format!("port {port} is a sidecar's, and only the ways through gateways are explained")))
            }
            (ListenerProtocol::Http(_), true) => {
                Err(no_answer(format!("port {port} speaks plain HTTP, so a TLS handshake fails; write http://")))
            }
            (ListenerProtocol::Tls(_), false) => {
                Err(no_answer(format!("port {port} speaks TLS and closes a connection without it; write https://")))
            }
        }
    }

    fn handshake(listener: &'t Listener, tls: &'t TlsListener, sent: &Sent<'_>) -> Result<Self, Outcome> {
        let port = sent.port;
        let found = tls.by_sni.find_sni(Some(sent.sni)).copied();
        if let Some(TlsChoice::PassThrough(index)) = found
            && let Some(PassthroughServer { server, routes }) =
                tls.passthrough.get(index as usize).map(|server| &**server)
        {
            return Ok(Self::Stream { listener, server, routes, handling: Handling::PassThrough });
        }
        let terminating = |choice| match choice {
            TlsChoice::Terminate(index) => Some((index as usize, tls.servers.get(index as usize)?)),
            TlsChoice::PassThrough(_) => None,
        };
        let Some((index, server)) = found.and_then(terminating) else {
            return Err(no_answer(match sent.sni {
                "" => format!("no TLS server of port {port} has the host `*`, so a handshake without a name fails"),
                sni => format!("no TLS server of port {port} has the host {}, so the handshake fails", quoted(sni)),
            }));
        };
        if server.terms.certificates.is_empty() {
            let ServerRef { gateway, index } = &server.server;
            return Err(no_answer(format!("{gateway} servers[{index}] has no certificate, so the handshake fails")));
        }
        let asks = server.terms.mode != TlsMode::Simple;
        let wanted = &server.terms.subject_alt_names;
        if let Some(identity) = sent.identity.as_deref().filter(|_| asks && !wanted.is_empty())
            && !wanted.iter().any(|name| name == identity)
        {
            let ServerRef { gateway, index } = &server.server;
            return Err(no_answer(format!(
                "{gateway} servers[{index}] takes certificates of subjectAltNames {} only, so the handshake fails",
                wanted.join(", ")
            )));
        }
        if let TlsRoutes::Tcp(routes) = &server.routes {
            return Ok(Self::Stream {
                listener,
                server: &server.server,
                routes,
                handling: Handling::Terminate { asks },
            });
        }
        Ok(Self::Tls(tls, index, listener))
    }

    fn servers(&self) -> &'t [ServerRef] {
        match self {
            Self::Plain(_, listener) => &listener.servers,
            Self::Tls(tls, index, _) => std::slice::from_ref(&tls.servers[*index].server),
            Self::Stream { server, .. } => std::slice::from_ref(server),
        }
    }

    fn listener(&self) -> &'t Listener {
        match self {
            Self::Plain(_, listener) | Self::Tls(_, _, listener) | Self::Stream { listener, .. } => listener,
        }
    }

    fn asks_for_certificates(&self) -> bool {
        match self {
            Self::Plain(..) => false,
            Self::Tls(tls, index, _) => tls.servers[*index].terms.mode != TlsMode::Simple,
            Self::Stream { handling, .. } => handling.asks_for_certificates(),
        }
    }

    fn trusted_hops(&self, table: &RouteTable) -> u32 {
        table.settings.trusted_hops(self.listener())
    }

    fn routes(&self) -> Option<&'t HttpRoutes> {
        match self {
            Self::Plain(routes, _) => Some(routes),
            Self::Tls(tls, index, _) => tls.servers[*index].http().map(|routes| &**routes),
            Self::Stream { .. } => None,
        }
    }

    fn routes_for(&self, authority: &str) -> Option<&'t HttpRoutes> {
        match self {
            Self::Plain(routes, _) => Some(routes),
            Self::Tls(tls, index, _) => tls.routes_for(*index, authority).map(|routes| &**routes),
            Self::Stream { .. } => None,
        }
    }
}

/// A request that is well formed, as rules see it.
struct Received {
    scheme: &'static str,
    authority: String,
    /// Normalised, with the query.
    target: String,
    headers: Headers,
    /// As far as it can be trusted.
    client: IpAddr,
}

impl Received {
    fn of(sent: &Sent<'_>, trusted_hops: u32, explanation: &mut Explanation) -> Result<Self, Outcome> {
        if sent.method == "CONNECT" {
            return Err(refused(403, "CONNECT is not supported"));
        }
        if !form::is_method(sent.method.as_bytes()) {
            let why = format!("the method {} is none that a gateway takes over HTTP/1.1", quoted(sent.method));
            return Err(refused(400, why));
        }
        let mut hosts = sent.headers.get_all(HOST);
        let authority = match (hosts.next(), hosts.next()) {
            (Some(host), None) if form::is_host(host.as_bytes()) => host.to_str().unwrap_or_default().to_owned(),
            (Some(host), None) => return Err(refused(400, format!("the Host {} is malformed", quoted(host)))),
            (None, _) => return Err(refused(400, "the Host header is missing")),
            (Some(_), Some(_)) => return Err(refused(400, "there are several Host headers")),
        };
        let malformed = |error: crate::request::path::PathError| refused(400, error.to_string());
        let escaped = escape(sent.target.as_bytes()).map_err(malformed)?;
        // What is escaped is ASCII.
        let escaped = escaped.map_or_else(|| sent.target.clone(), |bytes| String::from_utf8_lossy(&bytes).into_owned());
        let target = normalise(&escaped).map_err(malformed)?.into_owned();
        let path_of = |target: &str| target.split('?').next().unwrap_or_default().to_owned();
        let (before, after) = (path_of(&sent.target), path_of(&target));
        if before != after {
            explanation.path = Some(NormalisedPath { sent: before, matched: after });
        }
        let mut headers = sent.headers.clone();
        let peer = Peer::new(SocketAddr::new(sent.client, 0), sent.tls, None);
        // A new one is drawn for every request, so that no rule can be held against it.
        let request_id = HeaderValue::from_static("00000000-0000-4000-8000-000000000000");
        let admitted = peer.admit(&mut headers, trusted_hops, request_id);
        explanation.headers = changed(&sent.headers, &headers);
        let client = admitted.client.ip();
        Ok(Self { scheme: admitted.scheme, authority, target, headers, client })
    }

    fn head<'a>(&'a self, sent: &'a Sent<'_>, claims: Option<&'a Claims>) -> RequestHead<'a> {
        let (path, query) =
            self.target.split_once('?').map_or((&*self.target, None), |(path, query)| (path, Some(query)));
        let Self { scheme, authority, headers, .. } = self;
        RequestHead { method: sent.method, scheme, authority, path, query, headers, claims }
    }
}

/// The headers of a request that rules see otherwise than they were sent.
fn changed(sent: &Headers, admitted: &Headers) -> Vec<ChangedHeader> {
    let values = |headers: &Headers, name: &HeaderName| -> Vec<String> {
        headers.get_all(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    let mut changed = Vec::new();
    for name in sent.keys() {
        let (before, after) = (values(sent, name), values(admitted, name));
        if before != after {
            let value = (!after.is_empty()).then(|| after.join(", "));
            changed.push(ChangedHeader { name: name.to_string(), value });
        }
    }
    changed
}

fn look_up(
    table: &RouteTable,
    routes: &HttpRoutes,
    head: &RequestHead<'_>,
    client: IpAddr,
    explanation: &mut Explanation,
) -> Outcome {
    match routes.lookup(head) {
        Lookup::NoHost => {
            refused(404, format!("no VirtualService or redirect of {} has the request's host", routes.name))
        }
        Lookup::HttpsRedirect(host) => {
            explanation.host = Some(host.domain.to_string());
            Outcome::HttpsRedirect { location: https_location(head) }
        }
        Lookup::NoRoute(host) => {
            explanation.host = Some(host.domain.to_string());
            list_rules(host, head, None, explanation);
            let count = host.routes().len();
            refused(404, format!("none of the {count} rules of host `{}` takes the request", host.domain))
        }
        Lookup::Route(host, route) => {
            explanation.host = Some(host.domain.to_string());
            list_rules(host, head, Some(route), explanation);
            explanation.limits = limits(table, route, head, client);
            explanation.faults = faults(route);
            let verdict = route.cors.as_ref().map(|cors| cors.judge(head.method, head.headers));
            explanation.cors = verdict.as_ref().map(|verdict| crossing(verdict).to_owned());
            match verdict {
                Some(CorsVerdict::Preflight { .. }) => Outcome::Direct {
                    status: 200,
                    body_length: 0,
                    response_headers: operations(std::slice::from_ref(route.reply_headers())),
                },
                _ => outcome(table, route, head),
            }
        }
    }
}

fn list_rules(host: &VirtualHost, head: &RequestHead<'_>, winner: Option<&Arc<Route>>, explanation: &mut Explanation) {
    let routes = host.routes();
    let end = winner.and_then(|winner| routes.iter().position(|route| Arc::ptr_eq(route, winner)));
    let looked_at = end.map_or(routes.len(), |end| end + 1);
    let positions: Vec<usize> = if looked_at <= MAX_LISTED {
        (0..looked_at).collect()
    } else {
        host.candidates(head.path).into_iter().take_while(|position| *position < looked_at).collect()
    };
    explanation.skipped = looked_at - positions.len();
    for position in positions {
        let route = &routes[position];
        let (resource, path) = route.origin.place();
        let resource = resource.clone();
        let failure = route.failure(head);
        explanation.rules.push(RuleVerdict { position, resource, path, name: route.name.to_string(), failure });
    }
}

/// The rules of rate limits that may count a request: of its route, and of the services that the route leads to.
fn limits(table: &RouteTable, route: &Route, head: &RequestHead<'_>, client: IpAddr) -> Vec<ExplainedLimit> {
    let mut all = Vec::new();
    let mut add = |whose: &str, policy: &LimitPolicy, destination: Option<&str>| {
        let counting = policy.rules.iter().filter(|rule| rule.counts(head));
        all.extend(counting.map(|rule| limit(whose, policy, rule, destination, head, client)));
    };
    for (whose, policy) in together(route.limits.as_deref(), None) {
        add(whose, policy, None);
    }
    if let Action::Forward(forward) = &route.action {
        for destination in &forward.destinations {
            let Some(cluster) = table.cluster(destination.cluster) else { continue };
            let name = (forward.destinations.len() > 1).then_some(&*cluster.name);
            let of_route = route.limits.as_deref();
            let own = together(of_route, cluster.limits.as_deref());
            for (whose, policy) in own.skip(of_route.map_or(0, |limits| limits.policies.len())) {
                add(whose, policy, name);
            }
        }
    }
    all
}

fn limit(
    whose: &str,
    policy: &LimitPolicy,
    rule: &LimitRule,
    destination: Option<&str>,
    head: &RequestHead<'_>,
    client: IpAddr,
) -> ExplainedLimit {
    let parts: Result<Vec<_>, _> = rule.key.iter().map(|part| part.describe(head, client)).collect();
    let (mut key, uncounted) = match parts {
        Ok(key) => (key, None),
        Err(absent) => (Vec::new(), Some(format!("the request has no {absent}"))),
    };
    if policy.per_route {
        key.insert(0, format!("route {whose}"));
    }
    ExplainedLimit {
        policy: policy.resource.clone(),
        rule: rule.name.to_string(),
        enforced: policy.enforced,
        cost: rule.cost(head.headers),
        requests: rule.rate.requests,
        per: rule.rate.per,
        burst: rule.rate.burst,
        key,
        destination: destination.map(str::to_owned),
        uncounted,
    }
}

fn faults(route: &Route) -> Vec<String> {
    let Some(fault) = &route.fault else { return Vec::new() };
    let delay = fault.delay.map(|(share, time)| format!("{}% of requests are delayed by {time:?}", share.percent()));
    let abort = fault.abort.map(|(share, abort)| match abort {
        Abort::Http(status) => format!("{}% of requests are answered {}", share.percent(), status.as_u16()),
        Abort::Grpc(status) => format!("{}% of requests are answered with gRPC status {status}", share.percent()),
    });
    delay.into_iter().chain(abort).collect()
}

fn crossing(verdict: &CorsVerdict) -> &'static str {
    match verdict {
        CorsVerdict::Indifferent => "not of an allowed origin, so the request goes on as it is",
        CorsVerdict::Preflight { allowed: Some(_) } => "a preflight, answered here with what is allowed",
        CorsVerdict::Preflight { allowed: None } => "a preflight, answered here without leave",
        CorsVerdict::Allowed(_) => "the response says that this origin may read it",
    }
}

fn retries(retry: &RetryPolicy) -> ExplainedRetries {
    ExplainedRetries {
        attempts: retry.attempts,
        per_try_timeout: retry.per_try_timeout,
        on: retry.conditions(),
        default: *retry == *RetryPolicy::mesh_default(),
    }
}

fn mirror(table: &RouteTable, mirror: Mirror) -> ExplainedMirror {
    ExplainedMirror {
        cluster: table.cluster(mirror.cluster).map(|cluster| cluster.name.to_string()),
        percent: mirror.fraction.percent(),
    }
}

fn outcome(table: &RouteTable, route: &Route, head: &RequestHead<'_>) -> Outcome {
    match &route.action {
        Action::Forward(forward) => Outcome::Forward {
            destinations: forward.destinations.iter().map(|to| destination(table, forward, to)).collect(),
            path: route.rewrite_path(head.path),
            timeout: forward.timeout,
            retries: forward.retry.as_deref().map(|retry| Box::new(retries(retry))),
            mirrors: forward.mirrors.iter().map(|mirror| self::mirror(table, *mirror)).collect(),
            max_request_body: forward.max_request_body,
        },
        Action::Redirect(redirect) => Outcome::Redirect {
            status: redirect.status.as_u16(),
            location: route.location(redirect, head),
            response_headers: operations(std::slice::from_ref(&redirect.response_headers)),
        },
        Action::Direct(direct) => Outcome::Direct {
            status: direct.status.as_u16(),
            body_length: direct.body.len(),
            response_headers: operations(std::slice::from_ref(&direct.response_headers)),
        },
    }
}

fn destination(table: &RouteTable, forward: &Forward, destination: &Destination) -> ExplainedDestination {
    let single = forward.destinations.len() == 1;
    let percent =
        if single { 100.0 } else { f64::from(destination.weight) * 100.0 / forward.total_weight.max(1) as f64 };
    ExplainedDestination {
        cluster: table.cluster(destination.cluster).map(|cluster| cluster.name.to_string()),
        percent,
        tunnel: None,
        authority: destination.authority.as_ref().map(ToString::to_string),
        request_headers: operations(&destination.request_headers),
        response_headers: operations(&destination.response_headers),
    }
}

fn operations(evaluations: &[HeaderOps]) -> Vec<HeaderOperation> {
    let mut list = Vec::new();
    for ops in evaluations {
        let mut push = |operation, name: &HeaderName, value: Option<String>| {
            list.push(HeaderOperation { operation, name: name.to_string(), value });
        };
        ops.remove.iter().for_each(|name| push(Operation::Remove, name, None));
        ops.set.iter().for_each(|(name, value)| push(Operation::Set, name, Some(value.to_string())));
        ops.add.iter().for_each(|(name, value)| push(Operation::Add, name, Some(value.to_string())));
    }
    list
}
