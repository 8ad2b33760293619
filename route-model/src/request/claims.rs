//! What a verified token says of who sends a request, as routing, authorization and rate limits look at it.

use std::fmt;

use serde_json::{Map, Value};

/// The claims whose text is a list of words without anybody saying so (RFC 8693 section 4.2, and Istio).
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// The payload of a token that was verified. Made once for a token and shared by the requests that carry it.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    payload: Map<String, Value>,
    principal: Option<Box<str>>,
}

impl Claims {
    /// `space_delimited` names claims that are lists of words beside `scope` and `permission` (Istio
    /// `spaceDelimitedClaims`): a claim of the payload, or else one inside of others by a path with dots.
    pub fn new(mut payload: Map<String, Value>, space_delimited: &[Box<str>]) -> Self {
        for name in SPACE_DELIMITED.into_iter().chain(space_delimited.iter().map(|name| &**name)) {
            if let Some(claim) = named(&mut payload, name)
                && let Value::String(text) = claim
            {
                *claim = text.split(' ').filter(|word| !word.is_empty()).map(Value::from).collect();
            }
        }
        let principal = match (text(&payload, "iss"), text(&payload, "sub")) {
            (Some(issuer), Some(subject)) => Some(format!("{issuer}/{subject}").into()),
            _ => None,
        };
        Self { payload, principal }
    }

    /// `iss`.
    pub fn issuer(&self) -> Option<&str> {
        text(&self.payload, "iss")
    }

    /// `sub`.
    pub fn subject(&self) -> Option<&str> {
        text(&self.payload, "sub")
    }

    /// `iss/sub`, which is Istio's request principal; `None` where the token lacks one of them.
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// `aud`, whether it is one or a list.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.payload.get("aud").into_iter().flat_map(texts)
    }

    /// `azp`: whom the token was issued to (Istio `request.auth.presenter`).
    pub fn presenter(&self) -> Option<&str> {
        text(&self.payload, "azp")
    }

    /// A claim, whatever its type. Lists of words are lists.
    pub fn get(&self, path: &ClaimPath) -> Option<&Value> {
        path.find(&self.payload)
    }

    /// The texts of a claim: it is one, or a list of which some are. Numbers, booleans and objects are no text, so that
    /// nothing in Istio's rules matches them.
    pub fn texts(&self, path: &ClaimPath) -> impl Iterator<Item = &str> {
        self.get(path).into_iter().flat_map(texts)
    }
}

/// A text claim; an empty one is none.
fn text<'a>(payload: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    payload.get(name)?.as_str().filter(|text| !text.is_empty())
}

fn texts(claim: &Value) -> impl Iterator<Item = &str> {
    let items = match claim {
        Value::Array(items) => items,
        single => std::slice::from_ref(single),
    };
    items.iter().filter_map(Value::as_str)
}

/// A claim by its whole name, or else by a path with dots.
fn named<'a>(payload: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Value> {
    if payload.contains_key(name) {
        return payload.get_mut(name);
    }
    let (outer, rest) = name.split_once('.')?;
    named(payload.get_mut(outer)?.as_object_mut()?, rest)
}

/// Where in a token a claim is: its name, after the names of those that it lies in. At least one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimPath(Box<[Box<str>]>);

impl ClaimPath {
    /// `a.b`: as `outputClaimToHeaders` names claims.
    pub fn dotted(text: &str) -> Self {
        Self(text.split('.').map(Box::from).collect())
    }

    /// `[a][b]`: as a `when` key does after `request.auth.claims`. `None` for anything else.
    pub fn bracketed(text: &str) -> Option<Self> {
        let inside = text.strip_prefix('[')?.strip_suffix(']')?;
        (!inside.is_empty()).then(|| Self(inside.split("][").map(Box::from).collect()))
    }

    /// Either of both.
    pub fn parse(text: &str) -> Self {
        Self::bracketed(text).unwrap_or_else(|| Self::dotted(text))
    }

    /// The claim in a payload.
    pub fn find<'a>(&self, payload: &'a Map<String, Value>) -> Option<&'a Value> {
        let (last, outer) = self.0.split_last()?;
        let inside = outer.iter().try_fold(payload, |within, name| within.get(&**name)?.as_object());
        inside?.get(&**last)
    }

    /// The claim that a key of a VirtualService's `headers` or `withoutHeaders` means: `@request.auth.claims.a.b` or
    /// `@request.auth.claims[a][b]`, the claim's own names in their case. `None`: it is a header.
    pub fn of_header_key(key: &str) -> Option<Self> {
        const PREFIX: &str = "@request.auth.claims";
        let rest =
            key.get(..PREFIX.len()).filter(|start| start.eq_ignore_ascii_case(PREFIX)).map(|_| &key[PREFIX.len()..])?;
        match rest.strip_prefix('.') {
            Some("") => None,
            Some(dotted) => Some(Self::dotted(dotted)),
            None => Self::bracketed(rest),
        }
    }
}

