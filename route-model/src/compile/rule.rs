//! From one rule of a VirtualService to routes.

use std::fmt;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use smallvec::SmallVec;

use super::delegate::Rule;
use super::finding::{Finding, Severity};
use super::headers::{BadOperation, Level, evaluations};
use super::matches::{MatchScope, is_catch_all, predicates};
use super::names::{is_short, qualify_host};
use super::targets::{Target, TargetPort, Targets};
use super::traffic;
use crate::field::FieldPath;
use crate::kinds::TextDuration;
use crate::kinds::virtual_service::{
    self, DirectResponse, HttpDestination, HttpMatch, HttpRoute, Redirect, RedirectPortSelection,
};
use crate::matching::regex;
use crate::meta::ResourceKey;
use crate::table::fault::Fault;
use crate::table::headers::{HeaderOps, ValueTemplate};
use crate::table::redirect::RedirectPath;
use crate::table::route::{self, Action, Destination, Forward, PathRewrite, Route, RouteOrigin};
use crate::table::{self, ClusterId};
use crate::verdict::cors::Cors;
use crate::verdict::limits::RouteLimits;

/// What a rule is compiled for.
#[derive(Clone, Copy, Debug)]
pub(super) struct RuleScope<'a> {
    pub(super) matches: MatchScope<'a>,
    /// The listener terminates TLS.
    pub(super) tls: bool,
    pub(super) gateway: &'a Option<Arc<ResourceKey>>,
    /// What BackendPolicies say of the rule.
    pub(super) max_request_body: Option<u64>,
}

/// One rule's routes.
#[derive(Debug, Default)]
pub(super) struct CompiledRule {
    pub(super) routes: SmallVec<[CompiledRoute; 1]>,
    pub(super) targets: SmallVec<[TargetUse; 1]>,
    /// The rule takes everything: Istio emits nothing that follows it in the same VirtualService.
    pub(super) ends: bool,
    pub(super) findings: Vec<Finding>,
    pub(super) limits: Option<Arc<RouteLimits>>,
    pub(super) max_request_body: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct CompiledRoute {
    pub(super) route: Arc<Route>,
    pub(super) catch_all: bool,
}

/// That a rule names a target, and where.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TargetUse {
    pub(super) id: ClusterId,
    pub(super) field: TargetField,
}

/// The field of a rule that names a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetField {
    /// `route[i].destination`.
    Route(usize),
    Mirror,
    /// `mirrors[i].destination`.
    Mirrors(usize),
}

impl fmt::Display for TargetField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(index) => write!(f, "route[{index}].destination"),
            Self::Mirror => f.write_str("mirror"),
            Self::Mirrors(index) => write!(f, "mirrors[{index}].destination"),
        }
    }
}

/// Why a rule has no action: the field below the rule, a reason, and a sentence.
pub(super) struct Refused {
    pub(super) field: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Refused {
    pub(super) fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { field: field.into(), reason, message: message.into() }
    }

    fn operation(prefix: &str, bad: BadOperation) -> Self {
        Self::new(format!("{prefix}headers.{}", bad.field), "InvalidHeaderOperation", bad.message)
    }

    fn finding(self, rule: &Rule<'_>, root: &ResourceKey) -> Finding {
        let (resource, place) = rule.place(root);
        Finding {
            resource,
            path: FieldPath::new(&format!("{place}.{}", self.field)),
            severity: Severity::Rejected,
            reason: self.reason,
            message: format!("{}; the rule is left out", self.message),
        }
    }
}

