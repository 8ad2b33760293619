//! Where tokens are in a request: found, and taken out before it goes on.

use std::borrow::Cow;

use http::HeaderValue;
use http::header::{AUTHORIZATION, COOKIE};
use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use crate::request::headers::Headers;
use crate::table::RequestHead;
use crate::table::authentication::TokenPlace;

/// Tokens of a request with the places they are in.
pub type Found<'p, 'h> = SmallVec<[(Cow<'h, str>, &'p TokenPlace); 1]>;

/// All tokens in these places. A header or cookie that is there several times may hold several.
pub fn find<'p, 'h>(places: &'p [TokenPlace], head: &RequestHead<'h>) -> Found<'p, 'h> {
    let mut found = Found::new();
    for place in places {
        match place {
            TokenPlace::Bearer => {
                let values = head.headers.get_all(AUTHORIZATION).filter_map(|value| bearer(text(value)));
                found.extend(values.map(|token| (Cow::Borrowed(token), place)));
            }
            TokenPlace::Header { name, prefix } => {
                let values = head.headers.get_all(name).filter_map(|value| after(text(value), prefix));
                found.extend(values.map(|token| (Cow::Borrowed(token), place)));
            }
            TokenPlace::Param(name) => {
                let values = params(head.query).filter(|(key, _)| key == &**name).map(|(_, value)| (value, place));
                found.extend(values);
            }
            TokenPlace::Cookie(name) => {
                let values = cookies(head.headers).filter(|(key, _)| *key == &**name);
                found.extend(values.map(|(_, value)| (Cow::Borrowed(value), place)));
            }
        }
    }
    found
}

/// Takes a place's tokens out of the headers of a request. Of a query see [`query_without`].
pub fn remove(place: &TokenPlace, headers: &mut Headers) {
    match place {
        TokenPlace::Bearer => {
            headers.remove(AUTHORIZATION);
        }
        TokenPlace::Header { name, .. } => {
            headers.remove(name);
        }
        TokenPlace::Param(_) => {}
        TokenPlace::Cookie(name) => {
            let kept: Vec<&str> = headers
                .get_all(COOKIE)
                .flat_map(|value| text(value).split(';'))
                .map(str::trim)
                .filter(|pair| !pair.is_empty() && pair.split('=').next() != Some(name))
                .collect();
            // What came out of header values goes into one again.
            let kept = (!kept.is_empty()).then(|| HeaderValue::from_bytes(kept.join("; ").as_bytes()).ok()).flatten();
            headers.remove(COOKIE);
            if let Some(kept) = kept {
                headers.insert(COOKIE, kept);
            }
        }
    }
}

/// A query without a parameter; `None` if nothing is left of it.
pub fn query_without(query: &str, name: &str) -> Option<String> {
    let is_other = |parameter: &&str| decoded(parameter.split('=').next().unwrap_or_default()) != name;
    let kept: Vec<&str> = query.split('&').filter(is_other).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// Tokens are ASCII; a value that is not holds none that could be verified, and is refused as malformed.
fn text(value: &HeaderValue) -> &str {
    std::str::from_utf8(value.as_bytes()).unwrap_or("\u{fffd}")
}

fn bearer(value: &str) -> Option<&str> {
    const SCHEME: &str = "bearer ";
    let start = value.as_bytes().windows(SCHEME.len()).position(|part| part.eq_ignore_ascii_case(SCHEME.as_bytes()))?;
    Some(token_in(value, &value[start + SCHEME.len()..]))
}

/// As Envoy has it: the prefix may stand anywhere, and what is no part of a token between it and the token is passed over.
fn after<'a>(value: &'a str, prefix: &str) -> Option<&'a str> {
    if prefix.is_empty() {
        return Some(value);
    }
    let start = value.find(prefix)?;
    Some(token_in(value, &value[start + prefix.len()..]))
}

/// Where there is nothing that a token is made of the whole value is one, and a bad one.
fn token_in<'a>(value: &'a str, rest: &'a str) -> &'a str {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    rest.find(is_part).map_or(value, |start| &rest[start..])
}

fn params(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.into_iter().flat_map(|query| query.split('&')).map(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (decoded(key), decoded(value))
    })
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

