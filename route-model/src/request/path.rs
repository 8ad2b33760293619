//! Paths: the one canonical form that is matched, logged and forwarded.
//!
//! This is what Envoy does for Istio's `pathNormalization: BASE`. It runs once per request, before routing, on the
//! target that the codec delivers; the origin sees the result. The query is never touched, a fragment is cut off.
//!
//! - `%XX` of an unreserved character (letters, digits, `-._~`) is decoded; every other escape stays as written, and so
//!   does a `%` that begins none. (If decoding would complete such a `%` to an escape it becomes `%25`, as in `%%32e`.)
//! - `\` becomes `/`; `"`, `<`, `>`, `^`, `{`, `|`, `}` and the backtick are escaped.
//! - `.` and `..` segments are resolved, also as `%2e` or with a parameter (`/a/..;x/b`). An escaped one *with* a
//!   parameter is not a dot segment: `/a/%2e%2e;/b` is `/a/..;/b`. That makes a second pass differ in this one case:
//!   never normalise twice.
//! - Slashes are not merged, `%2F` and `%5C` are kept.

use std::borrow::Cow;

use thiserror::Error;

/// Why a target is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    #[error("the request target does not start with a slash")]
    NotAbsolute,
    #[error("the path holds %00, an escaped NUL byte")]
    NulByte,
    #[error("the request target holds a control, space or non-ASCII byte at offset {0}; write it as %XX")]
    ForbiddenByte(usize),
}

/// Checks the bytes of `path[?query]` as they stand on the wire, and escapes what [`http::Uri`] refuses although Envoy
/// lets it through: in the path what [`normalise`] escapes anyway, in the query only `"`, `<` and `>`. `None`: nothing
/// is to be escaped.
///
/// # Errors
/// The request is malformed: 400.
pub fn escape(target: &[u8]) -> Result<Option<Vec<u8>>, PathError> {
    let mut in_query = false;
    let mut escapes = false;
    for (at, &byte) in target.iter().enumerate() {
        match byte {
            b'?' => in_query = true,
            b'!'..=b'~' => escapes |= is_escaped(byte, in_query),
            _ => return Err(PathError::ForbiddenByte(at)),
        }
    }
    if !escapes {
        return Ok(None);
    }
    let mut out = Vec::with_capacity(target.len() + 32);
    let mut in_query = false;
    for &byte in target {
        in_query |= byte == b'?';
        if is_escaped(byte, in_query) { push_escaped(byte, &mut out) } else { out.push(byte) }
    }
    Ok(Some(out))
}

fn is_escaped(byte: u8, in_query: bool) -> bool {
    if in_query { matches!(byte, b'"' | b'<' | b'>') } else { CLASS[byte as usize] == Class::Escape }
}

fn push_escaped(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'%', HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
}

/// Normalises `path[?query]`. `*` (of `OPTIONS *`) passes: it is no path and matches no route.
///
/// # Errors
/// The request is malformed: 400.
pub fn normalise(path_and_query: &str) -> Result<Cow<'_, str>, PathError> {
    let path_and_query = match memchr::memchr(b'#', path_and_query.as_bytes()) {
        Some(fragment) => &path_and_query[..fragment],
        None => path_and_query,
    };
    let bytes = path_and_query.as_bytes();
    match bytes.first() {
        Some(b'/') => {}
        Some(b'*') if bytes.len() == 1 => return Ok(Cow::Borrowed(path_and_query)),
        _ => return Err(PathError::NotAbsolute),
    }
    let mut after_slash = false;
    for (at, &byte) in bytes.iter().enumerate() {
        match CLASS[byte as usize] {
            Class::Plain => after_slash = false,
            Class::Slash => after_slash = true,
            Class::Dot if !after_slash => {}
            Class::Query => return Ok(Cow::Borrowed(path_and_query)),
            Class::Forbidden => return Err(PathError::ForbiddenByte(at)),
            Class::Dot | Class::Percent | Class::Backslash | Class::Escape => return rewrite(path_and_query),
        }
    }
    Ok(Cow::Borrowed(path_and_query))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Slash,
    Backslash,
    Dot,
    Percent,
    Query,
    /// Written as `%XX`.
    Escape,
    Forbidden,
}

static CLASS: [Class; 256] = {
    let mut table = [Class::Forbidden; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        table[byte as usize] = match byte {
            b'/' => Class::Slash,
            b'\\' => Class::Backslash,
            b'.' => Class::Dot,
            b'%' => Class::Percent,
            b'?' => Class::Query,
            b'#' => Class::Forbidden,
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => Class::Escape,
            _ => Class::Plain,
        };
        byte += 1;
    }
    table
};

