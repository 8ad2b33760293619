//! Predicates over a request's head, each able to say why it does not hold.
//!
//! One VirtualService match entry is a [`UriMatch`] and its [`Predicates`]; all of them must hold. What Istio decides
//! when it compiles (`port`, `gateways`, `sourceLabels`, `sourceNamespace`) is no predicate of a request.

mod claim;
mod header;
mod query;
mod re2;
pub mod regex;
mod string;
mod uri;

use std::fmt::Write as _;

pub use self::regex::Regex;
pub use claim::ClaimPredicate;
pub use header::{HeaderField, HeaderPredicate};
pub use query::QueryPredicate;
pub use string::{StringMatch, ValueMatch};
pub use uri::{UriMatch, UriPattern};

use crate::table::RequestHead;

/// Everything that a route asks of a request beside its path. All must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Predicates(Box<[Predicate]>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predicate {
    /// Case-sensitive.
    Method(StringMatch),
    /// The scheme as the proxy sees it.
    Scheme(StringMatch),
    /// Case-sensitive, as the client wrote it, port included.
    Authority(StringMatch),
    Header(HeaderPredicate),
    Query(QueryPredicate),
    Claim(ClaimPredicate),
}

impl Predicates {
    pub fn new(predicates: Vec<Predicate>) -> Self {
        Self(predicates.into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Predicate> {
        self.0.iter()
    }

    pub fn hold(&self, head: &RequestHead<'_>) -> bool {
        self.first_failure(head).is_none()
    }

    /// The first predicate that does not hold.
    pub fn first_failure(&self, head: &RequestHead<'_>) -> Option<&Predicate> {
        self.0.iter().find(|predicate| !predicate.holds(head))
    }
}

impl<'a> IntoIterator for &'a Predicates {
    type Item = &'a Predicate;
    type IntoIter = std::slice::Iter<'a, Predicate>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Predicate {
    pub fn holds(&self, head: &RequestHead<'_>) -> bool {
        match self {
            Self::Method(wanted) => wanted.is_match(head.method.as_bytes()),
            Self::Scheme(wanted) => wanted.is_match(head.scheme.as_bytes()),
            Self::Authority(wanted) => wanted.is_match(head.authority.as_bytes()),
            Self::Header(header) => header.holds(head),
            Self::Query(query) => query.holds(head),
            Self::Claim(claim) => claim.holds(head),
        }
    }

    /// Why the predicate does not hold for a request, in words.
    pub fn failure(&self, head: &RequestHead<'_>) -> String {
        match self {
            Self::Method(wanted) => format!("the method is {}, the rule wants {wanted}", quoted(head.method)),
            Self::Scheme(wanted) => format!("the scheme is {}, the rule wants {wanted}", quoted(head.scheme)),
            Self::Authority(wanted) => format!("the authority is {}, the rule wants {wanted}", quoted(head.authority)),
            Self::Header(header) => header.failure(head),
            Self::Query(query) => query.failure(head),
            Self::Claim(claim) => claim.failure(head),
        }
    }
}

/// A value out of a request for a person to read: in backticks, without control characters, not endless.
pub(crate) fn quoted(value: impl AsRef<[u8]>) -> String {
    const MAX: usize = 200;
    let value = value.as_ref();
    let mut text = String::with_capacity(value.len().min(MAX) + 2);
    text.push('`');
    for c in String::from_utf8_lossy(&value[..value.len().min(MAX)]).chars() {
        if c.is_control() {
            let _ = write!(text, "{}", c.escape_default());
        } else {
            text.push(c);
        }
    }
    text.push_str(if value.len() > MAX { "…`" } else { "`" });
    text
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::request::claims::{ClaimPath, Claims};
    use crate::request::headers::Headers;

    fn head<'a>(query: Option<&'a str>, headers: &'a Headers) -> RequestHead<'a> {
        RequestHead {
            method: "GET",
            scheme: "https",
            authority: "Shop.example:8443",
            path: "/cart",
            query,
            headers,
            claims: None,
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        let mut map = Headers::new();
        for (name, value) in pairs {
            map.append(
                name.parse::<HeaderName>().expect("name"),
                HeaderValue::from_bytes(value.as_bytes()).expect("value"),
            );
        }
        map
    }

    fn exact(text: &str) -> StringMatch {
        StringMatch::Exact(text.into())
    }

    fn prefix(text: &str) -> StringMatch {
        StringMatch::Prefix(text.into())
    }

    fn regex(text: &str) -> StringMatch {
        StringMatch::Regex(Regex::new(text).expect(text))
    }

    fn header(name: &str, value: ValueMatch, inverted: bool) -> Predicate {
        Predicate::Header(HeaderPredicate { field: HeaderField::parse(name), value, inverted })
    }

    fn query(key: &str, value: ValueMatch) -> Predicate {
        Predicate::Query(QueryPredicate { key: key.into(), value })
    }

    #[test]
    fn method_scheme_and_authority_are_compared_as_they_are() {
        let none = Headers::new();
        for (predicate, failure) in [
            (Predicate::Method(exact("GET")), None),
            (Predicate::Method(exact("get")), Some("the method is `GET`, the rule wants exactly `get`")),
            (Predicate::Method(regex("GET|POST")), None),
            (Predicate::Scheme(exact("https")), None),
            (Predicate::Scheme(exact("http")), Some("the scheme is `https`, the rule wants exactly `http`")),
            (Predicate::Authority(exact("Shop.example:8443")), None),
            (Predicate::Authority(prefix("Shop.")), None),
            (
                Predicate::Authority(exact("shop.example:8443")),
                Some("the authority is `Shop.example:8443`, the rule wants exactly `shop.example:8443`"),
            ),
            (
                Predicate::Authority(exact("Shop.example")),
                Some("the authority is `Shop.example:8443`, the rule wants exactly `Shop.example`"),
            ),
        ] {
            let head = head(None, &none);
            assert_eq!(predicate.holds(&head), failure.is_none(), "{predicate:?}");
            if let Some(failure) = failure {
                assert_eq!(predicate.failure(&head), failure);
            }
        }
    }

    #[test]
    fn headers_are_matched_value_by_value() {
        let text = |matcher| ValueMatch::Text(matcher);
        for (sent, predicate, failure) in [
            (&[("x", "a")][..], header("x", text(exact("a")), false), None),
            (&[("x", "a")], header("X", text(exact("a")), false), None),
            (
                &[("end-user", "bob")],
                header("end-user", text(exact("jason")), false),
                Some("header `end-user` is `bob`, the rule wants exactly `jason`"),
            ),
            (&[], header("x", text(exact("a")), false), Some("header `x` is absent, the rule wants exactly `a`")),
            // A missing header is not an empty one …
            (
                &[],
                header("x", text(regex(".*")), false),
                Some("header `x` is absent, the rule wants a match of regex `.*`"),
            ),
            (&[], header("x", text(exact("")), false), Some("header `x` is absent, the rule wants exactly ``")),
            (&[("x", "")], header("x", text(exact("")), false), None),
            (&[("x", "")], header("x", ValueMatch::Present, false), None),
            (&[], header("x", ValueMatch::Present, false), Some("header `x` is absent, the rule wants it to be there")),
            // Repeated headers are not joined.
            (&[("x", "v1"), ("x", "v2")], header("x", text(exact("v2")), false), None),
            (
                &[("x", "v1"), ("x", "v2")],
                header("x", text(exact("v1,v2")), false),
                Some("header `x` is `v1` and `v2`, the rule wants exactly `v1,v2`"),
            ),
            // … but it is one where the predicate is inverted.
            (
                &[],
                header("x", text(regex(".*")), true),
                Some("header `x` is absent, which counts as empty, the rule wants anything but a match of regex `.*`"),
            ),
            (&[], header("x", text(exact("a")), true), None),
            (
                &[],
                header("x", text(exact("")), true),
                Some("header `x` is absent, which counts as empty, the rule wants anything but exactly ``"),
            ),
            (&[("x", "a")], header("x", text(exact("")), true), None),
            (&[], header("x", ValueMatch::Present, true), None),
            (
                &[("x", "")],
                header("x", ValueMatch::Present, true),
                Some("header `x` is there (``), the rule wants it absent"),
            ),
            (
                &[("x", "a"), ("x", "b")],
                header("x", text(exact("b")), true),
                Some("header `x` is `a` and `b`, the rule wants anything but exactly `b`"),
            ),
            (&[("x", "a"), ("x", "b")], header("x", text(exact("c")), true), None),
            // Pseudo-headers; `host` is another name of `:authority`.
            (&[], header(":method", text(exact("GET")), false), None),
            (&[], header(":scheme", text(exact("https")), false), None),
            (&[], header(":path", text(exact("/cart?a=1")), false), None),
            (&[], header(":path", ValueMatch::Present, false), None),
            (&[], header("Host", text(prefix("Shop.")), false), None),
            (&[], header(":authority", text(exact("x")), true), None),
            (
                &[],
                header(":method", text(exact("GET")), true),
                Some("header `:method` is `GET`, the rule wants anything but exactly `GET`"),
            ),
            // No message has such a header.
            (
                &[],
                header("a b", ValueMatch::Present, false),
                Some("header `a b` is absent, the rule wants it to be there"),
            ),
            (&[], header(":nope", text(exact("a")), true), None),
        ] {
            let map = headers(sent);
            let head = head(Some("a=1"), &map);
            assert_eq!(predicate.holds(&head), failure.is_none(), "{predicate:?} on {sent:?}");
            if let Some(failure) = failure {
                assert_eq!(predicate.failure(&head), failure);
            }
        }
    }

    #[test]
    fn query_parameters_are_taken_undecoded_and_first() {
        let text = |matcher| ValueMatch::Text(matcher);
        let none = Headers::new();
        for (sent, predicate, failure) in [
            (Some("a=1"), query("a", text(exact("1"))), None),
            (Some("b=2&a=1"), query("a", text(exact("1"))), None),
            (
                Some("a=2&a=1"),
                query("a", text(exact("1"))),
                Some("query parameter `a` is `2`, the rule wants exactly `1`"),
            ),
            (Some("a"), query("a", text(exact(""))), None),
            (Some("a="), query("a", text(exact(""))), None),
            (Some("a"), query("a", ValueMatch::Present), None),
            (
                Some("A=1"),
                query("a", ValueMatch::Present),
                Some("query parameter `a` is absent, the rule wants it to be there"),
            ),
            (None, query("a", text(exact(""))), Some("query parameter `a` is absent, the rule wants exactly ``")),
            (
                Some(""),
                query("a", ValueMatch::Present),
                Some("query parameter `a` is absent, the rule wants it to be there"),
            ),
            (
                Some("x=1;a=1"),
                query("a", ValueMatch::Present),
                Some("query parameter `a` is absent, the rule wants it to be there"),
            ),
            (
                Some("a=%31"),
                query("a", text(exact("1"))),
                Some("query parameter `a` is `%31`, the rule wants exactly `1`"),
            ),
            (
                Some("%61=1"),
                query("a", text(exact("1"))),
                Some("query parameter `a` is absent, the rule wants exactly `1`"),
            ),
            (Some("a=1=2"), query("a", text(exact("1=2"))), None),
            (Some("a=v12"), query("a", text(prefix("v1"))), None),
            (Some("a=v12"), query("a", text(regex("v[0-9]+"))), None),
            (
                Some("a=v12x"),
                query("a", text(regex("v[0-9]+"))),
                Some("query parameter `a` is `v12x`, the rule wants a match of regex `v[0-9]+`"),
            ),
        ] {
            let head = head(sent, &none);
            assert_eq!(predicate.holds(&head), failure.is_none(), "{predicate:?} on {sent:?}");
            if let Some(failure) = failure {
                assert_eq!(predicate.failure(&head), failure);
            }
        }
    }

    #[test]
    fn the_first_predicate_that_fails_is_named() {
        let none = Headers::new();
        let predicates = Predicates::new(vec![
            Predicate::Method(exact("GET")),
            header("a", ValueMatch::Present, false),
            header("b", ValueMatch::Present, false),
        ]);
        assert_eq!(predicates.first_failure(&head(None, &none)), Some(&header("a", ValueMatch::Present, false)));
    }

    #[test]
    fn claims_are_texts_or_lists_of_them() {
        let none = Headers::new();
        let payload = serde_json::json!({
            "group": ["admin", "dev", 7], "name": "ann", "level": 7, "scope": "read write", "realm": {"role": "r"},
        });
        let claims = Claims::new(payload.as_object().expect("object").clone(), &[]);
        let text = ValueMatch::Text;
        let claim =
            |path, value, inverted| Predicate::Claim(ClaimPredicate { path: ClaimPath::parse(path), value, inverted });
        for (predicate, with, without) in [
            (
                claim("name", text(exact("ann")), false),
                None,
                Some("there is no verified token with the claim `name`, the rule wants exactly `ann`"),
            ),
            (
                claim("group", text(prefix("d")), false),
                None,
                Some("there is no verified token with the claim `group`, the rule wants the prefix `d`"),
            ),
            (
                claim("group", ValueMatch::Present, false),
                None,
                Some("there is no verified token with the claim `group`, the rule wants it to be there"),
            ),
            (
                claim("scope", text(exact("write")), false),
                None,
                Some("there is no verified token with the claim `scope`, the rule wants exactly `write`"),
            ),
            (
                claim("realm.role", text(regex("[a-z]")), false),
                None,
                Some("there is no verified token with the claim `realm.role`, the rule wants a match of regex `[a-z]`"),
            ),
            (
                claim("group", text(exact("admin")), true),
                Some("claim `group` is `admin` and `dev`, the rule wants anything but exactly `admin`"),
                None,
            ),
            (
                claim("group", ValueMatch::Present, true),
                Some("claim `group` is `admin` and `dev`, the rule wants it absent"),
                None,
            ),
            (claim("nope", text(exact("")), true), None, None),
            (claim("level", text(exact("7")), true), None, None),
        ] {
            for (claims, failure) in [(Some(&claims), with), (None, without)] {
                let head = RequestHead { claims, ..head(None, &none) };
                assert_eq!(predicate.holds(&head), failure.is_none(), "{predicate:?}");
                if let Some(failure) = failure {
                    assert_eq!(predicate.failure(&head), failure);
                }
            }
        }
        let head = RequestHead { claims: Some(&claims), ..head(None, &none) };
        for (path, failure) in [
            ("level", "claim `level` is neither a text nor a list of texts, the rule wants exactly `7`"),
            ("nope", "claim `nope` is absent, the rule wants exactly `7`"),
        ] {
            let predicate = claim(path, text(exact("7")), false);
            assert!(!predicate.holds(&head));
            assert_eq!(predicate.failure(&head), failure);
        }
    }

    #[test]
    fn values_from_outside_are_shown_harmless() {
        assert_eq!(quoted("a\r\nb\x1b[0m"), "`a\\r\\nb\\u{1b}[0m`");
        assert_eq!(quoted("x".repeat(300)), format!("`{}…`", "x".repeat(200)));
    }
}
