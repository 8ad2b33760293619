//! Headers that the proxy adds of its own, and what a response loses on its way back.

use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use route_model::request::headers::Headers;
use route_model::request::hop::{KEEP_ALIVE, PROXY_CONNECTION, remove_nominated};
use smallvec::SmallVec;

use crate::h1::field_value;

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
pub const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Removes from a response what belongs to the upstream connection. The value of Upgrade is handed back, for a 101.
pub fn strip_response(headers: &mut Headers) -> Option<HeaderValue> {
    // A look at each name costs less than a search for one that is not there.
    let found: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| is_hop(name)).cloned().collect();
    if found.contains(&CONNECTION) {
        remove_nominated(headers);
    }
    let mut upgrade = None;
    for name in &found {
        let value = headers.remove(name);
        if name == UPGRADE {
            upgrade = upgrade.or(value);
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
    const VERSION: u128 = 0xf << 76;
    const VARIANT: u128 = 0b11 << 62;
    let random = fastrand::u128(..) & !(VERSION | VARIANT) | 4 << 76 | 0b10 << 62;
    let digits: [[u8; 8]; 4] = [96, 64, 32, 0].map(|shift| hex((random >> shift) as u32));
    let digits = digits.as_flattened();
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&digits[..8]);
    text[9..13].copy_from_slice(&digits[8..12]);
    text[14..18].copy_from_slice(&digits[12..16]);
    text[19..23].copy_from_slice(&digits[16..20]);
    text[24..].copy_from_slice(&digits[20..]);
    field_value(Bytes::copy_from_slice(&text)).unwrap_or(HeaderValue::from_static("-"))
}

/// A number's eight digits, all at once.
fn hex(number: u32) -> [u8; 8] {
    const ONES: u64 = u64::from_be_bytes([1; 8]);
    // Every digit to a byte of its own.
    let mut digits = u64::from(number);
    digits = (digits << 16 | digits) & 0x0000_ffff_0000_ffff;
    digits = (digits << 8 | digits) & 0x00ff_00ff_00ff_00ff;
    digits = (digits << 4 | digits) & 0x0f0f_0f0f_0f0f_0f0f;
    // 10 and more carry into the high half when 6 is added.
    let letters = (digits + 6 * ONES) >> 4 & ONES;
    (digits + u64::from(b'0') * ONES + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

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
        let mut headers: Headers = fields
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .into_iter()
            .collect();
        assert_eq!(strip_response(&mut headers).unwrap(), "websocket");
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["server"]);
    }

    proptest! {
        #[test]
        fn hex_digits_are_those_of_the_number(number: u32) {
            prop_assert_eq!(String::from_utf8(hex(number).to_vec()).unwrap(), format!("{number:08x}"));
        }

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