fn cookies(headers: &Headers) -> impl Iterator<Item = (&str, &str)> {
    let pairs = headers.get_all(COOKIE).flat_map(|value| text(value).split(';'));
    pairs.filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        Some((name, value))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in pairs {
            headers.append(http::HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn header(name: &'static str, prefix: &str) -> TokenPlace {
        TokenPlace::Header { name: HeaderName::from_static(name), prefix: prefix.into() }
    }

    fn tokens(places: &[TokenPlace], sent: &[(&'static str, &'static str)], query: Option<&str>) -> Vec<String> {
        let headers = headers(sent);
        let (method, scheme, authority, path) = ("GET", "http", "a", "/");
        let head = RequestHead { method, scheme, authority, path, query, headers: &headers, claims: None };
        find(places, &head).into_iter().map(|(token, _)| token.into_owned()).collect()
    }

    #[test]
    fn tokens_are_found_in_headers() {
        for (place, sent, found) in [
            (TokenPlace::Bearer, &[("authorization", "Bearer a.b.c")][..], &["a.b.c"][..]),
            (TokenPlace::Bearer, &[("authorization", "bearer  a.b.c")], &["a.b.c"]),
            (TokenPlace::Bearer, &[("authorization", "Basic x, Bearer a.b.c")], &["a.b.c"]),
            (TokenPlace::Bearer, &[("authorization", "Bearer a.b.c, more")], &["a.b.c, more"]),
            (TokenPlace::Bearer, &[("authorization", "Bearer a"), ("authorization", "Bearer b")], &["a", "b"]),
            (TokenPlace::Bearer, &[("authorization", "Basic a.b.c")], &[]),
            (TokenPlace::Bearer, &[("authorization", "Bearer")], &[]),
            (TokenPlace::Bearer, &[("authorization", "Bearer !")], &["Bearer !"]),
            (TokenPlace::Bearer, &[], &[]),
            (header("x-jwt", ""), &[("x-jwt", "a.b.c")], &["a.b.c"]),
            (header("x-jwt", ""), &[("x-jwt", "Bearer a.b.c")], &["Bearer a.b.c"]),
            (header("x-jwt", ""), &[("x-jwt", "")], &[""]),
            (header("x-jwt", "jwt="), &[("x-jwt", "jwt=a.b.c")], &["a.b.c"]),
            (header("x-jwt", "jwt="), &[("x-jwt", "JWT=a.b.c")], &[]),
        ] {
            assert_eq!(tokens(std::slice::from_ref(&place), sent, None), found, "{place:?} {sent:?}");
        }
    }

    #[test]
    fn tokens_are_found_in_queries_and_cookies() {
        let param = || TokenPlace::Param("access_token".into());
        for (query, found) in [
            (Some("access_token=a.b.c"), &["a.b.c"][..]),
            (Some("x=1&access_token=a%2Eb.c&y"), &["a.b.c"]),
            (Some("access%5Ftoken=a"), &["a"]),
            (Some("access_token=a&access_token=b"), &["a", "b"]),
            (Some("access_token"), &[""]),
            (Some("xaccess_token=a"), &[]),
            (None, &[]),
        ] {
            assert_eq!(tokens(&[param()], &[], query), found, "{query:?}");
        }
        let cookie = || TokenPlace::Cookie("jwt".into());
        for (sent, found) in [
            (&[("cookie", "a=b; jwt=a.b.c; c=d")][..], &["a.b.c"][..]),
            (&[("cookie", "jwt=\"a\"")], &["a"]),
            (&[("cookie", "xjwt=a; jwtx=b; jwt")], &[]),
            (&[("cookie", "jwt=a"), ("cookie", "jwt=b")], &["a", "b"]),
        ] {
            assert_eq!(tokens(&[cookie()], sent, None), found, "{sent:?}");
        }
        let sent = [("authorization", "Bearer a"), ("cookie", "jwt=c")];
        assert_eq!(tokens(&[TokenPlace::Bearer, param(), cookie()], &sent, Some("access_token=b")), ["a", "b", "c"]);
    }

    #[test]
    fn tokens_are_taken_out() {
        for (place, sent, left) in [
            (TokenPlace::Bearer, &[("authorization", "Bearer a"), ("x", "1")][..], &[("x", "1")][..]),
            (header("x-jwt", ""), &[("x-jwt", "a"), ("x-jwt", "b")], &[]),
            (
                TokenPlace::Cookie("jwt".into()),
                &[("cookie", "a=b; jwt=x;c=d"), ("cookie", "jwt=y; e=f")],
                &[("cookie", "a=b; c=d; e=f")],
            ),
            (TokenPlace::Cookie("jwt".into()), &[("cookie", "jwt=x")], &[]),
            (TokenPlace::Param("p".into()), &[("x", "1")], &[("x", "1")]),
        ] {
            let mut sent = headers(sent);
            remove(&place, &mut sent);
            assert_eq!(sent, headers(left), "{place:?}");
        }
        for (query, left) in [
            ("access_token=a", None),
            ("x=1&access_token=a&y", Some("x=1&y")),
            ("access%5ftoken=a&b=%20", Some("b=%20")),
            ("x", Some("x")),
        ] {
            assert_eq!(query_without(query, "access_token").as_deref(), left, "{query}");
        }
    }
}