/// With dots; in brackets where a name has dots itself.
impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.iter().any(|name| name.contains('.')) {
            return self.0.iter().try_for_each(|name| write!(f, "[{name}]"));
        }
        f.write_str(&self.0.join("."))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(payload: Value, space_delimited: &[&str]) -> Claims {
        let Value::Object(payload) = payload else { panic!("a payload is an object") };
        Claims::new(payload, &space_delimited.iter().map(|name| Box::from(*name)).collect::<Vec<_>>())
    }

    #[test]
    fn a_principal_is_issuer_and_subject() {
        for (payload, principal) in [
            (json!({"iss": "https://a.test", "sub": "x/y"}), Some("https://a.test/x/y")),
            (json!({"iss": "a"}), None),
            (json!({"sub": "a"}), None),
            (json!({"iss": "a", "sub": ""}), None),
            (json!({"iss": "a", "sub": 7}), None),
        ] {
            assert_eq!(claims(payload.clone(), &[]).principal(), principal, "{payload}");
        }
        let all = claims(json!({"iss": "i", "sub": "s", "azp": "p", "aud": ["a", 7, "b"]}), &[]);
        assert_eq!((all.issuer(), all.subject(), all.presenter()), (Some("i"), Some("s"), Some("p")));
        assert_eq!(all.audiences().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(claims(json!({"aud": "a"}), &[]).audiences().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn claims_are_found_inside_of_others() {
        let payload = json!({
            "groups": ["admin", 7, "dev"],
            "level": 3,
            "a.b": "with a dot",
            "realm": {"roles": ["r"], "Name": "n", "deep": {"x": "y"}},
        });
        let claims = claims(payload, &[]);
        for (path, texts) in [
            ("groups", &["admin", "dev"][..]),
            ("[groups]", &["admin", "dev"]),
            ("realm.roles", &["r"]),
            ("[realm][roles]", &["r"]),
            ("realm.deep.x", &["y"]),
            ("realm.Name", &["n"]),
            ("realm.name", &[]),
            ("realm", &[]),
            ("level", &[]),
            ("groups.admin", &[]),
            ("a.b", &[]),
            ("[a.b]", &["with a dot"]),
            ("", &[]),
            ("realm..x", &[]),
        ] {
            assert_eq!(claims.texts(&ClaimPath::parse(path)).collect::<Vec<_>>(), texts, "{path}");
        }
        assert_eq!(claims.get(&ClaimPath::dotted("level")), Some(&json!(3)));
    }

    #[test]
    fn lists_of_words_are_lists() {
        let payload = json!({
            "scope": "read  write",
            "permission": "one",
            "name": "Ann Smith",
            "provider": {"login": {"scope": "a b"}},
            "provider.scope": "c d",
        });
        let texts =
            |claims: &Claims, path: &str| claims.texts(&ClaimPath::parse(path)).map(str::to_owned).collect::<Vec<_>>();
        let by_default = claims(payload.clone(), &[]);
        assert_eq!(texts(&by_default, "scope"), ["read", "write"]);
        assert_eq!(texts(&by_default, "permission"), ["one"]);
        assert_eq!(texts(&by_default, "name"), ["Ann Smith"]);
        assert_eq!(texts(&by_default, "provider.login.scope"), ["a b"]);
        let more = claims(payload, &["name", "provider.login.scope", "provider.scope", "absent", "scope.deeper"]);
        assert_eq!(texts(&more, "scope"), ["read", "write"]);
        assert_eq!(texts(&more, "name"), ["Ann", "Smith"]);
        assert_eq!(texts(&more, "provider.login.scope"), ["a", "b"]);
        assert_eq!(texts(&more, "[provider.scope]"), ["c", "d"]);
    }

    #[test]
    fn keys_of_headers_that_are_claims() {
        for (key, path) in [
            ("@request.auth.claims", None),
            ("@request.auth.claims.", None),
            ("@request.auth.claims-", None),
            ("@request.auth.claims-abc", None),
            ("@request.auth.claims[]", None),
            ("@request.auth.claims[a", None),
            ("@request.auth.claims]a", None),
            ("request.auth.claims.a", None),
            ("x-other", None),
            ("@request.auth.claimé", None),
            ("@request.auth.claims.a", Some("a")),
            ("@Request.Auth.Claims.a.B", Some("a.B")),
            ("@request.auth.claims.a-b", Some("a-b")),
            ("@request.auth.claims[a]", Some("a")),
            ("@request.auth.claims[a][b]", Some("a.b")),
            ("@request.auth.claims[a.b][c]", Some("[a.b][c]")),
        ] {
            assert_eq!(ClaimPath::of_header_key(key).map(|path| path.to_string()).as_deref(), path, "{key}");
        }
    }
}
