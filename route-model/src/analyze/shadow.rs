//! Rules that never take a request, because an earlier one takes every request that they would.

use crate::compile::delegate::Rule;
use crate::compile::{Finding, Severity};
use crate::field::FieldPath;
use crate::matching::regex::Shape;
use crate::matching::{Predicate, Predicates, StringMatch, UriMatch, UriPattern, ValueMatch};
use crate::meta::ResourceKey;
use crate::table::route::RouteOrigin;
use crate::table::{Route, VirtualHost};

/// So many earlier routes are compared with each route. Beyond that a shadow may stay unseen.
const MAX_COMPARED: usize = 32;
/// So many findings a host.
const MAX_FINDINGS: usize = 100;

/// A finding for each route of a host that no request can reach.
pub(crate) fn findings(host: &VirtualHost) -> Vec<Finding> {
    let routes = host.routes();
    let shadowed = routes.iter().enumerate().filter_map(|(position, route)| {
        // Entries of one rule are alternatives; that one makes another superfluous is no surprise.
        let other_rule = |earlier: &RouteOrigin| {
            (&earlier.virtual_service, earlier.rule, &earlier.delegate)
                != (&route.origin.virtual_service, route.origin.rule, &route.origin.delegate)
        };
        let mut compared = 0;
        let mut shadow = None;
        host.scan_candidates(typical_path(&route.uri), |earlier| {
            if earlier >= position || compared == MAX_COMPARED || shadow.is_some() {
                return false;
            }
            compared += 1;
            let candidate = &routes[earlier];
            if other_rule(&candidate.origin)
                && takes_all_of(&candidate.uri, &route.uri)
                && follow_from(&candidate.predicates, &route.predicates)
            {
                shadow = Some(candidate);
            }
            true
        });
        Some(finding(host, route, shadow?))
    });
    shadowed.take(MAX_FINDINGS).collect()
}

/// A finding for each rule of a VirtualService that follows one that takes everything: it is not even emitted. `counts`
/// says for each binding how many rules are.
pub(crate) fn behind_catch_all(
    rules: &[Rule<'_>],
    root: &ResourceKey,
    counts: impl Iterator<Item = usize>,
) -> Vec<Finding> {
    // What one port or gateway leaves out, another may use.
    let Some(reached) = counts.max() else { return Vec::new() };
    let Some(last) = reached.checked_sub(1).and_then(|last| rules.get(last)) else { return Vec::new() };
    let (by, by_path) = last.place(root);
    let behind = rules.iter().skip(reached).take(MAX_FINDINGS);
    behind.map(|rule| shadowed(rule.place(root), "", &by, &by_path)).collect()
}

fn finding(host: &VirtualHost, route: &Route, shadow: &Route) -> Finding {
    let (resource, path) = route.origin.place();
    let (by, by_path) = shadow.origin.place();
    shadowed((resource.clone(), path), &format!(" for host `{}`", host.domain), by, &by_path)
}

/// `whose` says which of the requests.
fn shadowed((resource, path): (ResourceKey, FieldPath), whose: &str, by: &ResourceKey, by_path: &FieldPath) -> Finding {
    let of = if *by == resource { String::new() } else { format!(" of {by}") };
    Finding {
        resource,
        path,
        severity: Severity::Warning,
        reason: "RuleShadowed",
        message: format!(
            "never takes a request{whose}: {by_path}{of} comes first and takes all of them; move the narrower rule up \
             or remove it"
        ),
    }
}

/// A path that every route must match that takes all paths of `uri`.
fn typical_path(uri: &UriMatch) -> &str {
    match &uri.pattern {
        UriPattern::Exact(path) | UriPattern::Prefix(path) => path,
        UriPattern::Regex(regex) => match regex.shape() {
            Shape::Exact(path) | Shape::Prefix(path) => std::str::from_utf8(path).unwrap_or_default(),
            // What all of its texts begin with, as far as that is known.
            Shape::Other([prefix]) => std::str::from_utf8(prefix).unwrap_or_default(),
            Shape::Other(_) => "/",
        },
    }
}

/// Whether every path that `narrow` takes is taken by `wide`. False where that is hard to tell.
fn takes_all_of(wide: &UriMatch, narrow: &UriMatch) -> bool {
    let has_case = |text: &str| text.bytes().any(|b| b.is_ascii_alphabetic());
    // `narrow` may take a path in any case, `wide` in one only.
    let case_fits = |text: &str| wide.ignore_case || !narrow.ignore_case || !has_case(text);
    match (&wide.pattern, &narrow.pattern) {
        (UriPattern::Regex(wide), UriPattern::Regex(narrow)) if wide == narrow => true,
        (_, UriPattern::Exact(path)) | (UriPattern::Prefix(_), UriPattern::Prefix(path)) => {
            case_fits(path) && wide.is_match(path)
        }
        (UriPattern::Regex(regex), UriPattern::Prefix(path)) => {
            case_fits(path) && matches!(regex.shape(), Shape::Prefix(prefix) if path.as_bytes().starts_with(prefix))
        }
        (UriPattern::Prefix(prefix), UriPattern::Regex(regex)) => {
            let within =
                |text: &[u8]| std::str::from_utf8(text).is_ok_and(|text| wide.is_match(text)) || prefix.is_empty();
            match regex.shape() {
                Shape::Exact(path) | Shape::Prefix(path) => within(path),
                Shape::Other(prefixes) => prefixes.iter().all(|path| within(path)),
            }
        }
        _ => false,
    }
}

/// Whether `wide` holds wherever `narrow` does.
fn follow_from(wide: &Predicates, narrow: &Predicates) -> bool {
    wide.iter().all(|wanted| narrow.iter().any(|given| follows_from(wanted, given)))
}

fn follows_from(wanted: &Predicate, given: &Predicate) -> bool {
    if wanted == given {
        return true;
    }
    match (wanted, given) {
        (Predicate::Method(wanted), Predicate::Method(given))
        | (Predicate::Scheme(wanted), Predicate::Scheme(given))
        | (Predicate::Authority(wanted), Predicate::Authority(given)) => text_follows(wanted, given),
        (Predicate::Header(wanted), Predicate::Header(given)) => {
            wanted.field == given.field
                && !wanted.inverted
                && !given.inverted
                && value_follows(&wanted.value, &given.value)
        }
        (Predicate::Query(wanted), Predicate::Query(given)) => {
            wanted.key == given.key && value_follows(&wanted.value, &given.value)
        }
        _ => false,
    }
}

fn value_follows(wanted: &ValueMatch, given: &ValueMatch) -> bool {
    match (wanted, given) {
        (ValueMatch::Present, _) => true,
        (ValueMatch::Text(wanted), ValueMatch::Text(given)) => text_follows(wanted, given),
        (ValueMatch::Text(_), ValueMatch::Present) => false,
    }
}

fn text_follows(wanted: &StringMatch, given: &StringMatch) -> bool {
    match (wanted, given) {
        (_, StringMatch::Exact(text)) => wanted.is_match(text.as_bytes()),
        (StringMatch::Prefix(wanted), StringMatch::Prefix(given)) => given.starts_with(&**wanted),
        _ => wanted == given,
    }
}
