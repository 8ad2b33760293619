//! Delegation: a rule of a root VirtualService replaced by the rules of another one.

use std::borrow::Cow;

use super::finding::{Finding, Severity};
use super::names::{is_visible, qualify_gateway};
use crate::field::FieldPath;
use crate::kind::Kind;
use crate::kinds::virtual_service::{HttpMatch, HttpRoute, VirtualService};
use crate::kinds::{StringMatch, Written};
use crate::meta::ResourceKey;
use crate::resource::{Resource, ResourceSet};

/// A rule as it is in force, and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Rule<'a> {
    pub(crate) http: Cow<'a, HttpRoute>,
    /// Of each match entry the index it was written at; `None`: they stand as they were written.
    pub(crate) match_indexes: Option<Vec<usize>>,
    /// The namespace in which the rule's names are short.
    pub(crate) namespace: &'a str,
    /// In the root's `spec.http`.
    pub(crate) index: usize,
    /// The delegate and the rule in it.
    pub(crate) delegate: Option<(ResourceKey, usize)>,
}

impl Rule<'_> {
    /// Where the rule's fields are: in the delegate, if it came from one.
    pub(crate) fn place(&self, root: &ResourceKey) -> (ResourceKey, FieldPath) {
        let (resource, index) = self.delegate.clone().unwrap_or_else(|| (root.clone(), self.index));
        (resource, FieldPath::new("spec").field("http").index(index))
    }
}

/// The rules of a root VirtualService with every delegation replaced.
pub(crate) struct Expanded<'a> {
    pub(crate) rules: Vec<Rule<'a>>,
    pub(crate) findings: Vec<Finding>,
}

/// The delegates that a VirtualService names, whether they exist or not.
pub(crate) fn delegates<'a>(
    root: &'a ResourceKey,
    spec: &'a VirtualService,
) -> impl Iterator<Item = (usize, ResourceKey)> + 'a {
    spec.http.iter().enumerate().filter_map(|(index, rule)| {
        let delegate = rule.delegate.as_ref()?;
        let namespace = if delegate.namespace.is_empty() { &*root.namespace } else { delegate.namespace.as_str() };
        Some((index, ResourceKey::new(Kind::VirtualService, namespace, delegate.name.as_str())))
    })
}

/// Replaces delegations. A delegation that leads nowhere loses its rule, a delegate's rule that contradicts the root's
/// is dropped.
pub(crate) fn expand<'a>(
    root: &'a ResourceKey,
    spec: &'a VirtualService,
    set: &'a ResourceSet,
    default_export_to: &[String],
) -> Expanded<'a> {
    let mut expanded = Expanded { rules: Vec::with_capacity(spec.http.len()), findings: Vec::new() };
    let mut delegations = delegates(root, spec).peekable();
    for (index, http) in spec.http.iter().enumerate() {
        let Some((_, key)) = delegations.next_if(|(at, _)| *at == index) else {
            expanded.rules.push(Rule {
                http: Cow::Borrowed(http),
                match_indexes: None,
                namespace: &root.namespace,
                index,
                delegate: None,
            });
            continue;
        };
        let (resource, delegate) = match find(&key, &root.namespace, set, default_export_to) {
            Ok(found) => found,
            Err((reason, message)) => {
                let path = FieldPath::new("spec").field("http").index(index).field("delegate");
                let severity = Severity::Unresolved;
                expanded.findings.push(Finding { resource: root.clone(), path, severity, reason, message });
                continue;
            }
        };
        for (at, rule) in delegate.http.iter().enumerate() {
            let place = || FieldPath::new("spec").field("http").index(at);
            if rule.delegate.is_some() {
                expanded.findings.push(Finding {
                    resource: key.clone(),
                    path: place().field("delegate"),
                    severity: Severity::Rejected,
                    reason: "NestedDelegate",
                    message: "a delegate cannot delegate further; name the last one in the root".to_owned(),
                });
                continue;
            }
            let Some((http, match_indexes)) = merge_rule(http, &root.namespace, rule, &key.namespace) else {
                expanded.findings.push(Finding {
                    resource: key.clone(),
                    path: place().field("match"),
                    severity: Severity::Rejected,
                    reason: "DelegateConflict",
                    message: format!(
                        "the matches contradict those of {root} http[{index}], so the rule is dropped; each must \
                         narrow one of the root's, and regexes cannot be narrowed"
                    ),
                });
                continue;
            };
            expanded.rules.push(Rule {
                http: Cow::Owned(http),
                match_indexes: Some(match_indexes),
                namespace: &resource.key.namespace,
                index,
                delegate: Some((key.clone(), at)),
            });
        }
    }
    expanded
}

