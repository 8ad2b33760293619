//! Rate limits: which rules count a request, and which bucket of each rule it takes from. How full the buckets are is
//! for the proxy to know.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use crate::matching::{Predicates, UriMatch, quoted};
use crate::meta::ResourceKey;
use crate::request::claims::ClaimPath;
use crate::request::headers::Headers;
use crate::table::RequestHead;

/// The most that one request may cost.
pub const MAX_COST: u32 = 1_000_000;

/// The number of a policy, the same from table to table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimitId(pub u32);

impl LimitId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Without the number, which is another with every compiler.
impl fmt::Debug for LimitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LimitId")
    }
}

/// The limits of one route, or of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteLimits {
    /// Who the route or the service is, for policies whose buckets are of each route apart.
    pub route: Box<str>,
    /// Of the Gateway, of the VirtualService, of its rule, in this order; or of the ServiceEntry. All must admit a
    /// request.
    pub policies: Box<[Arc<LimitPolicy>]>,
}

/// A RateLimitPolicy, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitPolicy {
    pub id: LimitId,
    pub resource: ResourceKey,
    /// `mode: Enforce`; else requests over a limit are only counted.
    pub enforced: bool,
    /// `scope: Route`.
    pub per_route: bool,
    /// In the order in which they are asked.
    pub rules: Box<[LimitRule]>,
    pub refusal: Refusal,
}

/// One limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitRule {
    pub name: Box<str>,
    /// One of them must hold; empty: every request counts.
    pub matches: Box<[(UriMatch, Predicates)]>,
    /// All must be there; empty: one bucket for all.
    pub key: Box<[KeyPart]>,
    pub rate: Rate,
    /// What a request takes from its bucket.
    pub cost: u32,
    /// The request header that says so instead.
    pub cost_header: Option<HeaderName>,
    /// `RateLimit-Policy` for this rule.
    pub advertised: HeaderValue,
}

/// How a bucket fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub requests: u32,
    pub per: Duration,
    /// The bucket's capacity, in requests.
    pub burst: u32,
}

/// A part of a bucket's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// The leading bits of the client's address.
    ClientIp {
        v4: u8,
        v6: u8,
    },
    /// The first value.
    Header(HeaderName),
    Cookie(Box<str>),
    /// The normalised path, without the query.
    Path,
    Method,
    /// Of a verified token. An object, and what holds one, is as good as absent.
    Claim(ClaimPath),
}

/// The answer to a request that is over a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub status: StatusCode,
    pub headers: Headers,
    pub body: Bytes,
}

/// The policies of a route and then of the service that a request goes to, each once, with whose they are.
pub fn together<'a>(
    route: Option<&'a RouteLimits>,
    service: Option<&'a RouteLimits>,
) -> impl Iterator<Item = (&'a str, &'a Arc<LimitPolicy>)> {
    let is_new = move |policy: &&Arc<LimitPolicy>| {
        route.is_none_or(|route| route.policies.iter().all(|known| known.id != policy.id))
    };
    let of_route = route.into_iter().flat_map(|limits| limits.policies.iter().map(|policy| (&*limits.route, policy)));
    let of_service = service
        .into_iter()
        .flat_map(move |limits| limits.policies.iter().filter(is_new).map(|policy| (&*limits.route, policy)));
    of_route.chain(of_service)
}

impl LimitRule {
    /// Whether the rule counts a request, its key aside.
    pub fn counts(&self, head: &RequestHead<'_>) -> bool {
        self.matches.is_empty()
            || self.matches.iter().any(|(uri, predicates)| uri.is_match(head.path) && predicates.hold(head))
    }

    /// All requests that the rule counts share one bucket.
    pub fn is_keyless(&self, policy: &LimitPolicy) -> bool {
        self.key.is_empty() && !policy.per_route
    }

    /// The bucket of a request, as a hash that only the holder of `hasher` can foresee. `None`: a part of the key is
    /// absent, so that the rule does not count the request (as with the descriptors of Envoy's rate limits).
    /// Allocates nothing.
    pub fn bucket(
        &self,
        route: Option<&str>,
        head: &RequestHead<'_>,
        client: IpAddr,
        hasher: &impl BuildHasher,
    ) -> Option<u64> {
        let mut hash = hasher.build_hasher();
        route.hash(&mut hash);
        for part in &self.key {
            part.hash_value(head, client, &mut hash)?;
        }
        Some(hash.finish())
    }

    /// What a request takes from its bucket.
    pub fn cost(&self, headers: &Headers) -> u32 {
        let written = self.cost_header.as_ref().and_then(|name| headers.get(name));
        let written = written.and_then(|value| value.to_str().ok()?.parse().ok());
        written.filter(|cost| (1..=MAX_COST).contains(cost)).unwrap_or(self.cost)
    }
}

