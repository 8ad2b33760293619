//! Whom a limit hits most: a bounded sketch of its keys (Metwally et al., "Efficient computation of frequent and top-k
//! elements in data streams", 2005: Space-Saving).
//!
//! Only refused requests come here. One that finds the sketch busy is left out: the order of the first few matters,
//! not the last request.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use route_model::table::RequestHead;
use route_model::verdict::limits::{KeyPart, LimitRule};

/// Keys that are remembered for each rule. Whoever has more than this share of the refusals is among them.
const KEYS: usize = 32;

/// What is shown of a key.
const MAX_KEY_BYTES: usize = 200;
/// A longer value of a header or cookie may be a secret, and is shown by its first bytes.
const SHOWN_WHOLE: usize = 12;
const SHOWN_FIRST: usize = 8;

/// The keys of one rule that were refused most.
#[derive(Debug, Default)]
pub(crate) struct TopKeys(Mutex<Vec<TopKey>>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopKey {
    hash: u64,
    /// In words.
    pub(crate) key: Box<str>,
    /// Refusals, up to `over` of which may be those of keys that it took the place of.
    pub(crate) limited: u64,
    pub(crate) over: u64,
}

impl TopKeys {
    /// Counts a refusal. `describe` is called for a key that is not known.
    pub(crate) fn note(&self, hash: u64, describe: impl FnOnce() -> String) {
        let Ok(mut keys) = self.0.try_lock() else { return };
        if let Some(known) = keys.iter_mut().find(|known| known.hash == hash) {
            known.limited += 1;
            return;
        }
        let new = |limited, over| TopKey { hash, key: describe().into(), limited, over };
        if keys.len() < KEYS {
            keys.push(new(1, 0));
        } else if let Some(least) = keys.iter_mut().min_by_key(|known| known.limited) {
            *least = new(least.limited + 1, least.limited);
        }
    }

    /// The most refused first.
    pub(crate) fn list(&self) -> Vec<TopKey> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        keys.sort_by(|one, other| other.limited.cmp(&one.limited).then_with(|| one.key.cmp(&other.key)));
        keys
    }
}

/// A request's key in words.
pub(super) fn describe(rule: &LimitRule, head: &RequestHead<'_>, client: IpAddr) -> String {
    let parts: Vec<String> = rule.key.iter().filter_map(|part| shown(part, head, client)).collect();
    let mut text = parts.join(", ");
    text.truncate(text.floor_char_boundary(MAX_KEY_BYTES));
    text
}

fn shown(part: &KeyPart, head: &RequestHead<'_>, client: IpAddr) -> Option<String> {
    let (kind, name, value) = match part {
        KeyPart::Header(name) => ("header", name.as_str(), head.headers.get(name)?.as_bytes()),
        KeyPart::Cookie(name) => ("cookie", &**name, head.cookie(name)?),
        other => return other.describe(head, client).ok(),
    };
    let (first, rest) = if value.len() > SHOWN_WHOLE { (&value[..SHOWN_FIRST], "…") } else { (value, "") };
    Some(format!("{kind} {name} {:?}{rest}", String::from_utf8_lossy(first)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderName, HeaderValue};
    use route_model::request::headers::Headers;
    use route_model::verdict::limits::Rate;

    use super::*;

    #[test]
    fn whoever_is_refused_most_is_found_among_many() {
        let top = TopKeys::default();
        let mut random = fastrand::Rng::with_seed(3);
        let mut often = 0;
        for round in 0..20_000 {
            let key = if round % 5 == 0 { 7 } else { random.u64(1000..) };
            often += u64::from(key == 7);
            top.note(key, || format!("key {key}"));
        }
        let list = top.list();
        assert_eq!((list.len(), &*list[0].key), (KEYS, "key 7"));
        assert!(list[0].limited - list[0].over <= often && list[0].limited >= often, "{:?}", list[0]);
    }

    #[test]
    fn what_may_be_a_secret_is_shown_in_part() {
        let name = HeaderName::from_static("x-api-key");
        let key = vec![KeyPart::Header(name.clone()), KeyPart::ClientIp { v4: 24, v6: 64 }, KeyPart::Method];
        let rule = LimitRule {
            name: "r".into(),
            matches: Box::default(),
            key: key.into(),
            rate: Rate { requests: 1, per: Duration::from_secs(1), burst: 1 },
            cost: 1,
            cost_header: None,
            advertised: HeaderValue::from_static(""),
        };
        for (value, shown) in [("tenant-a", "\"tenant-a\""), ("0123456789abcdef", "\"01234567\"…")] {
            let mut headers = Headers::new();
            headers.insert(name.clone(), HeaderValue::from_static(value));
            let head = RequestHead {
                method: "GET",
                scheme: "http",
                authority: "a",
                path: "/",
                query: None,
                headers: &headers,
                claims: None,
            };
            let text = describe(&rule, &head, [10, 0, 0, 1].into());
            assert_eq!(text, format!("header x-api-key {shown}, client 10.0.0.0/24, method `GET`"));
        }
    }
}
