//! Why a request ends where it ends.
//!
//! The verdicts come out of the matcher that requests run on: this room only asks it rule by rule and puts the answers
//! into words.

mod request;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

pub use self::request::{ExplainRequest, RequestError};
use crate::field::FieldPath;
use crate::meta::{ResourceKey, Revision};
use crate::table::headers::HeaderOps;
use crate::table::redirect::https_location;
use crate::table::route::{Action, Destination, Forward, RouteOrigin};
use crate::table::{
    HttpRoutes, Listener, ListenerProtocol, Lookup, RequestHead, Route, RouteTable, ServerRef, VirtualHost,
};

/// Up to so many rules of a host are all listed; of more only those whose path can fit.
const MAX_LISTED: usize = 200;

/// Where a request comes in.
#[derive(Clone, Copy, Debug)]
pub struct Entrance<'a> {
    /// As written in the Gateway.
    pub port: u16,
    /// `None`: the first listener of the port.
    pub bind: Option<IpAddr>,
    /// The SNI of a TLS connection. `None`: the request's host, as browsers send it.
    pub sni: Option<&'a str>,
}

/// What becomes of a request and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub revision: Revision,
    /// As Istio names the route configuration: `http.80`. `None` if no listener or no TLS server takes the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<String>,
    /// The Gateway servers that lead there: `Gateway default/edge servers[0]`.
    pub servers: Vec<String>,
    /// The virtual host that takes the request's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The rules that were looked at, in order, up to the one that took the request.
    pub rules: Vec<RuleVerdict>,
    /// How many rules before that are not listed, as their path cannot fit.
    pub skipped: usize,
    pub outcome: Outcome,
}

/// What one rule said.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleVerdict {
    /// Position in the host's list.
    pub position: usize,
    /// The resource that the rule is written in: the delegate, if it came from one.
    pub resource: ResourceKey,
    pub path: FieldPath,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: String,
    /// The first predicate that does not hold, in words. `None`: the rule takes the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The fate of a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Outcome {
    #[serde(rename_all = "camelCase")]
    Forward {
        destinations: Vec<ExplainedDestination>,
        /// The path that goes upstream, where it is rewritten.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// `None`: no limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout: Option<Duration>,
    },
    #[serde(rename_all = "camelCase")]
    Redirect { status: u16, location: String, response_headers: Vec<HeaderOperation> },
    #[serde(rename_all = "camelCase")]
    Direct { status: u16, body_length: usize, response_headers: Vec<HeaderOperation> },
    /// 301: the server redirects plain HTTP to https.
    HttpsRedirect { location: String },
    /// The request is answered with an error, or its connection is not accepted.
    #[serde(rename_all = "camelCase")]
    Refused {
        /// 404; `None` if there is no HTTP answer at all.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        reason: String,
    },
}

/// A destination with what is done on the way to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedDestination {
    /// `None`: the service, port or subset does not exist, requests are answered 503 NC.
    pub cluster: Option<String>,
    /// The share of requests, in percent.
    pub percent: f64,
    /// What replaces Host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    pub request_headers: Vec<HeaderOperation>,
    pub response_headers: Vec<HeaderOperation>,
}

/// One header operation; they run in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderOperation {
    /// `remove`, `set` or `add`.
    pub operation: &'static str,
    pub name: String,
    /// As written, with its formatters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Explains what becomes of a request that comes in at `entrance`.
pub fn explain(table: &RouteTable, entrance: Entrance<'_>, head: &RequestHead<'_>) -> Explanation {
    let mut explanation = Explanation {
        revision: table.revision,
        routes: None,
        servers: Vec::new(),
        host: None,
        rules: Vec::new(),
        skipped: 0,
        outcome: Outcome::Refused { status: None, reason: String::new() },
    };
    explanation.outcome = match find_routes(table, entrance, head) {
        Err(reason) => Outcome::Refused { status: None, reason },
        Ok((routes, servers)) => {
            explanation.routes = Some(routes.name.to_string());
            explanation.servers =
                servers.iter().map(|server| format!("{} servers[{}]", server.gateway, server.index)).collect();
            explain_routes(table, routes, head, &mut explanation)
        }
    };
    explanation
}

