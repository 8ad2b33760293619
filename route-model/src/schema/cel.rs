//! The `x-kubernetes-validations` rules of the schemas. Each is a piece of CEL; as the schemas hold a few dozen of
//! them, each is written here as code, found by its text. A test fails when a schema has one that is missing.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::condition::has;
use crate::kinds::TextDuration;

/// Says whether a value keeps the rule; an error is what CEL's evaluator would fail with.
pub(crate) type Check = fn(&Value) -> Result<bool, &'static str>;

/// The code of a rule.
pub(crate) fn find(rule: &str) -> Option<Check> {
    RULES.iter().find(|(text, _)| same(text, rule)).map(|(_, check)| *check)
}

/// Equal but for white space.
fn same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

static RULES: &[(&str, Check)] = &[
    ("duration(self) >= duration('1ms')", |value| {
        Ok(TextDuration::parse(text(value)).is_ok_and(|duration| duration.get().as_millis() >= 1))
    }),
    ("0 < self && self <= 65535", |value| Ok(value.as_i64().is_some_and(is_port))),
    ("self.size() == 0", |value| Ok(text(value).is_empty())),
    ("self != \"*\"", |value| Ok(text(value) != "*")),
    ("!self.contains(\"*\")", |value| Ok(!text(value).contains('*'))),
    ("self in [\"\", \"HTTP\", \"HTTPS\"]", |value| Ok(matches!(text(value), "" | "HTTP" | "HTTPS"))),
    ("self.all(key, !key.contains(\"*\"))", |value| Ok(keys(value).all(|key| !key.contains('*')))),
    ("self.all(key, key.size() != 0)", |value| Ok(keys(value).all(|key| !key.is_empty()))),
    ("self.all(key, size(key) < 63 && key.matches(\"^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$\"))", |value| {
        Ok(keys(value).all(is_port_name))
    }),
    ("self.all(key, 0 < int(key) && int(key) <= 65535)", |value| {
        let ports: Option<Vec<i64>> = keys(value).map(|key| key.parse().ok()).collect();
        let ports = ports.ok_or("type conversion error from 'string' to 'int'")?;
        Ok(ports.into_iter().all(is_port))
    }),
    ("self.all(l1, self.exists_one(l2, l1.number == l2.number))", |value| {
        let mut seen = HashSet::new();
        let mut numbers = value.as_array().into_iter().flatten().filter_map(|port| port["number"].as_u64());
        Ok(numbers.all(|number| seen.insert(number)))
    }),
    (
        "self.startsWith(\"unix://\") ? (self.substring(7, 8) == \"/\" || self.substring(7, 8) == \"@\") : true",
        |value| Ok(text(value).strip_prefix("unix://").is_none_or(|path| path.starts_with(['/', '@']))),
    ),
    ("self.startsWith(\"unix://\") ? !self.endsWith(\"/\") : true", |value| {
        Ok(!text(value).starts_with("unix://") || !text(value).ends_with('/'))
    }),
    (
        "isURL(self) ? (url(self).getScheme() in [\"\", \"http\", \"https\", \"file\", \"oci\"]) : (isURL(\"http://\" \
         + self) && url(\"http://\" + self).getScheme() in [\"\", \"http\", \"https\", \"file\", \"oci\"])",
        |value| Ok(is_module_url(text(value))),
    ),
    (
        "isURL(self) ? (url(self).getScheme() in [\"\", \"http\", \"https\", \"oci\", \"file\"]) : (isURL(\"http://\" \
         + self) && url(\"http://\" + self).getScheme() in [\"\", \"http\", \"https\", \"oci\", \"file\"])",
        |value| Ok(is_module_url(text(value))),
    ),
    ("url(self).getScheme() in [\"http\", \"https\"]", |value| {
        Ok(matches!(url_scheme(text(value)), Some("http" | "https")))
    }),
    ("has(self.wasm) != has(self.lua)", |value| Ok(count(value, &["wasm", "lua"]) == 1)),
    ("has(self.address) || has(self.network)", |value| Ok(count(value, &["address", "network"]) > 0)),
    ("(has(self.address) ? self.address : \"\").startsWith(\"unix://\") ? !has(self.ports) : true", |value| {
        Ok(!text(&value["address"]).starts_with("unix://") || count(value, &["ports"]) == 0)
    }),
    ("(has(self.selector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1", |value| {
        Ok(count(value, &["selector", "targetRefs"]) <= 1)
    }),
    ("(has(self.workloadSelector) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1", |value| {
        Ok(count(value, &["workloadSelector", "targetRefs"]) <= 1)
    }),
    ("(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1", |value| {
        Ok(count(value, &["selector", "targetRef", "targetRefs"]) <= 1)
    }),
    ("(has(self.workloadSelector) ? 1 : 0) + (has(self.endpoints) ? 1 : 0) <= 1", |value| {
        Ok(count(value, &["workloadSelector", "endpoints"]) <= 1)
    }),
    ("(has(self.tlsCertificates) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1", |value| {
        Ok(count(value, &["tlsCertificates", "credentialNames"]) <= 1)
    }),
    ("(has(self.credentialName) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1", |value| {
        Ok(count(value, &["credentialName", "credentialNames"]) <= 1)
    }),
    ("(has(self.credentialNames) ? 1 : 0) + (has(self.tlsCertificates) ? 1 : 0) <= 1", |value| {
        Ok(count(value, &["credentialNames", "tlsCertificates"]) <= 1)
    }),
    ("(has(self.jwksUri) ? 1 : 0) + (has(self.jwks_uri) ? 1 : 0) + (has(self.jwks) ? 1 : 0) <= 1", |value| {
        Ok(count(value, &["jwksUri", "jwks_uri", "jwks"]) <= 1)
    }),
    ("(has(self.valueFrom) ? self.valueFrom : \"\") != \"HOST\" || !has(self.value)", |value| {
        Ok(text(&value["valueFrom"]) != "HOST" || count(value, &["value"]) == 0)
    }),
    (
        "has(self.context) ? ((self.context == \"WAYPOINT\") ? has(self.waypoint) : !has(self.waypoint)) : \
         !has(self.waypoint)",
        |value| Ok((text(&value["context"]) == "WAYPOINT") == (count(value, &["waypoint"]) == 1)),
    ),
    (
        "!((has(self.addresses) ? self.addresses : []).exists(k, k.contains(\"/\")) && !((has(self.resolution) ? \
         self.resolution : \"NONE\") in [\"STATIC\", \"NONE\"]))",
        |value| {
            let cidr = value["addresses"].as_array().into_iter().flatten().any(|address| text(address).contains('/'));
            Ok(!cidr || matches!(text(&value["resolution"]), "" | "NONE" | "STATIC"))
        },
    ),
    ("((has(self.resolution) ? self.resolution : \"NONE\") == \"NONE\") ? !has(self.endpoints) : true", |value| {
        Ok(!matches!(text(&value["resolution"]), "" | "NONE") || count(value, &["endpoints"]) == 0)
    }),
    (
        "((has(self.resolution) ? self.resolution : \"\") == \"DNS_ROUND_ROBIN\") ? ((has(self.endpoints) ? \
         self.endpoints : []).size() <= 1) : true",
        |value| {
            let endpoints = value["endpoints"].as_array().map_or(0, Vec::len);
            Ok(text(&value["resolution"]) != "DNS_ROUND_ROBIN" || endpoints <= 1)
        },
    ),
    (
        "(has(self.serviceAccounts) || has(self.notServiceAccounts)) ? (!has(self.principals) && \
         !has(self.notPrincipals) && !has(self.namespaces) && !has(self.notNamespaces)) : true",
        |value| {
            Ok(count(value, &["serviceAccounts", "notServiceAccounts"]) == 0
                || count(value, &["principals", "notPrincipals", "namespaces", "notNamespaces"]) == 0)
        },
    ),
    (
        "has(self.portLevelMtls) ? (((has(self.selector) && has(self.selector.matchLabels)) ? \
         self.selector.matchLabels : {}).size() > 0) : true",
        |value| {
            let labels = value["selector"]["matchLabels"].as_object().map_or(0, Map::len);
            Ok(count(value, &["portLevelMtls"]) == 0 || labels > 0)
        },
    ),
    ("((has(self.operation) ? self.operation : \"\") == \"UPSERT\") ? (self.value != \"\") : true", |value| {
        Ok(text(&value["operation"]) != "UPSERT" || !text(&value["value"]).is_empty())
    }),
    ("((has(self.operation) ? self.operation : \"\") == \"REMOVE\") ? !has(self.value) : true", |value| {
        Ok(text(&value["operation"]) != "REMOVE" || count(value, &["value"]) == 0)
    }),
];

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn keys(value: &Value) -> impl Iterator<Item = &str> {
    value.as_object().into_iter().flat_map(|fields| fields.keys().map(String::as_str))
}