/// Compiles a rule. What cannot be in force is left out with a finding; validation keeps such rules from being
/// stored, so this is for sets that came another way. An action like that of the `previous` rule is shared with it.
pub(super) fn compile_rule(
    rule: &Rule<'_>,
    root: &ResourceKey,
    scope: &RuleScope<'_>,
    limits: Option<Arc<RouteLimits>>,
    previous: Option<&CompiledRule>,
    targets: &mut Targets,
) -> CompiledRule {
    let mut compiled = CompiledRule { limits, max_request_body: scope.max_request_body, ..CompiledRule::default() };
    let entries: SmallVec<[(Option<usize>, Option<&HttpMatch>); 4]> = if rule.http.r#match.is_empty() {
        compiled.ends = true;
        SmallVec::from_elem((None, None), 1)
    } else {
        let admitted = rule.http.r#match.iter().enumerate();
        admitted
            .filter(|(_, entry)| scope.matches.admits(entry, rule.namespace))
            .map(|(i, entry)| (Some(i), Some(entry)))
            .collect()
    };
    if entries.is_empty() {
        return compiled;
    }
    let (fault, cors, mut action) = match plan(rule, scope, targets, &mut compiled.targets) {
        Ok(plan) => plan,
        Err(refused) => {
            compiled.findings.push(refused.finding(rule, root));
            return compiled;
        }
    };
    if let Some(known) = previous.and_then(|rule| rule.routes.first())
        && known.route.action == action
    {
        action = known.route.action.clone();
    }
    for (index, entry) in entries {
        let (uri, predicates) = match predicates(entry) {
            Ok(predicates) => predicates,
            Err(bad) => {
                let field = format!("match[{}].{}", index.unwrap_or_default(), bad.field);
                compiled.findings.push(Refused::new(field, "InvalidRegex", bad.error.to_string()).finding(rule, root));
                continue;
            }
        };
        let match_name = entry.map_or("", |entry| entry.name.as_str());
        let written_at = |index: usize| rule.match_indexes.as_ref().map_or(index, |indexes| indexes[index]);
        let catch_all = is_catch_all(&uri, &predicates);
        let route = Route {
            name: if match_name.is_empty() {
                rule.http.name.as_str().into()
            } else {
                format!("{}.{match_name}", *rule.http.name).into()
            },
            origin: Box::new(RouteOrigin {
                virtual_service: root.clone(),
                rule: rule.index,
                match_index: index.map(written_at),
                delegate: rule.delegate.clone(),
            }),
            gateway: scope.gateway.clone(),
            uri,
            predicates,
            fault: fault.clone(),
            cors: cors.clone(),
            limits: compiled.limits.clone(),
            stat_prefix: entry.map(|entry| entry.stat_prefix.as_str()).filter(|text| !text.is_empty()).map(Arc::from),
            action: action.clone(),
        };
        compiled.routes.push(CompiledRoute { route: Arc::new(route), catch_all });
        if catch_all {
            compiled.ends = true;
            break;
        }
    }
    compiled
}

type Plan = (Option<Box<Fault>>, Option<Box<Cors>>, Action);

fn plan(
    rule: &Rule<'_>,
    scope: &RuleScope<'_>,
    targets: &mut Targets,
    uses: &mut SmallVec<[TargetUse; 1]>,
) -> Result<Plan, Refused> {
    let (fault, cors) = (traffic::fault(&rule.http)?, traffic::cors(&rule.http)?);
    Ok((fault, cors, action(rule, scope, targets, uses)?))
}

fn action(
    rule: &Rule<'_>,
    scope: &RuleScope<'_>,
    targets: &mut Targets,
    uses: &mut SmallVec<[TargetUse; 1]>,
) -> Result<Action, Refused> {
    let http = &*rule.http;
    let level = Level::new(http.headers.as_deref()).map_err(|bad| Refused::operation("", bad))?;
    if let Some(redirect) = &http.redirect {
        return self::redirect(redirect, scope, level.response).map(|redirect| Action::Redirect(Arc::new(redirect)));
    }
    if let Some(direct) = &http.direct_response {
        return self::direct(direct, level.response).map(|direct| Action::Direct(Arc::new(direct)));
    }
    forward(http, rule.namespace, &level, scope, targets, uses).map(|forward| Action::Forward(Arc::new(forward)))
}