fn find_routes<'t>(
    table: &'t RouteTable,
    entrance: Entrance<'_>,
    head: &RequestHead<'_>,
) -> Result<(&'t HttpRoutes, Vec<&'t ServerRef>), String> {
    let fits = |listener: &&std::sync::Arc<Listener>| {
        listener.port == entrance.port && entrance.bind.is_none_or(|bind| listener.bind == Some(bind))
    };
    let Some(listener) = table.listeners.iter().find(fits) else {
        let ports: Vec<_> = table.listeners.iter().map(|listener| listener.port.to_string()).collect();
        let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
        return Err(format!("nothing listens on port {}; ports with a Gateway server: {ports}", entrance.port));
    };
    match &listener.protocol {
        ListenerProtocol::Http(routes) => Ok((routes, listener.servers.iter().collect())),
        ListenerProtocol::Tls(tls) => {
            let sni = entrance.sni.unwrap_or_else(|| crate::table::host::without_port(head.authority));
            let server = tls.by_sni.find_sni(Some(sni)).and_then(|index| tls.servers.get(*index as usize));
            let server = server.ok_or_else(|| {
                format!("no TLS server of port {} has the host `{sni}`, so the handshake fails", entrance.port)
            })?;
            Ok((&server.routes, vec![&server.server]))
        }
    }
}

fn explain_routes(
    table: &RouteTable,
    routes: &HttpRoutes,
    head: &RequestHead<'_>,
    explanation: &mut Explanation,
) -> Outcome {
    let not_found = |reason: String| Outcome::Refused { status: Some(404), reason };
    match routes.lookup(head) {
        Lookup::NoHost => not_found(format!("no VirtualService or redirect of {} has the request's host", routes.name)),
        Lookup::HttpsRedirect(host) => {
            explanation.host = Some(host.domain.to_string());
            Outcome::HttpsRedirect { location: https_location(head) }
        }
        Lookup::NoRoute(host) => {
            explanation.host = Some(host.domain.to_string());
            list_rules(host, head, None, explanation);
            not_found(format!("none of the {} rules of host `{}` takes the request", host.routes().len(), host.domain))
        }
        Lookup::Route(host, route) => {
            explanation.host = Some(host.domain.to_string());
            list_rules(host, head, Some(route), explanation);
            outcome(table, route, head)
        }
    }
}

fn list_rules(host: &VirtualHost, head: &RequestHead<'_>, winner: Option<&Route>, explanation: &mut Explanation) {
    let routes = host.routes();
    let end =
        winner.and_then(|winner| routes.iter().position(|route| std::ptr::eq(std::sync::Arc::as_ptr(route), winner)));
    let looked_at = end.map_or(routes.len(), |end| end + 1);
    let positions: Vec<usize> = if looked_at <= MAX_LISTED {
        (0..looked_at).collect()
    } else {
        host.candidates(head.path).into_iter().take_while(|position| *position < looked_at).collect()
    };
    explanation.skipped = looked_at - positions.len();
    for position in positions {
        let route = &routes[position];
        let (resource, path) = place(&route.origin);
        let failure = route.failure(head);
        explanation.rules.push(RuleVerdict { position, resource, path, name: route.name.to_string(), failure });
    }
}

fn place(origin: &RouteOrigin) -> (ResourceKey, FieldPath) {
    let (resource, rule) = match &origin.delegate {
        Some((key, rule)) => (key, *rule),
        None => (&origin.virtual_service, origin.rule),
    };
    let rule = FieldPath::new("spec").field("http").index(rule);
    (resource.clone(), origin.match_index.map_or_else(|| rule.clone(), |index| rule.field("match").index(index)))
}