/// A delegate as a root in `namespace` may use it; else a reason and a sentence.
fn find<'a>(
    key: &ResourceKey,
    namespace: &str,
    set: &'a ResourceSet,
    default_export_to: &[String],
) -> Result<(&'a Resource, &'a VirtualService), (&'static str, String)> {
    let found = set.get(key).and_then(|resource| Some((&**resource, resource.spec::<VirtualService>()?)));
    let Some((resource, delegate)) = found else {
        let message = format!("{key} does not exist, so the rule takes nothing; create it or correct the name");
        return Err(("DelegateNotFound", message));
    };
    if !delegate.hosts.is_empty() {
        let message = format!("{key} has hosts of its own, so nothing can be delegated to it; remove its hosts");
        return Err(("DelegateHasHosts", message));
    }
    if !is_visible(&delegate.export_to, default_export_to, &key.namespace, namespace) {
        let message = format!("{key} is not exported to namespace {namespace}; add it to the delegate's exportTo");
        return Err(("DelegateNotVisible", message));
    }
    Ok((resource, delegate))
}

/// A delegate's rule with the root's conditions added and what it leaves open filled in; `None` if they conflict.
fn merge_rule(
    root: &HttpRoute,
    root_namespace: &str,
    leaf: &HttpRoute,
    leaf_namespace: &str,
) -> Option<(HttpRoute, Vec<usize>)> {
    let qualified = |rule: &HttpRoute, namespace: &str| -> Vec<HttpMatch> {
        let entries = rule.r#match.iter().cloned();
        entries
            .map(|mut entry| {
                if !entry.gateways.is_empty() {
                    let names = entry.gateways.iter().map(|name| qualify_gateway(name, namespace).to_string());
                    entry.gateways = Written::new(names.collect());
                }
                entry
            })
            .collect()
    };
    let (roots, leaves) = (qualified(root, root_namespace), qualified(leaf, leaf_namespace));
    let (matches, indexes) = if roots.is_empty() || leaves.is_empty() {
        let matches = if leaves.is_empty() { roots } else { leaves };
        let indexes = (0..matches.len()).collect();
        (matches, indexes)
    } else {
        let (mut matches, mut indexes) = (Vec::new(), Vec::new());
        for (index, leaf) in leaves.iter().enumerate() {
            let fitting = roots.iter().filter(|root| !conflict(root, leaf)).map(|root| merge_match(root, leaf));
            let before = matches.len();
            matches.extend(fitting);
            if matches.len() == before {
                return None;
            }
            indexes.resize(matches.len(), index);
        }
        (matches, indexes)
    };
    let mut merged = leaf.clone();
    merged.r#match = Written::new(matches);
    merged.name = joined_name(&root.name, &leaf.name);
    fill(&mut merged.rewrite, root.rewrite.as_ref());
    fill(&mut merged.direct_response, root.direct_response.as_ref());
    fill(&mut merged.timeout, root.timeout.as_ref());
    fill(&mut merged.retries, root.retries.as_ref());
    fill(&mut merged.fault, root.fault.as_ref());
    fill(&mut merged.mirror, root.mirror.as_ref());
    fill(&mut merged.mirror_percentage, root.mirror_percentage.as_ref());
    fill(&mut merged.cors_policy, root.cors_policy.as_ref());
    fill(&mut merged.headers, root.headers.as_ref());
    if merged.mirrors.is_empty() {
        merged.mirrors = root.mirrors.clone();
    }
    Some((merged, indexes))
}

fn fill<T: Clone>(field: &mut Option<T>, from: Option<&T>) {
    if field.is_none() {
        *field = from.cloned();
    }
}