impl KeyPart {
    /// `None`: the request has no such thing. Lengths are hashed too, so that no two keys read the same.
    fn hash_value(&self, head: &RequestHead<'_>, client: IpAddr, hash: &mut impl Hasher) -> Option<()> {
        match self {
            Self::ClientIp { v4, v6 } => masked(client, *v4, *v6).hash(hash),
            Self::Header(name) => head.headers.get(name)?.as_bytes().hash(hash),
            Self::Cookie(name) => head.cookie(name)?.hash(hash),
            Self::Path => head.path.hash(hash),
            Self::Method => head.method.hash(hash),
            Self::Claim(path) => hash_claim(head.claims?.get(path)?, hash)?,
        }
        Some(())
    }

    /// The part and its value in words; `Err`: what the request lacks.
    pub fn describe(&self, head: &RequestHead<'_>, client: IpAddr) -> Result<String, String> {
        match self {
            Self::ClientIp { v4, v6 } => {
                let bits = if client.to_canonical().is_ipv4() { v4 } else { v6 };
                Ok(format!("client {}/{bits}", masked(client, *v4, *v6)))
            }
            Self::Header(name) => {
                let value = head.headers.get(name).ok_or_else(|| format!("header `{name}`"))?;
                Ok(format!("header {name} {}", quoted(value)))
            }
            Self::Cookie(name) => {
                let value = head.cookie(name).ok_or_else(|| format!("cookie `{name}`"))?;
                Ok(format!("cookie {name} {}", quoted(value)))
            }
            Self::Path => Ok(format!("path {}", quoted(head.path))),
            Self::Method => Ok(format!("method {}", quoted(head.method))),
            Self::Claim(path) => {
                let claim = head.claims.and_then(|claims| claims.get(path)).filter(|claim| is_plain(claim));
                let claim = claim.ok_or_else(|| format!("claim `{path}` of a verified token"))?;
                Ok(format!("claim {path} {}", quoted(claim.as_str().map_or_else(|| claim.to_string(), str::to_owned))))
            }
        }
    }
}

/// An address with only its leading bits; an IPv4 address that came as IPv6 is IPv4.
fn masked(client: IpAddr, v4: u8, v6: u8) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4)).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6)).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

/// Values of different types never hash alike.
fn hash_claim(claim: &Value, hash: &mut impl Hasher) -> Option<()> {
    if !is_plain(claim) {
        return None;
    }
    std::mem::discriminant(claim).hash(hash);
    match claim {
        Value::String(text) => text.hash(hash),
        Value::Number(number) => number.hash(hash),
        Value::Bool(truth) => truth.hash(hash),
        Value::Array(items) => {
            items.len().hash(hash);
            return items.iter().try_for_each(|item| hash_claim(item, hash));
        }
        Value::Null | Value::Object(_) => {}
    }
    Some(())
}