fn outcome(table: &RouteTable, route: &Route, head: &RequestHead<'_>) -> Outcome {
    match &route.action {
        Action::Forward(forward) => Outcome::Forward {
            destinations: forward.destinations.iter().map(|to| destination(table, forward, to)).collect(),
            path: route.rewrite_path(head.path),
            timeout: forward.timeout,
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
        authority: destination.authority.as_ref().map(ToString::to_string),
        request_headers: operations(&destination.request_headers),
        response_headers: operations(&destination.response_headers),
    }
}

fn operations(evaluations: &[HeaderOps]) -> Vec<HeaderOperation> {
    let mut list = Vec::new();
    for ops in evaluations {
        let mut push = |operation, name: &http::HeaderName, value: Option<String>| {
            list.push(HeaderOperation { operation, name: name.to_string(), value });
        };
        ops.remove.iter().for_each(|name| push("remove", name, None));
        ops.set.iter().for_each(|(name, value)| push("set", name, Some(value.to_string())));
        ops.add.iter().for_each(|(name, value)| push("add", name, Some(value.to_string())));
    }
    list
}

/// For a terminal: one line a step, the verdict last.
impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = format!("revision {}\n", self.revision);
        if let Some(routes) = &self.routes {
            let _ = writeln!(text, "routes   {routes} ({})", self.servers.join(", "));
        }
        if let Some(host) = &self.host {
            let _ = writeln!(text, "host     {host}");
        }
        if self.skipped > 0 {
            let _ = writeln!(text, "         {} rules are not listed, as their path cannot fit", self.skipped);
        }
        for rule in &self.rules {
            let name = if rule.name.is_empty() { String::new() } else { format!(" `{}`", rule.name) };
            let verdict = rule.failure.as_deref().unwrap_or("takes the request");
            let sign = if rule.failure.is_some() { "no " } else { "yes" };
            let _ = writeln!(text, "rule {sign} {}{name} of {}: {verdict}", rule.path, rule.resource);
        }
        self.outcome.write(&mut text);
        f.write_str(text.trim_end())
    }
}

impl Outcome {
    fn write(&self, text: &mut String) {
        let headers = |text: &mut String, direction: &str, list: &[HeaderOperation]| {
            for HeaderOperation { operation, name, value } in list {
                let value = value.as_ref().map_or_else(String::new, |value| format!(": {value}"));
                let _ = writeln!(text, "  {direction} header {operation} {name}{value}");
            }
        };
        match self {
            Self::Forward { destinations, path, timeout } => {
                for to in destinations {
                    let cluster =
                        to.cluster.as_deref().unwrap_or("nowhere: the service, port or subset does not exist (503 NC)");
                    let _ = writeln!(text, "=> {:.1}% to {cluster}", to.percent);
                    if let Some(authority) = &to.authority {
                        let _ = writeln!(text, "  host becomes {authority}");
                    }
                    headers(text, "request", &to.request_headers);
                    headers(text, "response", &to.response_headers);
                }
                if let Some(path) = path {
                    let _ = writeln!(text, "  path becomes {path}");
                }
                if let Some(timeout) = timeout {
                    let _ = writeln!(text, "  timeout {timeout:?}");
                }
            }
            Self::Redirect { status, location, response_headers } => {
                let _ = writeln!(text, "=> {status} redirect to {location}");
                headers(text, "response", response_headers);
            }
            Self::Direct { status, body_length, response_headers } => {
                let _ = writeln!(text, "=> {status} direct response of {body_length} bytes");
                headers(text, "response", response_headers);
            }
            Self::HttpsRedirect { location } => {
                let _ = writeln!(text, "=> 301 redirect to {location}, as the server's httpsRedirect says");
            }
            Self::Refused { status, reason } => {
                let status = status.map_or_else(String::new, |status| format!("{status} "));
                let _ = writeln!(text, "=> {status}{reason}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