/// The slow path: something in the path may change.
fn rewrite(path_and_query: &str) -> Result<Cow<'_, str>, PathError> {
    let end = path_and_query.find('?').unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(end);
    let path = path.as_bytes();
    let mut out = Vec::with_capacity(path_and_query.len() + 16);
    out.push(b'/');
    let mut start = 1;
    loop {
        let length = path[start..].iter().position(|&byte| byte == b'/' || byte == b'\\');
        let stop = length.map_or(path.len(), |length| start + length);
        let segment = &path[start..stop];
        match dots(segment) {
            0 => {
                push_segment(segment, start, &mut out)?;
                if length.is_some() {
                    out.push(b'/');
                }
            }
            1 => {}
            _ => {
                out.pop();
                let parent = out.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
                out.truncate(parent);
                if out.is_empty() {
                    out.push(b'/');
                }
            }
        }
        if length.is_none() {
            break;
        }
        start = stop + 1;
    }
    if out == path {
        return Ok(Cow::Borrowed(path_and_query));
    }
    out.extend_from_slice(query.as_bytes());
    // Only ASCII was written to the path; the query came out of a `str`.
    String::from_utf8(out).map(Cow::Owned).map_err(|error| PathError::ForbiddenByte(error.utf8_error().valid_up_to()))
}

/// 1 for `.`, 2 for `..`, 0 for any other segment.
fn dots(segment: &[u8]) -> usize {
    let bare = segment.split(|&byte| byte == b';').next().unwrap_or_default();
    match bare {
        b"." => return 1,
        b".." => return 2,
        _ => {}
    }
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return 0,
        };
        count += 1;
    }
    if count <= 2 { count } else { 0 }
}

/// Appends one segment; `offset` is where it starts in the whole path (for errors).
fn push_segment(segment: &[u8], offset: usize, out: &mut Vec<u8>) -> Result<(), PathError> {
    let mut lone = None;
    let mut at = 0;
    while at < segment.len() {
        let byte = segment[at];
        match CLASS[byte as usize] {
            Class::Forbidden => return Err(PathError::ForbiddenByte(offset + at)),
            Class::Escape => {
                push_escaped(byte, out);
                at += 1;
            }
            Class::Percent => match escaped_value(&segment[at..]) {
                Some(0) => return Err(PathError::NulByte),
                Some(value) if is_unreserved(value) => {
                    out.push(value);
                    at += 3;
                }
                Some(_) => {
                    out.extend_from_slice(&segment[at..at + 3]);
                    at += 3;
                    // The digits of a kept escape cannot belong to an earlier lone `%`.
                    continue;
                }
                None => {
                    lone = Some(out.len());
                    out.push(b'%');
                    at += 1;
                }
            },
            _ => {
                out.push(byte);
                at += 1;
            }
        }
        if let Some(percent) = lone
            && let [_, high, low] = out[percent..]
            && escaped_value(&[b'%', high, low]).is_some()
        {
            out.truncate(percent);
            out.extend_from_slice(&[b'%', b'2', b'5', high, low]);
            lone = None;
        }
    }
    Ok(())
}

const HEX: [u8; 16] = *b"0123456789ABCDEF";