fn forward(
    http: &HttpRoute,
    namespace: &str,
    level: &Level,
    scope: &RuleScope<'_>,
    targets: &mut Targets,
    uses: &mut SmallVec<[TargetUse; 1]>,
) -> Result<Forward, Refused> {
    let routes: &[HttpDestination] = &http.route;
    // A single destination takes everything whatever its weight; of several, those of weight 0 take nothing.
    let single = routes.len() == 1;
    let live = |route: &HttpDestination| single || *route.weight > 0;
    if !routes.iter().any(live) {
        let message = "the rule has no destination with a weight above 0; give it a destination, a redirect or a \
                       directResponse";
        return Err(Refused::new("route", "NoDestination", message));
    }
    // Before anything is numbered, so that a refused rule numbers nothing.
    let path_rewrite = path_rewrite(http)?;
    let written_authority = http.rewrite.as_ref().map(|rewrite| rewrite.authority.as_str()).filter(|a| !a.is_empty());
    let rewrite_authority = written_authority
        .map(|authority| {
            let message = "the authority is no legal Host; remove control characters";
            ValueTemplate::literal(authority)
                .ok_or_else(|| Refused::new("rewrite.authority", "InvalidAuthority", message))
        })
        .transpose()?;
    let mut planned = SmallVec::<[(usize, Target, Level, u32); 2]>::new();
    for (index, route) in routes.iter().enumerate().filter(|(_, route)| live(route)) {
        let inner =
            Level::new(route.headers.as_deref()).map_err(|bad| Refused::operation(&format!("route[{index}]."), bad))?;
        let target = target(route.destination.as_ref(), TargetField::Route(index), namespace, scope)?;
        planned.push((index, target, inner, (*route.weight).max(0) as u32));
    }
    let planned_mirrors = traffic::planned_mirrors(http, namespace, scope)?;
    let mut local_reply_headers = level.response.clone();
    let mut destinations = Vec::with_capacity(planned.len());
    for (index, target, inner, weight) in planned {
        let cluster = targets.intern(target);
        uses.push(TargetUse { id: cluster, field: TargetField::Route(index) });
        let (request_headers, response_headers, authority);
        if single {
            // Istio puts both levels into one evaluation, the destination's last.
            let both = level.with(&inner);
            request_headers = evaluations([&both.request]);
            response_headers = evaluations([&both.response]);
            authority = both.authority;
            local_reply_headers = both.response;
        } else {
            // Envoy evaluates the destination's, then the route's.
            request_headers = evaluations([&inner.request, &level.request]);
            response_headers = evaluations([&inner.response, &level.response]);
            authority = level.authority.clone().or(inner.authority);
        }
        let authority = rewrite_authority.clone().or(authority);
        destinations.push(Destination { cluster, weight, authority, request_headers, response_headers });
    }
    Ok(Forward {
        total_weight: destinations.iter().map(|destination| u64::from(destination.weight)).sum(),
        destinations: destinations.into(),
        path_rewrite,
        timeout: http.timeout.as_ref().map(TextDuration::get).filter(|timeout| !timeout.is_zero()),
        retry: traffic::retries(http),
        mirrors: traffic::mirrors(planned_mirrors, targets, uses),
        max_request_body: scope.max_request_body,
        local_reply_headers,
    })
}

pub(super) fn target(
    destination: Option<&virtual_service::Destination>,
    written: TargetField,
    namespace: &str,
    scope: &RuleScope<'_>,
) -> Result<Target, Refused> {
    let field = |name: &str| format!("{written}.{name}");
    let Some(destination) = destination.filter(|destination| !destination.host.is_empty()) else {
        return Err(Refused::new(field("host"), "NoDestination", "a destination must name a host"));
    };
    let number = destination.port.as_ref().map_or(0, |port| *port.number);
    let port = match u16::try_from(number) {
        Ok(0) => TargetPort::Listener(scope.matches.port),
        Ok(number) => TargetPort::Number(number),
        Err(_) => return Err(Refused::new(field("port.number"), "InvalidPort", "a port is a number from 1 to 65535")),
    };
    Ok(Target {
        host: qualify_host(&destination.host, namespace),
        short: is_short(&destination.host),
        port,
        subset: (!destination.subset.is_empty()).then(|| destination.subset.as_str().into()),
        namespace: namespace.into(),
    })
}

