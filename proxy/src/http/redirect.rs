//! Where a redirect leads (istio's `HTTPRedirect`, Envoy's `RedirectAction`).

use route_model::table::route::{Redirect, RedirectPath, RedirectPort};

/// The request as far as a redirect looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) scheme: &'a str,
    /// As the client wrote it.
    pub(crate) authority: &'a str,
    /// Normalised.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    /// The Gateway port of the listener.
    pub(crate) listener_port: u16,
}

/// The `location` of a redirect; `path` is the one that the route makes of the target's.
pub(crate) fn location(redirect: &Redirect, target: &Target<'_>, path: &str) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(target.scheme);
    let mut location = String::with_capacity(target.authority.len() + target.path.len() + 16);
    location.push_str(scheme);
    location.push_str("://");
    push_authority(redirect, target, scheme, &mut location);
    location.push_str(path);
    // A new path with a query of its own replaces the request's.
    let has_query = matches!(&redirect.path, RedirectPath::Full(path) if path.contains('?'));
    if let Some(query) = target.query.filter(|_| !has_query) {
        location.push('?');
        location.push_str(query);
    }
    location
}

/// The `location` for a virtual host that serves https only.
pub(crate) fn https_location(target: &Target<'_>) -> String {
    let (host, port) = split_port(target.authority);
    let mut location = String::with_capacity(target.authority.len() + target.path.len() + 16);
    location.push_str("https://");
    // Port 80 is the default of the scheme that is left.
    location.push_str(if port == Some("80") { host } else { target.authority });
    location.push_str(target.path);
    if let Some(query) = target.query {
        location.push('?');
        location.push_str(query);
    }
    location
}

fn push_authority(redirect: &Redirect, target: &Target<'_>, scheme: &str, location: &mut String) {
    let (host, port) = split_port(target.authority);
    let scheme_changes = scheme != target.scheme;
    let kept_port = port.filter(|port| {
        let is_old_default = matches!((target.scheme, *port), ("http", "80") | ("https", "443"));
        !(scheme_changes && is_old_default)
    });
    let number = match redirect.port {
        RedirectPort::Keep => None,
        RedirectPort::Number(port) => Some(port),
        RedirectPort::ProtocolDefault => {
            location.push_str(redirect.authority.as_deref().unwrap_or(host));
            return;
        }
        RedirectPort::Request => Some(target.listener_port),
    };
    // A port that the scheme implies is not written; one in the Host header then stays.
    let number = number.filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
    if let Some(number) = number {
        location.push_str(redirect.authority.as_deref().unwrap_or(host));
        location.push(':');
        location.push_str(itoa::Buffer::new().format(number));
        return;
    }
    if let Some(authority) = &redirect.authority {
        location.push_str(authority);
        return;
    }
    location.push_str(host);
    if let Some(port) = kept_port {
        location.push(':');
        location.push_str(port);
    }
}

/// Host and port of an authority; a colon inside the brackets of an IPv6 address separates nothing.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && !port.is_empty() => (host, Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use route_model::table::headers::HeaderOps;

    use super::*;

    fn redirect() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: None,
            authority: None,
            port: RedirectPort::Keep,
            path: RedirectPath::Keep,
            response_headers: HeaderOps::default(),
        }
    }

    fn target(authority: &str) -> Target<'_> {
        Target { scheme: "http", authority, path: "/foo/bar", query: Some("q=1"), listener_port: 80 }
    }

    #[test]
    fn each_part_is_replaced_or_kept() {
        let https = || Some("https".into());
        for (redirect, authority, location_is) in [
            (
                Redirect { path: RedirectPath::Full("/new".into()), ..redirect() },
                "H.test:8080",
                "http://H.test:8080/new?q=1",
            ),
            (Redirect { path: RedirectPath::Full("/new?x".into()), ..redirect() }, "h", "http://h/new?x"),
            (Redirect { path: RedirectPath::Prefix("/q".into()), ..redirect() }, "h", "http://h/q/bar?q=1"),
            (Redirect { scheme: https(), ..redirect() }, "h:80", "https://h/foo/bar?q=1"),
            (Redirect { scheme: https(), ..redirect() }, "h:8080", "https://h:8080/foo/bar?q=1"),
            (Redirect { authority: Some("o".into()), ..redirect() }, "h:8080", "http://o/foo/bar?q=1"),
            (
                Redirect { authority: Some("h:99".into()), port: RedirectPort::Number(8443), ..redirect() },
                "h",
                "http://h:99:8443/foo/bar?q=1",
            ),
            (Redirect { port: RedirectPort::Request, ..redirect() }, "h:8080", "http://h:8080/foo/bar?q=1"),
            (Redirect { port: RedirectPort::Request, scheme: https(), ..redirect() }, "h", "https://h:80/foo/bar?q=1"),
            (Redirect { port: RedirectPort::ProtocolDefault, ..redirect() }, "h:8080", "http://h/foo/bar?q=1"),
            (Redirect { scheme: https(), ..redirect() }, "[::1]:80", "https://[::1]/foo/bar?q=1"),
        ] {
            let path = match &redirect.path {
                RedirectPath::Keep => "/foo/bar".to_owned(),
                RedirectPath::Full(path) => path.to_string(),
                RedirectPath::Prefix(prefix) => format!("{prefix}/bar"),
            };
            assert_eq!(location(&redirect, &target(authority), &path), location_is, "{redirect:?}");
        }
    }

    #[test]
    fn https_keeps_all_but_a_default_port() {
        assert_eq!(https_location(&target("h:80")), "https://h/foo/bar?q=1");
        assert_eq!(https_location(&target("h:8080")), "https://h:8080/foo/bar?q=1");
        assert_eq!(https_location(&Target { query: None, ..target("h") }), "https://h/foo/bar");
    }
}
