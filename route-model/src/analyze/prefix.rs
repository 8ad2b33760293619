//! Path prefixes that end inside a segment.

use crate::compile::delegate::Rule;
use crate::compile::{Finding, Severity};
use crate::kinds::StringMatch;
use crate::meta::ResourceKey;

/// So many of one kind are told of one resource; a hundred equal warnings say no more than ten.
const MAX: usize = 10;

/// Warns of prefixes such as `/foo`, which takes `/foobar` too.
pub(crate) fn findings(rules: &[Rule<'_>], root: &ResourceKey) -> Vec<Finding> {
    let own = rules.iter().filter(|rule| rule.delegate.is_none());
    let matches = own.flat_map(|rule| rule.http.r#match.iter().enumerate().map(move |(i, entry)| (rule, i, entry)));
    let open_ended = matches.filter_map(|(rule, i, entry)| match &entry.uri {
        Some(StringMatch::Prefix(prefix)) if !prefix.is_empty() && !prefix.ends_with(['/', '?', '=']) => {
            Some((rule, i, prefix))
        }
        _ => None,
    });
    open_ended
        .take(MAX)
        .map(|(rule, i, prefix)| {
            let (resource, place) = rule.place(root);
            Finding {
                resource,
                path: place.field("match").index(i).field("uri").field("prefix"),
                severity: Severity::Warning,
                reason: "PrefixWithoutSlash",
                message: format!(
                    "prefix `{prefix}` also takes `{prefix}bar`, as prefixes are plain text; if only `{prefix}` and \
                     what is below it is meant, match exact `{prefix}` and prefix `{prefix}/`"
                ),
            }
        })
        .collect()
}
