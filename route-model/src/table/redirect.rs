//! Where a redirect leads (Istio's `HTTPRedirect`, Envoy's `RedirectAction`).

use std::fmt::Write as _;

use http::StatusCode;

use super::RequestHead;
use super::headers::HeaderOps;
use super::host::without_port;
use crate::matching::UriMatch;

#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `None`: the request's.
    pub scheme: Option<Box<str>>,
    /// Replaces host and port of the request.
    pub authority: Option<Box<str>>,
    /// Written behind the host in any case. `None`: the Host's port stays, unless a new scheme drops the old one's
    /// default.
    pub port: Option<u16>,
    pub path: RedirectPath,
    pub response_headers: HeaderOps,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    Keep,
    /// Replaces the whole path.
    Full(Box<str>),
    /// Replaces the matched prefix.
    Prefix(Box<str>),
}

impl Redirect {
    /// The `location` that answers a request which `uri` has taken.
    pub(super) fn location(&self, uri: &UriMatch, head: &RequestHead<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme);
        let mut location = String::with_capacity(head.authority.len() + head.path.len() + 16);
        location.push_str(scheme);
        location.push_str("://");
        self.push_authority(head, scheme, &mut location);
        match &self.path {
            RedirectPath::Keep => location.push_str(head.path),
            RedirectPath::Full(path) => push_rooted(&[path], &mut location),
            RedirectPath::Prefix(prefix) => push_rooted(&[prefix, uri.rest(head.path)], &mut location),
        }
        // A new path with a query of its own replaces the request's.
        if !matches!(&self.path, RedirectPath::Full(path) if path.contains('?')) {
            push_query(head, &mut location);
        }
        location
    }

    fn push_authority(&self, head: &RequestHead<'_>, scheme: &str, location: &mut String) {
        let host = without_port(head.authority);
        let drops_port = self.port.is_some() || scheme != head.scheme && has_default_port(head);
        location.push_str(match &self.authority {
            Some(authority) => authority,
            None if drops_port => host,
            None => head.authority,
        });
        if let Some(port) = self.port {
            // Writing to a String cannot fail.
            let _ = write!(location, ":{port}");
        }
    }
}

/// The `location` for a virtual host that serves https only.
pub fn https_location(head: &RequestHead<'_>) -> String {
    let authority = if has_default_port(head) { without_port(head.authority) } else { head.authority };
    let mut location = ["https://", authority, head.path].concat();
    push_query(head, &mut location);
    location
}

/// Whether the Host names the port that its scheme implies.
fn has_default_port(head: &RequestHead<'_>) -> bool {
    let port = &head.authority[without_port(head.authority).len()..];
    matches!((head.scheme, port), ("http", ":80") | ("https", ":443"))
}

/// Appends a path; behind a host it begins with a slash, whatever was written (RFC 3986 section 3.3).
fn push_rooted(parts: &[&str], location: &mut String) {
    if !parts.iter().find(|part| !part.is_empty()).is_some_and(|part| part.starts_with('/')) {
        location.push('/');
    }
    location.extend(parts.iter().copied());
}

fn push_query(head: &RequestHead<'_>, location: &mut String) {
    if let Some(query) = head.query {
        location.push('?');
        location.push_str(query);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::UriPattern;
    use crate::request::headers::Headers;

    fn redirect() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: None,
            authority: None,
            port: None,
            path: RedirectPath::Keep,
            response_headers: HeaderOps::default(),
        }
    }

    fn https() -> Redirect {
        Redirect { scheme: Some("https".into()), ..redirect() }
    }

    fn with_head<R>(authority: &str, with: impl FnOnce(&RequestHead<'_>) -> R) -> R {
        let headers = &Headers::new();
        let query = Some("q=1");
        with(&RequestHead { method: "GET", scheme: "http", authority, path: "/foo/bar", query, headers, claims: None })
    }

    #[test]
    fn each_part_is_replaced_or_kept() {
        let path = |path| Redirect { path, ..redirect() };
        for (redirect, authority, location_is) in [
            (path(RedirectPath::Full("/new".into())), "H.test:8080", "http://H.test:8080/new?q=1"),
            (path(RedirectPath::Full("/new?x".into())), "h", "http://h/new?x"),
            (path(RedirectPath::Full("new".into())), "h", "http://h/new?q=1"),
            (path(RedirectPath::Prefix("/q".into())), "h", "http://h/q/bar?q=1"),
            (path(RedirectPath::Prefix("q".into())), "h", "http://h/q/bar?q=1"),
            (https(), "h:80", "https://h/foo/bar?q=1"),
            (https(), "h:8080", "https://h:8080/foo/bar?q=1"),
            (https(), "[::1]:80", "https://[::1]/foo/bar?q=1"),
            (https(), "[::80]", "https://[::80]/foo/bar?q=1"),
            (Redirect { authority: Some("o".into()), ..redirect() }, "h:8080", "http://o/foo/bar?q=1"),
            (Redirect { port: Some(8443), ..redirect() }, "h", "http://h:8443/foo/bar?q=1"),
            (Redirect { port: Some(8443), ..redirect() }, "h:8080", "http://h:8443/foo/bar?q=1"),
            (Redirect { port: Some(8443), ..redirect() }, "[::1]:", "http://[::1]:8443/foo/bar?q=1"),
            (
                Redirect { authority: Some("h:99".into()), port: Some(8443), ..redirect() },
                "h",
                "http://h:99:8443/foo/bar?q=1",
            ),
        ] {
            let uri = UriMatch { pattern: UriPattern::Prefix("/foo".into()), ignore_case: false };
            let location = with_head(authority, |head| redirect.location(&uri, head));
            assert_eq!(location, location_is, "{redirect:?}");
        }
    }

    #[test]
    fn https_keeps_all_but_a_default_port() {
        assert_eq!(with_head("h:80", https_location), "https://h/foo/bar?q=1");
        assert_eq!(with_head("h:8080", https_location), "https://h:8080/foo/bar?q=1");
        let location = with_head("h", |head| https_location(&RequestHead { query: None, ..*head }));
        assert_eq!(location, "https://h/foo/bar");
    }
}
