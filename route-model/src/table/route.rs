//! One route: what it takes and what becomes of a request that it takes.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::RequestHead;
use super::cluster::ClusterId;
use super::fault::{Fault, Fraction};
use super::headers::{HeaderOps, ValueTemplate};
use super::redirect::Redirect;
use super::retry::RetryPolicy;
use crate::field::FieldPath;
use crate::kind::Kind;
use crate::matching::{Predicates, UriMatch};
use crate::meta::ResourceKey;
use crate::verdict::cors::Cors;
use crate::verdict::limits::RouteLimits;

/// One entry of a virtual host's list: a match entry of a VirtualService rule and the rule's action.
#[derive(Clone, Debug)]
pub struct Route {
    /// Access log `%ROUTE_NAME%`: `http[].name`, and the match's name after a dot; empty if neither is given.
    pub name: Arc<str>,
    /// Apart from what requests look at, so that a route takes few cache lines.
    pub origin: Box<RouteOrigin>,
    /// The Gateway that it takes requests of.
    pub gateway: Option<Arc<ResourceKey>>,
    pub(crate) uri: UriMatch,
    pub(crate) predicates: Predicates,
    pub fault: Option<Box<Fault>>,
    pub cors: Option<Box<Cors>>,
    /// The rate limits that its requests are under.
    pub limits: Option<Arc<RouteLimits>>,
    /// `match[].statPrefix`: what its requests are counted under beside the service they go to.
    pub stat_prefix: Option<Arc<str>>,
    pub action: Action,
}

impl Route {
    pub fn new(name: Arc<str>, origin: RouteOrigin, uri: UriMatch, predicates: Predicates, action: Action) -> Self {
        let origin = Box::new(origin);
        let (fault, cors, limits, stat_prefix) = (None, None, None, None);
        Self { name, origin, gateway: None, uri, predicates, fault, cors, limits, stat_prefix, action }
    }

    /// The response operations for replies that the proxy makes for this route.
    pub fn reply_headers(&self) -> &HeaderOps {
        match &self.action {
            Action::Forward(forward) => &forward.local_reply_headers,
            Action::Redirect(redirect) => &redirect.response_headers,
            Action::Direct(direct) => &direct.response_headers,
        }
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
        let mut rewritten = match forward.path_rewrite.as_ref()? {
            PathRewrite::Uri(to) => [to, self.uri.rest(path)].concat(),
            PathRewrite::Regex { pattern, replacement } => {
                let rewritten = pattern.replace_all(path.as_bytes(), replacement.as_bytes());
                String::from_utf8_lossy(&rewritten).into_owned()
            }
        };
        // Anything else is no request target.
        if !rewritten.starts_with('/') {
            rewritten.insert(0, '/');
        }
        Some(rewritten)
    }

    /// The `location` that a redirect of this route answers a request with.
    pub fn location(&self, redirect: &Redirect, head: &RequestHead<'_>) -> String {
        redirect.location(&self.uri, head)
    }
}

/// Where a route was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteOrigin {
    /// For a route of a sidecar that nobody wrote the resource because of which it is there: the ServiceEntry of the
    /// service, or what says where requests to unknown hosts go.
    pub virtual_service: ResourceKey,
    /// Index in `spec.http`.
    pub rule: usize,
    /// Index in `spec.http[rule].match`; `None` for a rule without matches.
    pub match_index: Option<usize>,
    /// The delegate and the rule in it, when the rule came from one.
    pub delegate: Option<(ResourceKey, usize)>,
}

impl RouteOrigin {
    /// The resource whose field the rule is, which is the delegate if it came from one, and its place in that.
    pub fn place(&self) -> (&ResourceKey, FieldPath) {
        let (resource, rule) = match &self.delegate {
            Some((delegate, rule)) => (delegate, *rule),
            None => (&self.virtual_service, self.rule),
        };
        if resource.kind != Kind::VirtualService {
            return (resource, FieldPath::new("spec"));
        }
        let rule = FieldPath::new("spec").field("http").index(rule);
        (resource, self.match_index.map_or_else(|| rule.clone(), |index| rule.field("match").index(index)))
    }
}

/// Routes that do the same may share it: what they have in common then stays in the processor's caches.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Forward(Arc<Forward>),
    Redirect(Arc<Redirect>),
    Direct(Arc<DirectResponse>),
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
    /// `None`: a request is tried once.
    pub retry: Option<Arc<RetryPolicy>>,
    pub mirrors: Box<[Mirror]>,
    /// How long a request's body may be, in bytes; a longer one is answered 413. `None`: as long as it likes.
    pub max_request_body: Option<u64>,
    /// What a reply made by the proxy for this route (503, 504 …) gets: the route's own response operations.
    pub local_reply_headers: HeaderOps,
}

/// A destination of copies of requests, whose answers nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub cluster: ClusterId,
    pub fraction: Fraction,
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

#[derive(Clone, Debug, PartialEq)]
pub struct DirectResponse {
    /// 200–599.
    pub status: StatusCode,
    pub body: bytes::Bytes,
    /// `text/plain` if there is a body.
    pub content_type: Option<HeaderValue>,
    pub response_headers: HeaderOps,
}
