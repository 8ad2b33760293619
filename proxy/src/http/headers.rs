//! Headers that the proxy adds of its own, and what a response loses on its way back.

use http::HeaderMap;
use http::header::{CONNECTION, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use route_model::request::hop::{KEEP_ALIVE, PROXY_CONNECTION, remove_nominated};
use smallvec::SmallVec;

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
pub const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Removes from a response what belongs to the upstream connection. The value of Upgrade is handed back, for a 101.
pub fn strip_response(headers: &mut HeaderMap) -> Option<HeaderValue> {
    // A look at each name costs less than a search for one that is not there.
    let found: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| is_hop(name)).cloned().collect();
    if found.contains(&CONNECTION) {
        remove_nominated(headers);
    }
    let mut upgrade = None;
    for name in &found {
        let value = headers.remove(name);
        if name == UPGRADE {
            upgrade = value;
        }
    }
    upgrade
}

fn is_hop(name: &HeaderName) -> bool {
    match name.as_str().len() {
        2 => name == TE,
        7 => name == UPGRADE,
        10 => name == CONNECTION || name == KEEP_ALIVE,
        16 => name == PROXY_CONNECTION,
        17 => name == TRANSFER_ENCODING,
        _ => false,
    }
}

/// A number as a value; the small ones, which are most, without allocating.
pub fn number(value: u64) -> HeaderValue {
    const SMALL: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match SMALL.get(value as usize) {
        Some(text) => HeaderValue::from_static(text),
        None => HeaderValue::from(value),
    }
}

/// A fresh request id, shaped like a version 4 UUID. It names a request in logs; it is no secret.
pub fn new_request_id() -> HeaderValue {
    let mut random = fastrand::u128(..).to_be_bytes();
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    let mut position = 0;
    for (index, byte) in random.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            position += 1;
        }
        text[position] = HEX[usize::from(byte >> 4)];
        text[position + 1] = HEX[usize::from(byte & 0x0f)];
        position += 2;
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn responses_lose_what_belongs_to_the_upstream_connection() {
        let fields = [
            ("connection", "upgrade, x-hop"),
            ("upgrade", "websocket"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("server", "origin"),
        ];
        let mut headers: HeaderMap = fields
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .into_iter()
            .collect();
        assert_eq!(strip_response(&mut headers).unwrap(), "websocket");
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["server"]);
    }

    proptest! {
        #[test]
        fn request_ids_are_version_4_uuids(_ in 0..64u8) {
            let id = new_request_id();
            let text = id.to_str().unwrap();
            let groups: Vec<usize> = text.split('-').map(str::len).collect();
            prop_assert_eq!(groups, [8, 4, 4, 4, 12]);
            prop_assert_eq!(text.as_bytes()[14], b'4');
            prop_assert!(b"89ab".contains(&text.as_bytes()[19]));
        }
    }
}
