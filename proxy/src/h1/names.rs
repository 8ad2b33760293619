//! Header names that are met every day, recognised a word at a time.

use http::HeaderName;

/// The name that these bytes are, in whatever case; `None` if they are not a token (RFC 9110 section 5.1).
pub(super) fn header_name(bytes: &[u8]) -> Option<HeaderName> {
    if bytes.is_empty() {
        return None;
    }
    let key = Key::of(bytes).lower();
    if let Some(known) = KNOWN.get(usize::from(SLOTS[key.slot()]))
        && known.key == key
        && (key.length <= 16 || known.middle().eq_ignore_ascii_case(&bytes[8..key.length - 8]))
    {
        return Some(known.name.clone());
    }
    HeaderName::from_bytes(bytes).ok()
}

/// A name's length and both its ends, which are all of it if it is no longer than 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    length: usize,
    first: u64,
    last: u64,
}

impl Key {
    /// Of at least one byte.
    const fn of(bytes: &[u8]) -> Self {
        let length = bytes.len();
        let (first, last) = if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
            (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
        } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (u32::from_le_bytes(*first) as u64, u32::from_le_bytes(*last) as u64)
        } else {
            (u32::from_le_bytes([bytes[0], bytes[length / 2], bytes[length - 1], 0]) as u64, 0)
        };
        Self { length, first, last }
    }

    fn lower(self) -> Self {
        Self { first: lower(self.first), last: lower(self.last), ..self }
    }

    /// Where the name is in [`SLOTS`], if it is: by a product that was searched for so that no two of [`KNOWN`] meet.
    const fn slot(self) -> usize {
        let mixed = (self.first ^ self.last.rotate_left(29)).wrapping_add(self.length as u64);
        (mixed.wrapping_mul(0x4f19_666d_d08a_453d) >> (64 - SLOTS.len().trailing_zeros())) as usize
    }
}

/// ASCII letters become small ones, eight bytes at once.
const fn lower(word: u64) -> u64 {
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    const fn each(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    let low = word & !HIGH;
    // The highest bit of each byte: set by adding where the byte is at least `A`, and where it is beyond `Z`.
    let capital = (low + each(0x80 - b'A')) & !(low + each(0x80 - b'Z' - 1)) & !word & HIGH;
    word | capital >> 2
}

struct Known {
    key: Key,
    name: HeaderName,
}

impl Known {
    /// What is neither in the first nor in the last eight bytes of a long name.
    fn middle(&self) -> &[u8] {
        &self.name.as_str().as_bytes()[8..self.key.length - 8]
    }
}

macro_rules! known {
    ($($text:literal,)*) => {
        const TEXTS: &[&str] = &[$($text,)*];
        static KNOWN: [Known; TEXTS.len()] =
            [$(Known { key: Key::of($text.as_bytes()), name: HeaderName::from_static($text) },)*];
    };
}

// What clients, services and other proxies send most.
#[rustfmt::skip]
known![
    "accept", "accept-encoding", "accept-language", "accept-ranges", "access-control-allow-headers",
    "access-control-allow-methods", "access-control-allow-origin", "access-control-expose-headers",
    "access-control-max-age", "access-control-request-headers", "access-control-request-method", "age", "allow",
    "alt-svc", "authorization", "cache-control", "connection", "content-disposition", "content-encoding",
    "content-language", "content-length", "content-range", "content-security-policy", "content-type", "cookie",
    "date", "dnt", "etag", "expect", "expires", "host", "if-match", "if-modified-since", "if-none-match",
    "if-range", "last-modified", "link", "location", "origin", "pragma", "range", "referer", "referrer-policy",
    "server", "set-cookie", "strict-transport-security", "te", "trailer", "transfer-encoding", "upgrade",
    "upgrade-insecure-requests", "user-agent", "vary", "via", "www-authenticate", "x-content-type-options",
    "x-frame-options", "x-xss-protection", "keep-alive", "x-forwarded-for", "x-forwarded-proto",
    "x-forwarded-host", "x-forwarded-client-cert", "x-request-id", "x-real-ip", "x-powered-by",
    "x-requested-with", "x-api-key", "x-envoy-upstream-service-time", "x-envoy-attempt-count", "traceparent",
    "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-amzn-trace-id",
    "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "sec-fetch-user", "sec-ch-ua", "sec-ch-ua-mobile",
    "sec-ch-ua-platform", "priority", "server-timing", "grpc-status", "grpc-message", "grpc-timeout",
    "grpc-encoding", "grpc-accept-encoding",
];

/// Positions in [`KNOWN`]; 255 where there is none.
static SLOTS: [u8; 512] = {
    let mut slots = [u8::MAX; 512];
    let mut position = 0;
    while position < TEXTS.len() {
        let slot = &mut slots[Key::of(TEXTS[position].as_bytes()).slot()];
        assert!(*slot == u8::MAX, "two names meet");
        *slot = position as u8;
        position += 1;
    }
    slots
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_known_name_is_recognised_in_any_case() {
        for Known { name, .. } in &KNOWN {
            assert_eq!(header_name(name.as_str().as_bytes()).as_ref(), Some(name));
            assert_eq!(header_name(name.as_str().to_ascii_uppercase().as_bytes()).as_ref(), Some(name));
        }
    }

    proptest! {
        #[test]
        fn names_are_what_http_takes_for_one(known in 0..KNOWN.len(), at: usize, byte: u8, keep: bool) {
            let mut bytes = TEXTS[known].as_bytes().to_vec();
            let at = at % bytes.len();
            if !keep {
                bytes[at] = byte;
            }
            prop_assert_eq!(header_name(&bytes), HeaderName::from_bytes(&bytes).ok());
        }

        #[test]
        fn any_bytes_are_judged_as_http_does(bytes: Vec<u8>) {
            prop_assert_eq!(header_name(&bytes), HeaderName::from_bytes(&bytes).ok());
        }

        #[test]
        fn words_become_small_as_their_bytes_do(bytes: [u8; 8]) {
            prop_assert_eq!(lower(u64::from_le_bytes(bytes)).to_le_bytes(), bytes.map(|byte| byte.to_ascii_lowercase()));
        }
    }
}