/// How many of the fields are there.
fn count(value: &Value, names: &[&str]) -> usize {
    value.as_object().map_or(0, |fields| names.iter().filter(|name| has(fields, name)).count())
}

fn is_port(number: i64) -> bool {
    (1..=65535).contains(&number)
}

fn is_port_name(name: &str) -> bool {
    name.len() < 63
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_module_url(url: &str) -> bool {
    match url_scheme(url) {
        Some(scheme) => matches!(scheme, "" | "http" | "https" | "oci" | "file"),
        // Without a scheme it is an image reference.
        None => is_host_part(url),
    }
}

/// The scheme of an absolute URL, empty for an absolute path; `None` for anything else.
fn url_scheme(url: &str) -> Option<&str> {
    if url.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    if url.starts_with('/') {
        return Some("");
    }
    let (scheme, rest) = url.split_once(':')?;
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let host = rest.strip_prefix("//");
    (valid && host.is_none_or(is_host_part)).then_some(scheme)
}

/// Whether `host[:port][/path]` has no character in its host that none may have, and a number for a port.
fn is_host_part(rest: &str) -> bool {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let after_bracket = host.rsplit(']').next().unwrap_or(host);
    let port = after_bracket.rsplit_once(':').map_or("", |(_, port)| port);
    !host.contains([' ', '"', '<', '>', '\\', '^', '`', '{', '|', '}'])
        && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::Kind;

    #[test]
    fn every_rule_of_the_schemas_is_known() {
        fn walk(value: &Value, rules: &mut HashSet<String>) {
            match value {
                Value::Object(fields) => {
                    for rule in fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                        rules.extend(rule["rule"].as_str().map(ToOwned::to_owned));
                    }
                    fields.values().for_each(|value| walk(value, rules));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(value, rules)),
                _ => {}
            }
        }
        let mut rules = HashSet::new();
        for kind in Kind::ALL {
            walk(kind.schema(kind.info().preferred_version()).unwrap(), &mut rules);
        }
        let missing: Vec<&String> = rules.iter().filter(|rule| find(rule).is_none()).collect();
        assert!(missing.is_empty(), "{missing:#?}");
        let unused: Vec<&str> =
            RULES.iter().map(|(text, _)| *text).filter(|text| !rules.iter().any(|rule| same(rule, text))).collect();
        assert!(unused.is_empty(), "{unused:#?}");
    }

    #[test]
    fn urls_as_go_reads_them() {
        for (url, scheme) in [
            ("https://a/b", Some("https")),
            ("oci://a:5000/b:v1", Some("oci")),
            ("/a/b", Some("")),
            ("localhost:5000/a", Some("localhost")),
            ("docker.io/a", None),
            ("docker.io/a:1", None),
            ("http://a b/", None),
            ("http://a:b/", None),
            ("", None),
        ] {
            assert_eq!(url_scheme(url), scheme, "{url:?}");
        }
        assert!(is_module_url("docker.io/a:1"));
        assert!(!is_module_url("ftp://a"));
    }

    #[test]
    fn ports_by_key_must_be_numbers() {
        let check = find("self.all(key, 0 < int(key) && int(key) <= 65535)").unwrap();
        assert_eq!(check(&json!({"80": {}})), Ok(true));
        assert_eq!(check(&json!({"0": {}})), Ok(false));
        assert!(check(&json!({"http": {}})).is_err());
    }
}