/// A text, a number, a boolean, or a list of them.
fn is_plain(claim: &Value) -> bool {
    match claim {
        Value::String(_) | Value::Number(_) | Value::Bool(_) => true,
        Value::Array(items) => items.iter().all(is_plain),
        Value::Null | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use foldhash::quality::FixedState;

    use super::*;
    use crate::request::claims::Claims;

    fn rule(key: Vec<KeyPart>) -> LimitRule {
        LimitRule {
            name: "r".into(),
            matches: Box::default(),
            key: key.into(),
            rate: Rate { requests: 1, per: Duration::from_secs(1), burst: 1 },
            cost: 2,
            cost_header: Some(HeaderName::from_static("x-cost")),
            advertised: HeaderValue::from_static(""),
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in pairs {
            headers.append(http::HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn bucket(key: &KeyPart, client: &str, sent: &[(&'static str, &'static str)], path: &str) -> Option<u64> {
        let headers = headers(sent);
        let head = RequestHead {
            method: "GET",
            scheme: "http",
            authority: "a",
            path,
            query: None,
            headers: &headers,
            claims: None,
        };
        rule(vec![key.clone()]).bucket(None, &head, client.parse().unwrap(), &FixedState::with_seed(1))
    }

    #[test]
    fn clients_share_a_bucket_by_their_leading_bits() {
        for (v4, v6, one, other, same) in [
            (32, 64, "10.0.0.1", "10.0.0.1", true),
            (32, 64, "10.0.0.1", "10.0.0.2", false),
            (24, 64, "10.0.0.1", "10.0.0.2", true),
            (24, 64, "10.0.0.1", "10.0.1.1", false),
            (0, 64, "10.0.0.1", "99.0.1.1", true),
            (32, 64, "::ffff:10.0.0.1", "10.0.0.1", true),
            (32, 64, "2001:db8::1", "2001:db8::ffff:1", true),
            (32, 64, "2001:db8::1", "2001:db8:0:1::1", false),
            (32, 128, "2001:db8::1", "2001:db8::2", false),
            (32, 0, "2001:db8::1", "fe80::2", true),
        ] {
            let key = KeyPart::ClientIp { v4, v6 };
            let equal = bucket(&key, one, &[], "/") == bucket(&key, other, &[], "/");
            assert_eq!(equal, same, "{one} {other} by {v4}, {v6}");
        }
    }

    #[test]
    fn what_a_request_lacks_has_no_bucket() {
        let header = KeyPart::Header(HeaderName::from_static("x-api-key"));
        assert_eq!(bucket(&header, "10.0.0.1", &[], "/"), None);
        assert!(bucket(&header, "10.0.0.1", &[("x-api-key", "")], "/").is_some());
        let one = bucket(&header, "10.0.0.1", &[("x-api-key", "a"), ("x-api-key", "b")], "/");
        assert_eq!(one, bucket(&header, "10.0.0.9", &[("x-api-key", "a")], "/x"));
        assert_ne!(one, bucket(&header, "10.0.0.1", &[("x-api-key", "b")], "/"));
        let cookie = KeyPart::Cookie("sid".into());
        assert_eq!(bucket(&cookie, "10.0.0.1", &[("cookie", "xsid=1; sidx=2")], "/"), None);
        let one = bucket(&cookie, "10.0.0.1", &[("cookie", "a=b; sid=7; sid=8")], "/");
        assert!(one.is_some());
        assert_eq!(one, bucket(&cookie, "10.0.0.1", &[("cookie", "a=c"), ("cookie", "sid=7")], "/"));
        assert_eq!(bucket(&KeyPart::Claim(ClaimPath::dotted("sub")), "10.0.0.1", &[], "/"), None);
        assert_ne!(bucket(&KeyPart::Path, "10.0.0.1", &[], "/a"), bucket(&KeyPart::Path, "10.0.0.1", &[], "/b"));
    }

    #[test]
    fn claims_of_a_verified_token_have_buckets() {
        let of = |claim: serde_json::Value| {
            let payload = serde_json::json!({"user": {"id": claim}});
            let claims = Claims::new(payload.as_object().expect("object").clone(), &[]);
            let headers = headers(&[]);
            let head = RequestHead {
                method: "GET",
                scheme: "http",
                authority: "a",
                path: "/",
                query: None,
                headers: &headers,
                claims: Some(&claims),
            };
            let part = KeyPart::Claim(ClaimPath::dotted("user.id"));
            let bucket = rule(vec![part.clone()]).bucket(None, &head, [10, 0, 0, 1].into(), &FixedState::with_seed(1));
            let described = part.describe(&head, [10, 0, 0, 1].into());
            assert_eq!(bucket.is_some(), described.is_ok());
            bucket
        };
        use serde_json::json;
        let values =
            [json!("7"), json!(7), json!(true), json!(["7"]), json!(["7", "8"]), json!([["7"], "8"]), json!("")];
        for (i, one) in values.iter().enumerate() {
            for (j, other) in values.iter().enumerate() {
                assert_eq!(of(one.clone()) == of(other.clone()), i == j, "{one} {other}");
            }
            assert!(of(one.clone()).is_some());
        }
        for absent in [json!(null), json!({"a": 1}), json!(["a", {}])] {
            assert_eq!(of(absent.clone()), None, "{absent}");
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other_and_routes_can_be_apart() {
        let key = vec![KeyPart::Header(HeaderName::from_static("a")), KeyPart::Header(HeaderName::from_static("b"))];
        let of = |route, a, b| {
            let headers = headers(&[("a", a), ("b", b)]);
            let head = RequestHead {
                method: "GET",
                scheme: "http",
                authority: "a",
                path: "/",
                query: None,
                headers: &headers,
                claims: None,
            };
            rule(key.clone()).bucket(route, &head, [10, 0, 0, 1].into(), &FixedState::with_seed(1))
        };
        assert_ne!(of(None, "x", "yz"), of(None, "xy", "z"));
        assert_ne!(of(Some("r1"), "x", "y"), of(Some("r2"), "x", "y"));
        assert_eq!(of(Some("r1"), "x", "y"), of(Some("r1"), "x", "y"));
    }

    #[test]
    fn a_cost_that_is_none_is_not_believed() {
        for (sent, cost) in [
            (&[][..], 2),
            (&[("x-cost", "5")], 5),
            (&[("x-cost", "0")], 2),
            (&[("x-cost", "-1")], 2),
            (&[("x-cost", "1000001")], 2),
            (&[("x-cost", "much")], 2),
        ] {
            assert_eq!(rule(Vec::new()).cost(&headers(sent)), cost, "{sent:?}");
        }
    }
}
