//! What a request is hashed by, for consistent hashing (`loadBalancer.consistentHash`).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use http::HeaderName;

use super::RequestHead;

/// Requests of one key go to one endpoint, as long as the endpoints stay the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    pub key: HashKey,
    pub algorithm: HashAlgorithm,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    Header(HeaderName),
    Cookie(HashCookie),
    /// The client's address.
    SourceIp,
    /// A query parameter, undecoded; the first of its name.
    Query(Box<str>),
}

/// A cookie that keeps a client at its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    pub name: Box<str>,
    /// `None`: the proxy reads the cookie and never issues it. Zero: a cookie of the browser's session.
    pub ttl: Option<Duration>,
    pub path: Box<str>,
    pub attributes: Box<[(Box<str>, Box<str>)]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// Points on a ring, at least so many.
    Ring(u32),
    /// A table of this size, which is a prime.
    Maglev(u32),
}

impl ConsistentHash {
    /// The hash of a connection that is not HTTP; `None` if something of HTTP is to be hashed.
    pub fn of_connection(&self, client: IpAddr) -> Option<u64> {
        (self.key == HashKey::SourceIp).then(|| match client {
            IpAddr::V4(ip) => hash(&ip.octets()),
            IpAddr::V6(ip) => hash(&ip.octets()),
        })
    }

    /// The hash of a request; `None` if it lacks what is hashed: then any endpoint will do.
    pub fn of(&self, head: &RequestHead<'_>, client: IpAddr) -> Option<u64> {
        match &self.key {
            HashKey::Header(name) => {
                let mut values = head.headers.get_all(name).peekable();
                values.peek()?;
                Some(finish(values.fold(SEED, |state, value| absorb(state, value.as_bytes()))))
            }
            // The quotes that it is issued with, a client may leave out.
            HashKey::Cookie(cookie) => head.cookie(&cookie.name).map(|value| hash(unquoted(value))),
            HashKey::SourceIp => self.of_connection(client),
            HashKey::Query(name) => head.query_parameter(name).map(|value| hash(value.as_bytes())),
        }
    }
}

impl HashCookie {
    /// `Set-Cookie` for a client that has none yet; `None` if the proxy is only to read it.
    pub fn issue(&self, value: &str) -> Option<String> {
        let ttl = self.ttl?;
        let mut cookie = format!("{}=\"{value}\"", self.name);
        if !ttl.is_zero() {
            let _ = write!(cookie, "; Max-Age={}", ttl.as_secs());
        }
        if !self.path.is_empty() {
            let _ = write!(cookie, "; Path={}", self.path);
        }
        for (name, value) in &self.attributes {
            cookie.push_str("; ");
            cookie.push_str(name);
            if !value.is_empty() {
                cookie.push('=');
                cookie.push_str(value);
            }
        }
        cookie.push_str("; HttpOnly");
        Some(cookie)
    }
}

fn unquoted(value: &[u8]) -> &[u8] {
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    value.strip_suffix(b"\"").unwrap_or(value)
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// The same on every machine and in every version, so that replicas agree: FNV-1a with a finish that spreads it.
pub fn hash(bytes: &[u8]) -> u64 {
    finish(absorb(SEED, bytes))
}

fn absorb(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// `MurmurHash3`'s 64-bit finaliser.
fn finish(mut state: u64) -> u64 {
    state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state = (state ^ (state >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::request::headers::Headers;

    fn by(key: HashKey) -> ConsistentHash {
        ConsistentHash { key, algorithm: HashAlgorithm::Ring(1024) }
    }

    fn of(key: HashKey, query: Option<&str>, fields: &[(&'static str, &'static str)]) -> Option<u64> {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let headers: Headers = fields.iter().map(field).collect();
        let head = RequestHead {
            method: "GET",
            scheme: "http",
            authority: "h",
            path: "/",
            query,
            headers: &headers,
            claims: None,
        };
        by(key).of(&head, [192, 0, 2, 1].into())
    }

    fn cookie(ttl: Option<u64>) -> HashCookie {
        HashCookie {
            name: "at".into(),
            ttl: ttl.map(Duration::from_secs),
            path: "/shop".into(),
            attributes: Box::new([("SameSite".into(), "Lax".into()), ("Secure".into(), "".into())]),
        }
    }

    #[test]
    fn a_request_is_hashed_by_what_the_rule_names() {
        let header = || HashKey::Header(HeaderName::from_static("x-user"));
        assert_eq!(of(header(), None, &[]), None);
        assert_eq!(of(header(), None, &[("x-user", "a")]), Some(hash(b"a")));
        let query = || HashKey::Query("q".into());
        assert_eq!(of(query(), None, &[]), None);
        assert_eq!(of(query(), Some("p=1&q=a&q=b"), &[]), Some(hash(b"a")));
        assert_eq!(of(HashKey::SourceIp, None, &[]), Some(hash(&[192, 0, 2, 1])));
        let read = || HashKey::Cookie(cookie(None));
        assert_eq!(of(read(), None, &[("cookie", "b=2")]), None);
        assert_eq!(of(read(), None, &[("cookie", "b=2; at=\"x\"; c=3")]), Some(hash(b"x")));
    }

    #[test]
    fn cookies_are_issued_as_written() {
        assert_eq!(cookie(None).issue("v"), None);
        assert_eq!(cookie(Some(0)).issue("v").unwrap(), "at=\"v\"; Path=/shop; SameSite=Lax; Secure; HttpOnly");
        assert_eq!(
            cookie(Some(60)).issue("v").unwrap(),
            "at=\"v\"; Max-Age=60; Path=/shop; SameSite=Lax; Secure; HttpOnly"
        );
    }

    #[test]
    fn hashes_are_the_same_everywhere() {
        assert_eq!(hash(b""), 0xefd0_1f60_ba99_2926);
        assert_ne!(hash(b"a"), hash(b"b"));
    }
}
