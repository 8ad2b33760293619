//! From a match entry of a rule to predicates.

use crate::kinds;
use crate::kinds::value::StringMap;
use crate::kinds::virtual_service::HttpMatch;
use crate::matching::regex::RegexError;
use crate::matching::{
    ClaimPredicate, HeaderField, HeaderPredicate, Predicate, Predicates, QueryPredicate, Regex, StringMatch, UriMatch,
    UriPattern, ValueMatch,
};
use crate::request::claims::ClaimPath;

use super::names::qualify_gateway;

/// Header keys that Istio documents as ignored: there are fields for them.
pub(crate) const IGNORED_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];

/// What of a proxy decides, when a table is compiled, whether a match entry is for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatchScope<'a> {
    /// The `namespace/name` of the Gateway that routes are compiled for.
    pub(super) gateway: &'a str,
    /// As written in the Gateway.
    pub(super) port: u16,
    pub(super) proxy: &'a super::ProxyScope,
}

impl MatchScope<'_> {
    /// Whether a match entry of a resource in `namespace` is for this proxy, gateway and port.
    pub(super) fn admits(&self, entry: &HttpMatch, namespace: &str) -> bool {
        let HttpMatch { port, gateways, source_labels, source_namespace, .. } = entry;
        // Where a match names gateways, Istio does not look at the source.
        self.is_port(**port)
            && self.is_gateway(gateways, namespace)
            && (!gateways.is_empty() || self.is_source(source_labels, source_namespace))
    }

    /// The same for an entry of `tls` or `tcp`, all of whose conditions must hold.
    pub(super) fn admits_connection(
        &self,
        port: u32,
        gateways: &[String],
        source_labels: &StringMap,
        source_namespace: &str,
        namespace: &str,
    ) -> bool {
        self.is_port(port) && self.is_gateway(gateways, namespace) && self.is_source(source_labels, source_namespace)
    }

    fn is_port(&self, port: u32) -> bool {
        port == 0 || port == u32::from(self.port)
    }

    fn is_gateway(&self, gateways: &[String], namespace: &str) -> bool {
        gateways.is_empty() || gateways.iter().any(|name| *qualify_gateway(name, namespace) == *self.gateway)
    }

    fn is_source(&self, labels: &StringMap, namespace: &str) -> bool {
        labels.iter().all(|(key, value)| self.proxy.labels.get(key) == Some(value))
            && (namespace.is_empty() || *namespace == *self.proxy.namespace)
    }
}

/// A regex that does not compile, and the field of the match entry that holds it.
#[derive(Debug)]
pub(super) struct BadRegex {
    pub(super) field: String,
    pub(super) error: RegexError,
}

/// The predicates of a match entry; of an absent one those that every request meets.
pub(super) fn predicates(entry: Option<&HttpMatch>) -> Result<(UriMatch, Predicates), BadRegex> {
    let Some(entry) = entry else { return Ok((UriMatch::everything(), Predicates::default())) };
    let mut list = Vec::new();
    let text = |field: &str, wanted: &kinds::StringMatch| {
        string_match(wanted).map_err(|error| BadRegex { field: field.to_owned(), error })
    };
    for (field, wanted, predicate) in [
        ("method", &entry.method, Predicate::Method as fn(StringMatch) -> Predicate),
        ("scheme", &entry.scheme, Predicate::Scheme),
        ("authority", &entry.authority, Predicate::Authority),
    ] {
        if let Some(ValueMatch::Text(wanted)) = wanted.as_ref().map(|wanted| text(field, wanted)).transpose()? {
            list.push(predicate(wanted));
        }
    }
    for (headers, field, inverted) in
        [(&entry.headers, "headers", false), (&entry.without_headers, "withoutHeaders", true)]
    {
        for (key, wanted) in headers {
            if IGNORED_HEADERS.contains(&key.as_str()) {
                continue;
            }
            let value = text(&format!("{field}[{key}]"), wanted)?;
            list.push(match ClaimPath::of_header_key(key) {
                Some(path) => Predicate::Claim(ClaimPredicate { path, value, inverted }),
                None => Predicate::Header(HeaderPredicate { field: HeaderField::parse(key), value, inverted }),
            });
        }
    }
    for (key, wanted) in &entry.query_params {
        let value = text(&format!("queryParams[{key}]"), wanted)?;
        list.push(Predicate::Query(QueryPredicate { key: key.as_str().into(), value }));
    }
    let uri = match entry.uri.as_ref().map(|wanted| text("uri", wanted)).transpose()? {
        None | Some(ValueMatch::Present) => UriMatch::everything(),
        Some(ValueMatch::Text(wanted)) => {
            let pattern = match wanted {
                StringMatch::Exact(path) => UriPattern::Exact(path),
                StringMatch::Prefix(path) => UriPattern::Prefix(path),
                StringMatch::Regex(regex) => UriPattern::Regex(regex),
            };
            UriMatch { pattern, ignore_case: *entry.ignore_uri_case }
        }
    };
    Ok((uri, Predicates::new(list)))
}

/// `{}` and the regex `*`, which is none in RE2's syntax, both ask for presence only.
pub(super) fn string_match(wanted: &kinds::StringMatch) -> Result<ValueMatch, RegexError> {
    Ok(ValueMatch::Text(match wanted {
        kinds::StringMatch::Present => return Ok(ValueMatch::Present),
        kinds::StringMatch::Regex(pattern) if pattern == "*" => return Ok(ValueMatch::Present),
        kinds::StringMatch::Exact(text) => StringMatch::Exact(text.as_str().into()),
        kinds::StringMatch::Prefix(text) => StringMatch::Prefix(text.as_str().into()),
        kinds::StringMatch::Regex(pattern) => StringMatch::Regex(Regex::new(pattern)?),
    }))
}

/// Istio's catch-all: the path prefix `/` or the path regex `.*` and no other predicate of any kind. `prefix: ""` and
/// the regex `/.*` take every path too and are none. Case does not matter.
pub(super) fn is_catch_all(uri: &UriMatch, predicates: &Predicates) -> bool {
    let path = match &uri.pattern {
        UriPattern::Exact(_) => false,
        UriPattern::Prefix(prefix) => &**prefix == "/",
        UriPattern::Regex(regex) => regex.as_str() == ".*",
    };
    path && predicates.is_empty()
}
