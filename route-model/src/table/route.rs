//! One route: what it takes and what becomes of a request that it takes.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::RequestHead;
use super::cluster::ClusterId;
use super::headers::{HeaderOps, ValueTemplate};
use crate::matching::{Predicates, UriMatch};
use crate::meta::ResourceKey;

/// One entry of a virtual host's list: a match entry of a VirtualService rule and the rule's action.
#[derive(Clone, Debug)]
pub struct Route {
    /// Access log `%ROUTE_NAME%`: `http[].name`, and the match's name after a dot; empty if neither is given.
    pub name: Arc<str>,
    pub origin: RouteOrigin,
    pub(crate) uri: UriMatch,
    pub(crate) predicates: Predicates,
    pub action: Action,
}

impl Route {
    pub fn new(name: Arc<str>, origin: RouteOrigin, uri: UriMatch, predicates: Predicates, action: Action) -> Self {
        Self { name, origin, uri, predicates, action }
    }

    /// Why the route does not take a request: the first predicate that does not hold, in words. `None`: it takes it.
    pub fn failure(&self, head: &RequestHead<'_>) -> Option<String> {
        if !self.uri.is_match(head.path) {
            return Some(self.uri.failure(head.path));
        }
        self.predicates.first_failure(head).map(|predicate| predicate.failure(head))
    }

    /// The path, without the query, that a request for `path` goes upstream with; `None` if it goes as it is.
    pub fn rewrite_path(&self, path: &str) -> Option<String> {
        let Action::Forward(forward) = &self.action else { return None };
        Some(match forward.path_rewrite.as_ref()? {
            PathRewrite::Uri(to) => self.replace_matched(path, to),
            PathRewrite::Regex { pattern, replacement } => {
                let rewritten = pattern.replace_all(path.as_bytes(), replacement.as_bytes());
                String::from_utf8_lossy(&rewritten).into_owned()
            }
        })
    }

    /// The path, without the query, that a redirect of a request for `path` leads to.
    pub fn redirect_path(&self, redirect: &Redirect, path: &str) -> String {
        match &redirect.path {
            RedirectPath::Keep => path.to_owned(),
            RedirectPath::Full(to) => to.to_string(),
            RedirectPath::Prefix(to) => self.replace_matched(path, to),
        }
    }

    fn replace_matched(&self, path: &str, to: &str) -> String {
        // A matched prefix ends at a character boundary, and paths are ASCII anyway.
        let rest = path.get(self.uri.replaced_length(path)..).unwrap_or_default();
        [to, rest].concat()
    }
}

/// Where a route was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteOrigin {
    pub virtual_service: ResourceKey,
    /// Index in `spec.http`.
    pub rule: usize,
    /// Index in `spec.http[rule].match`; `None` for a rule without matches.
    pub match_index: Option<usize>,
    /// The delegate and the rule in it, when the rule came from one.
    pub delegate: Option<(ResourceKey, usize)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    Direct(Box<DirectResponse>),
}

/// Sending the request on.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// At least one; without those of weight 0 where there are several.
    pub destinations: Box<[Destination]>,
    /// The sum of all weights; meaningless for a single destination, which takes everything.
    pub total_weight: u64,
    pub path_rewrite: Option<PathRewrite>,
    /// From the end of the request to the end of the response, all attempts included. `None`: no limit.
    pub timeout: Option<Duration>,
    /// What a reply made by the proxy for this route (503, 504 …) gets: the route's own response operations.
    pub local_reply_headers: HeaderOps,
}

/// One weighted destination with its header operations ready to run: the list holds one evaluation, or for several
/// destinations the destination's and then the route's, as Envoy runs them.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    pub cluster: ClusterId,
    pub weight: u32,
    /// Replaces Host / `:authority`: `rewrite.authority`, else the route's, else the destination's header operation.
    pub authority: Option<ValueTemplate>,
    pub request_headers: Box<[HeaderOps]>,
    pub response_headers: Box<[HeaderOps]>,
}

/// How the path changes on its way upstream; [`Route::rewrite_path`] does it. The proxy sets `x-envoy-original-path`.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// `rewrite.uri`: the matched prefix, or with an exact or regex match the whole path, becomes this.
    Uri(Box<str>),
    /// `uriRegexRewrite`: RE2 global replace on the path without the query.
    Regex { pattern: regex::bytes::Regex, replacement: Box<str> },
}

/// Compared by what was written, as a compiled pattern has no equality.
impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Uri(a), Self::Uri(b)) => a == b,
            (Self::Regex { pattern: a, replacement: x }, Self::Regex { pattern: b, replacement: y }) => {
                a.as_str() == b.as_str() && x == y
            }
            _ => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    pub scheme: Option<Box<str>>,
    pub authority: Option<Box<str>>,
    pub port: RedirectPort,
    pub path: RedirectPath,
    pub response_headers: HeaderOps,
}

impl Eq for HeaderOps {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// Neither `port` nor `derivePort`: the Host's port stays, unless a scheme change drops its default.
    Keep,
    Number(u16),
    /// `FROM_PROTOCOL_DEFAULT`.
    ProtocolDefault,
    /// `FROM_REQUEST_PORT`: the listener's (Gateway) port.
    Request,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    Keep,
    /// Replaces the whole path.
    Full(Box<str>),
    /// Replaces the matched prefix.
    Prefix(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200–599.
    pub status: StatusCode,
    pub body: bytes::Bytes,
    /// `text/plain` if there is a body.
    pub content_type: Option<HeaderValue>,
    pub response_headers: HeaderOps,
}
