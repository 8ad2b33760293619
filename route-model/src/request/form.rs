//! What may stand for a method and for a Host.

/// Whether this is a method that an HTTP/1 request line may begin with: the list of Envoy's parser, case-sensitive,
/// without CONNECT.
pub fn is_method(bytes: &[u8]) -> bool {
    matches!(bytes, b"GET" | b"POST" | b"PUT" | b"HEAD" | b"DELETE" | b"OPTIONS" | b"PATCH" | b"TRACE")
        || OTHER_METHODS.contains(&bytes)
}

const OTHER_METHODS: [&[u8]; 25] = [
    b"ACL",
    b"BIND",
    b"CHECKOUT",
    b"COPY",
    b"LINK",
    b"LOCK",
    b"M-SEARCH",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"NOTIFY",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SOURCE",
    b"SUBSCRIBE",
    b"UNBIND",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
];

/// Whether this is `uri-host [":" port]` of RFC 9110 section 7.2, with two liberties that Envoy takes and routing allows
/// for: the whole may be empty, and what follows the colon need not be digits. User information is refused.
pub fn is_host(bytes: &[u8]) -> bool {
    let name_end = match bytes.first() {
        Some(b'[') => {
            let end = bytes.iter().position(|&byte| byte == b']').map_or(bytes.len(), |close| close + 1);
            let [b'[', address @ .., b']'] = &bytes[..end] else { return false };
            if !std::str::from_utf8(address).is_ok_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()) {
                return false;
            }
            end
        }
        _ => bytes.iter().position(|&byte| !REG_NAME[usize::from(byte)]).unwrap_or(bytes.len()),
    };
    match &bytes[name_end..] {
        [] | [b':'] => true,
        [b':', port @ ..] => name_end > 0 && port.iter().all(u8::is_ascii_alphanumeric),
        _ => false,
    }
}

/// RFC 3986 section 3.2.2: unreserved, sub-delims, and `%` of an escape.
const REG_NAME: [bool; 256] = {
    let mut valid = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        valid[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=%";
    let mut index = 0;
    while index < others.len() {
        valid[others[index] as usize] = true;
        index += 1;
    }
    valid
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods() {
        for accepted in ["GET", "PURGE", "LOCK", "REPORT", "M-SEARCH", "UNSUBSCRIBE"] {
            assert!(is_method(accepted.as_bytes()), "{accepted}");
        }
        for refused in ["FOO", "get", "QUERY", "", "GET ", "PRI", "CONNECT"] {
            assert!(!is_method(refused.as_bytes()), "{refused}");
        }
    }

    #[test]
    fn hosts() {
        for accepted in
            ["", "a", "a.test", "a.test.", "A.Test:80", "a:", "a:x", "127.0.0.1:1", "[::1]", "[::1]:80", "a_b", "%41"]
        {
            assert!(is_host(accepted.as_bytes()), "{accepted}");
        }
        for refused in [
            "a b", "a/b", "a@b", "a#", "a?", "a\\b", "a:1:2", "[::1", "[::1]x", "[x]", "[]", "[", ":80", "::1", "a\"",
            "a<", "\u{e9}", "a, b",
        ] {
            assert!(!is_host(refused.as_bytes()), "{refused}");
        }
    }
}