/// The value of the `%XX` that `bytes` begins with.
fn escaped_value(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [b'%', high, low, ..] => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn envoy_facts() {
        for (given, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/%41%2d%7e%5F", "/A-~_"),
            ("/%61?%61", "/a?%61"),
            ("/%zz/%/%4", "/%zz/%/%4"),
            ("/a%2Fb%2f%5c%5C", "/a%2Fb%2f%5c%5C"),
            ("/a\\b", "/a/b"),
            ("/a\\..\\b", "/b"),
            ("/\"<>^{|}`", "/%22%3C%3E%5E%7B%7C%7D%60"),
            ("/../../x", "/x"),
            ("/foo/..", "/"),
            ("/foo/.", "/foo/"),
            ("/foo//..", "/foo/"),
            ("/foo//bar", "/foo//bar"),
            ("/.", "/"),
            ("/..", "/"),
            ("/./", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/a/..;x/b", "/b"),
            ("/a/.;x/b", "/a/b"),
            ("/a/%2e%2e;/b", "/a/..;/b"),
            ("/a/.../b", "/a/.../b"),
            ("/a/..b/.c", "/a/..b/.c"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/../?x=/../y", "/?x=/../y"),
            ("/%01%0a%7f", "/%01%0a%7f"),
            ("/%%32e%%32e/x", "/%252e%252e/x"),
            ("/%%30%30", "/%2500"),
            ("*", "*"),
            ("/a#b?c", "/a"),
            ("/a?b#c?d", "/a?b"),
            ("/a?b=\"<>", "/a?b=\"<>"),
        ] {
            assert_eq!(normalise(given).as_deref(), Ok(expected), "{given}");
        }
    }

    #[test]
    fn refused() {
        for (given, expected) in [
            ("", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("?x", PathError::NotAbsolute),
            ("*/", PathError::NotAbsolute),
            ("http://h/", PathError::NotAbsolute),
            ("/a%00", PathError::NulByte),
            ("/%2e%00/../x", PathError::NulByte),
            ("/a\u{1}", PathError::ForbiddenByte(2)),
            ("/a\u{7f}", PathError::ForbiddenByte(2)),
            ("/a b", PathError::ForbiddenByte(2)),
            ("/%41/\u{e9}", PathError::ForbiddenByte(5)),
        ] {
            assert_eq!(normalise(given), Err(expected), "{given:?}");
        }
    }

    #[test]
    fn nothing_to_do_costs_nothing() {
        for path in ["/", "/a/b?c=%41/../", "/v1.2/x.tar.gz", "/a%2Fb", "/.well-known/acme", "/%zz", "/a/..b"] {
            assert!(matches!(normalise(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn what_a_uri_refuses_is_escaped_on_arrival() {
        for (given, expected) in [
            ("/a?b", None),
            ("/%zz\\x?^`{|}", None),
            ("/<\"^`{|}>", Some("/%3C%22%5E%60%7B%7C%7D%3E")),
            ("/a?\"<>{", Some("/a?%22%3C%3E{")),
            ("/a#<", Some("/a#%3C")),
        ] {
            let escaped = escape(given.as_bytes()).expect("well formed");
            assert_eq!(escaped.as_deref(), expected.map(str::as_bytes), "{given}");
        }
        for (given, at) in [("/a b", 2), ("/a?\u{e9}", 3), ("/\u{7f}", 1), ("/#\r", 2)] {
            assert_eq!(escape(given.as_bytes()), Err(PathError::ForbiddenByte(at)), "{given:?}");
        }
    }

    pub(crate) fn paths() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/".to_owned()),
            Just("..".to_owned()),
            Just(".".to_owned()),
            Just("%2e".to_owned()),
            Just("%".to_owned()),
            Just("%32".to_owned()),
            Just("%25".to_owned()),
            Just("%2F".to_owned()),
            Just("\\".to_owned()),
            Just(";".to_owned()),
            Just("?".to_owned()),
            "[ -~]{0,3}",
            "[0-9a-fE]{0,2}",
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn a_second_pass_changes_nothing(path in paths()) {
            if let Ok(once) = normalise(&path) {
                // The one exception that Envoy has too.
                let segments = once.split('?').next().unwrap_or_default().to_owned();
                prop_assume!(!segments.split('/').any(|s| s.starts_with("..;") || s.starts_with(".;")));
                prop_assert_eq!(normalise(&once).map(Cow::into_owned), Ok(once.into_owned()));
            }
        }

        #[test]
        fn no_dot_segment_and_no_odd_byte_is_left(path in paths()) {
            if let Ok(normal) = normalise(&path) {
                let (normal, query) = normal.split_once('?').map_or((&*normal, None), |(path, query)| (path, Some(query)));
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!normal.split('/').any(|s| s == "." || s == ".."), "{normal}");
                prop_assert!(normal.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>^`{|}\\?#".contains(&b)), "{normal}");
                let given = path.split('#').next().unwrap_or_default();
                prop_assert_eq!(query, given.split_once('?').map(|(_, query)| query));
            }
        }

        #[test]
        fn any_string_is_answered(path in "\\PC*") {
            let _ = normalise(&path);
        }

        #[test]
        fn escaping_first_leaves_a_uri_and_the_same_path(path in paths()) {
            let Ok(escaped) = escape(path.as_bytes()) else { return Ok(()) };
            let escaped = escaped.map_or(path.clone(), |bytes| String::from_utf8(bytes).expect("ASCII"));
            prop_assert!(escaped.parse::<http::Uri>().is_ok(), "{escaped}");
            let path_of = |target: &str| normalise(target).map(|target| target.split('?').next().map(str::to_owned));
            prop_assert_eq!(path_of(&escaped), path_of(&path));
        }
    }
}