fn joined_name(root: &Written<String>, leaf: &Written<String>) -> Written<String> {
    match (root.is_empty(), leaf.is_empty()) {
        (true, _) => leaf.clone(),
        (_, true) => root.clone(),
        _ => Written::new(format!("{}-{}", **root, **leaf)),
    }
}

/// Both entries' conditions; where both have one, the leaf's, which is the narrower.
fn merge_match(root: &HttpMatch, leaf: &HttpMatch) -> HttpMatch {
    fn union<V: Clone>(
        root: &Written<std::collections::BTreeMap<String, V>>,
        leaf: &Written<std::collections::BTreeMap<String, V>>,
    ) -> Written<std::collections::BTreeMap<String, V>> {
        let both = root.iter().chain(leaf.iter());
        Written::new(both.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
    let mut merged = leaf.clone();
    merged.name = joined_name(&root.name, &leaf.name);
    fill(&mut merged.uri, root.uri.as_ref());
    fill(&mut merged.scheme, root.scheme.as_ref());
    fill(&mut merged.method, root.method.as_ref());
    fill(&mut merged.authority, root.authority.as_ref());
    merged.headers = union(&root.headers, &leaf.headers);
    merged.without_headers = union(&root.without_headers, &leaf.without_headers);
    merged.query_params = union(&root.query_params, &leaf.query_params);
    merged.source_labels = union(&root.source_labels, &leaf.source_labels);
    if *merged.port == 0 {
        merged.port = root.port;
    }
    if merged.source_namespace.is_empty() {
        merged.source_namespace = root.source_namespace.clone();
    }
    if merged.gateways.is_empty() {
        merged.gateways = root.gateways.clone();
    }
    merged
}

/// Whether a delegate's match entry is no narrowing of the root's. Gateways are qualified on both sides.
fn conflict(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    texts.iter().any(|(root, leaf)| texts_conflict(root.as_ref(), leaf.as_ref()))
        || maps
            .iter()
            .any(|(root, leaf)| leaf.iter().any(|(key, value)| texts_conflict((***root).get(key), Some(value))))
        || *root.ignore_uri_case != *leaf.ignore_uri_case
        || (*root.port != 0 && *leaf.port != 0 && *root.port != *leaf.port)
        || (!root.source_namespace.is_empty() && *root.source_namespace != *leaf.source_namespace)
        || leaf.source_labels.iter().any(|(key, value)| (*root.source_labels).get(key).is_some_and(|v| v != value))
        || (!root.gateways.is_empty() && leaf.gateways.iter().any(|gateway| !root.gateways.contains(gateway)))
}

fn texts_conflict(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    use StringMatch::{Exact, Prefix, Present, Regex};
    match (root, leaf) {
        (None | Some(Present), _) | (_, None) | (Some(Prefix(_)), Some(Present)) => false,
        // A regex is neither narrowed nor narrows.
        (Some(Regex(_)), Some(leaf)) => *leaf != Present,
        (Some(_), Some(Regex(_))) => true,
        (Some(Exact(root)), Some(leaf)) => !matches!(leaf, Exact(leaf) if leaf == root),
        (Some(Prefix(root)), Some(Exact(leaf) | Prefix(leaf))) => !leaf.starts_with(root.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> HttpMatch {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn a_leaf_must_narrow_the_root() {
        for (root, leaf, want) in [
            ("{}", r#"{"uri":{"exact":"/a"}}"#, false),
            (r#"{"uri":{"prefix":"/a"}}"#, "{}", false),
            (r#"{"uri":{"prefix":"/a"}}"#, r#"{"uri":{"exact":"/a/b"}}"#, false),
            (r#"{"uri":{"prefix":"/a"}}"#, r#"{"uri":{"exact":"/b"}}"#, true),
            (r#"{"uri":{"prefix":"/a"}}"#, r#"{"uri":{"prefix":"/a/b"}}"#, false),
            (r#"{"uri":{"prefix":"/a/b"}}"#, r#"{"uri":{"prefix":"/a"}}"#, true),
            (r#"{"uri":{"exact":"/a"}}"#, r#"{"uri":{"prefix":"/a"}}"#, true),
            (r#"{"uri":{"exact":"/a"}}"#, r#"{"uri":{"exact":"/a"}}"#, false),
            (r#"{"uri":{"exact":"/a"}}"#, r#"{"uri":{"exact":"/b"}}"#, true),
            (r#"{"uri":{"regex":".*"}}"#, r#"{"uri":{"exact":"/b"}}"#, true),
            (r#"{"uri":{"prefix":"/"}}"#, r#"{"uri":{"regex":"/b"}}"#, true),
            (r#"{"uri":{"regex":".*"}}"#, r#"{"method":{"exact":"GET"}}"#, false),
            (r#"{"headers":{"x":{"exact":"a"}}}"#, r#"{"headers":{"x":{"exact":"b"}}}"#, true),
            (r#"{"headers":{"x":{"exact":"a"}}}"#, r#"{"headers":{"y":{"exact":"b"}}}"#, false),
            (r#"{"queryParams":{"x":{"prefix":"a"}}}"#, r#"{"queryParams":{"x":{"exact":"ab"}}}"#, false),
            (r#"{"withoutHeaders":{"x":{"prefix":"a"}}}"#, r#"{"withoutHeaders":{"x":{"exact":"b"}}}"#, true),
            (r#"{"ignoreUriCase":true}"#, "{}", true),
            (r#"{"port":80}"#, r#"{"port":81}"#, true),
            (r#"{"port":80}"#, "{}", false),
            (r#"{"sourceNamespace":"a"}"#, "{}", true),
            ("{}", r#"{"sourceNamespace":"a"}"#, false),
            (r#"{"sourceLabels":{"a":"1"}}"#, r#"{"sourceLabels":{"a":"2"}}"#, true),
            (r#"{"sourceLabels":{"a":"1"}}"#, r#"{"sourceLabels":{"b":"2"}}"#, false),
            (r#"{"gateways":["a/g","a/h"]}"#, r#"{"gateways":["a/g"]}"#, false),
            (r#"{"gateways":["a/g"]}"#, r#"{"gateways":["a/h"]}"#, true),
        ] {
            assert_eq!(conflict(&entry(root), &entry(leaf)), want, "{root} {leaf}");
        }
    }

    #[test]
    fn a_merged_rule_has_both_conditions_and_the_leafs_settings() {
        let root: HttpRoute = serde_json::from_str(
            r#"{"name":"root","timeout":"5s","match":[{"name":"m","uri":{"prefix":"/a"},"headers":{"x":{"exact":"1"}}},{"uri":{"prefix":"/b"}}],
                "headers":{"request":{"set":{"r":"1"}}}}"#,
        )
        .expect("root");
        let leaf: HttpRoute = serde_json::from_str(
            r#"{"name":"leaf","match":[{"uri":{"prefix":"/b/c"}},{"uri":{"exact":"/a/z"},"headers":{"y":{"exact":"2"}},"gateways":["g"]}],
                "headers":{"request":{"set":{"l":"1"}}},"route":[{"destination":{"host":"d"}}]}"#,
        )
        .expect("leaf");
        let (merged, indexes) = merge_rule(&root, "rootns", &leaf, "leafns").expect("no conflict");
        assert_eq!(indexes, [0, 1]);
        assert_eq!(*merged.name, "root-leaf");
        assert_eq!(merged.timeout.as_ref().map(crate::kinds::TextDuration::as_str), Some("5s"));
        assert_eq!(merged.headers, leaf.headers);
        assert_eq!(merged.r#match[0].uri, Some(StringMatch::Prefix("/b/c".to_owned())));
        assert_eq!(merged.r#match[1].headers.keys().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(*merged.r#match[1].gateways, ["leafns/g"]);
        assert_eq!(*merged.r#match[1].name, "m");

        let stranger: HttpRoute = serde_json::from_str(r#"{"match":[{"uri":{"prefix":"/c"}}]}"#).expect("stranger");
        assert!(merge_rule(&root, "rootns", &stranger, "leafns").is_none());
    }
}