fn path_rewrite(http: &HttpRoute) -> Result<Option<PathRewrite>, Refused> {
    let Some(rewrite) = &http.rewrite else { return Ok(None) };
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        let (pattern, replacement) = regex::rewrite(&regex.r#match, &regex.rewrite)
            .map_err(|error| Refused::new("rewrite.uriRegexRewrite", "InvalidRegex", error.to_string()))?;
        return Ok(Some(PathRewrite::Regex { pattern, replacement }));
    }
    Ok((!rewrite.uri.is_empty()).then(|| PathRewrite::Uri(rewrite.uri.as_str().into())))
}

fn redirect(
    redirect: &Redirect,
    scope: &RuleScope<'_>,
    response_headers: HeaderOps,
) -> Result<table::redirect::Redirect, Refused> {
    let code = if *redirect.redirect_code == 0 { 301 } else { *redirect.redirect_code };
    let status = match code {
        301 => StatusCode::MOVED_PERMANENTLY,
        302 => StatusCode::FOUND,
        303 => StatusCode::SEE_OTHER,
        307 => StatusCode::TEMPORARY_REDIRECT,
        308 => StatusCode::PERMANENT_REDIRECT,
        _ => {
            let message = format!("a redirect cannot answer {code}; use 301, 302, 303, 307 or 308");
            return Err(Refused::new("redirect.redirectCode", "InvalidRedirect", message));
        }
    };
    let text = |text: &str| (!text.is_empty()).then(|| text.into());
    let port = match (redirect.port.get(), redirect.derive_port.get()) {
        (Some(&port), _) if port != 0 => match u16::try_from(port) {
            Ok(port) => Some(port),
            Err(_) => {
                return Err(Refused::new("redirect.port", "InvalidPort", "a port is a number from 1 to 65535"));
            }
        },
        // A table is compiled for one listener, so that its port is known here.
        (_, Some(RedirectPortSelection::FromRequestPort)) => Some(scope.matches.port),
        // FROM_PROTOCOL_DEFAULT is what a redirect without a port does anyway.
        _ => None,
    };
    let scheme = match (redirect.scheme.as_str(), scope.tls) {
        ("", true) => "https",
        ("", false) => "http",
        (scheme, _) => scheme,
    };
    // Istio does not write the scheme's own port; one that stands in the Host is then kept.
    let port = port.filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
    Ok(table::redirect::Redirect {
        status,
        scheme: text(&redirect.scheme),
        authority: text(&redirect.authority),
        port,
        path: if !redirect.uri.is_empty() {
            RedirectPath::Full(redirect.uri.as_str().into())
        } else if !redirect.prefix_rewrite.is_empty() {
            RedirectPath::Prefix(redirect.prefix_rewrite.as_str().into())
        } else {
            RedirectPath::Keep
        },
        response_headers,
    })
}

fn direct(direct: &DirectResponse, response_headers: HeaderOps) -> Result<route::DirectResponse, Refused> {
    let status = u16::try_from(*direct.status).ok().filter(|status| (200..600).contains(status));
    let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) else {
        let message = format!("a direct response cannot answer {}; use 200 to 599", *direct.status);
        return Err(Refused::new("directResponse.status", "InvalidDirectResponse", message));
    };
    let body = direct.body.as_ref().map_or_else(bytes::Bytes::new, |body| match body.bytes.get() {
        Some(bytes) => bytes::Bytes::copy_from_slice(bytes),
        None => bytes::Bytes::copy_from_slice(body.string.as_bytes()),
    });
    let content_type = (!body.is_empty()).then(|| HeaderValue::from_static("text/plain"));
    Ok(route::DirectResponse { status, body, content_type, response_headers })
}
