//! Which headers of a request are believed: what a client may not say, and what the proxy says instead.
//!
//! As Envoy does at an edge: `x-envoy-*` are dropped, `x-forwarded-client-cert` is dropped and tells of the client
//! certificate that this proxy verified, `x-request-id` is always new, the peer is appended to X-Forwarded-For,
//! X-Forwarded-Proto is replaced unless a trusted hop set it.
//!
//! Within the mesh, as Istio's sidecars do: what the edge said of the client is passed on as it is, and only
//! `x-forwarded-client-cert` is this proxy's own to say.
//!
//! Underscores in names are allowed, but an alias of a guarded name (`X_Forwarded_For`, `Transfer_Encoding`) is
//! dropped: servers that put headers into environment variables cannot tell the two apart.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use smallvec::SmallVec;

use super::hop::{KEEP_ALIVE, PROXY_CONNECTION, keep_only_trailers, lists, remove_nominated};
use crate::request::headers::Headers;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The peer of a downstream connection, prepared once for all its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    /// The address as X-Forwarded-For writes it.
    value: HeaderValue,
    tls: bool,
    /// What `x-forwarded-client-cert` says of its certificate.
    certificate: Option<HeaderValue>,
    /// The peer is an application beside this proxy, or another workload.
    within_mesh: bool,
}

/// What a request's headers say once only the believable part is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The client: the peer, or what trusted hops say it is (then with port 0).
    pub client: SocketAddr,
    /// `http` or `https`: the connection's, or what a trusted hop says.
    pub scheme: &'static str,
}

impl Peer {
    /// `certificate`: what upstreams are told of the client's certificate, if it presented one and was verified.
    pub fn new(address: SocketAddr, tls: bool, certificate: Option<HeaderValue>) -> Self {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { value: ip_value(address.ip()), address, tls, certificate, within_mesh: false }
    }

    /// A peer that is part of the mesh, or could be. `certificate`: what is added to `x-forwarded-client-cert` if the
    /// peer has shown who it is; otherwise nobody's word is passed on there.
    pub fn within_mesh(address: SocketAddr, certificate: Option<HeaderValue>) -> Self {
        Self { within_mesh: true, ..Self::new(address, false, certificate) }
    }

    /// Whether it is a proxy of the mesh, which has shown so.
    pub fn is_proxy(&self) -> bool {
        self.within_mesh && self.certificate.is_some()
    }

    /// Cleans the headers of a request from this peer and adds what upstreams are to know of it.
    ///
    /// `trusted_hops` is the number of proxies in front of this one whose X-Forwarded-For entries are believed (Istio
    /// `numTrustedProxies`). With `n` of them the client is the `n`th entry from the right of what arrived; if there
    /// are fewer, or it is no address, the peer is the client. `request_id` becomes the `x-request-id`.
    pub fn admit(&self, headers: &mut Headers, trusted_hops: u32, request_id: HeaderValue) -> Admitted {
        let mut seen = Seen::scan(headers);
        if self.within_mesh {
            return self.pass_on(headers, &mut seen, request_id);
        }
        seen.strip(headers);
        let client = match trusted_hops {
            0 => None,
            hops if seen.forwarded_for => forwarded_address(headers, hops as usize),
            _ => None,
        };
        let scheme = self.scheme(headers, trusted_hops > 0 && seen.forwarded_proto);
        self.append_forwarded_for(headers, seen.forwarded_for);
        set(headers, seen.forwarded_proto, X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
        set(headers, seen.request_id, X_REQUEST_ID, request_id);
        if let Some(certificate) = &self.certificate {
            headers.insert(X_FORWARDED_CLIENT_CERT, certificate.clone());
        }
        Admitted { client: client.map_or(self.address, |ip| SocketAddr::new(ip, 0)), scheme }
    }

    fn pass_on(&self, headers: &mut Headers, seen: &mut Seen, request_id: HeaderValue) -> Admitted {
        seen.forged.retain(|name| !name.as_str().starts_with("x-envoy-"));
        let certificate = self.certificate.as_ref().map(|own| appended(headers.get_all(X_FORWARDED_CLIENT_CERT), own));
        seen.strip(headers);
        let client = if seen.forwarded_for { forwarded_address(headers, 1) } else { None };
        let scheme = self.scheme(headers, seen.forwarded_proto);
        set(headers, seen.forwarded_proto, X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
        if !seen.request_id || headers.get(X_REQUEST_ID).is_none_or(HeaderValue::is_empty) {
            set(headers, seen.request_id, X_REQUEST_ID, request_id);
        }
        if let Some(certificate) = certificate {
            headers.insert(X_FORWARDED_CLIENT_CERT, certificate);
        }
        Admitted { client: client.map_or(self.address, |ip| SocketAddr::new(ip, 0)), scheme }
    }

    fn scheme(&self, headers: &Headers, believe: bool) -> &'static str {
        let own = if self.tls { "https" } else { "http" };
        if !believe {
            return own;
        }
        let mut values = headers.get_all(X_FORWARDED_PROTO);
        match (values.next(), values.next()) {
            (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"https") => "https",
            (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"http") => "http",
            _ => own,
        }
    }

    fn append_forwarded_for(&self, headers: &mut Headers, present: bool) {
        let value = if present { appended(headers.get_all(X_FORWARDED_FOR), &self.value) } else { self.value.clone() };
        set(headers, present, X_FORWARDED_FOR, value);
    }
}

/// Makes this the only field of its name, which is searched for only where it is `present`.
fn set(headers: &mut Headers, present: bool, name: HeaderName, value: HeaderValue) {
    if present { headers.insert(name, value) } else { headers.append(name, value) }
}

/// All values of a field, and one more behind them.
fn appended<'a>(values: impl Iterator<Item = &'a HeaderValue>, last: &HeaderValue) -> HeaderValue {
    let mut joined = Vec::with_capacity(64);
    for value in values.filter(|value| !value.is_empty()) {
        joined.extend_from_slice(value.as_bytes());
        joined.push(b',');
    }
    joined.extend_from_slice(last.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(joined)).unwrap_or_else(|_| last.clone())
}

/// What one pass over a request's header names found; most requests have none of it, and then nothing is looked up.
#[derive(Debug, Default)]
struct Seen {
    connection: bool,
    upgrade: bool,
    te: bool,
    hop: bool,
    forwarded_for: bool,
    forwarded_proto: bool,
    request_id: bool,
    /// Names that a client has no business sending.
    forged: SmallVec<[HeaderName; 4]>,
}

impl Seen {
    fn scan(headers: &Headers) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => seen.connection = true,
                "upgrade" => seen.upgrade = true,
                "te" => seen.te = true,
                "keep-alive" | "proxy-connection" | "transfer-encoding" => seen.hop = true,
                "x-forwarded-for" => seen.forwarded_for = true,
                "x-forwarded-proto" => seen.forwarded_proto = true,
                "x-request-id" => seen.request_id = true,
                text => {
                    if is_forged(text) {
                        seen.forged.push(name.clone());
                    }
                }
            }
        }
        seen
    }

    /// Removes what must not travel. An offer to switch protocols stays: rules may ask for it, and upstreams decide.
    fn strip(&self, headers: &mut Headers) {
        for name in &self.forged {
            headers.remove(name);
        }
        // RFC 9110 section 7.8: an Upgrade that Connection does not name is none, and must not become one upstream.
        let asks = self.upgrade && headers.get_all(CONNECTION).any(|options| lists(options, "upgrade"));
        if self.connection {
            remove_nominated(headers);
            headers.remove(CONNECTION);
        }
        if self.hop {
            for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING] {
                headers.remove(name);
            }
        }
        if self.te {
            keep_only_trailers(headers);
        }
        // An origin that switched to HTTP/2 in clear text would carry requests past all routes and rules: the offer is
        // dropped, as Envoy does, and the request is answered over HTTP/1.
        if self.upgrade && (!asks || headers.get_all(UPGRADE).any(|protocols| lists(protocols, "h2c"))) {
            headers.remove(UPGRADE);
        }
    }
}

fn is_forged(name: &str) -> bool {
    name.starts_with("x-envoy-")
        || name == "x-forwarded-client-cert"
        || (memchr::memchr(b'_', name.as_bytes()).is_some() && is_guarded(&name.replace('_', "-")))
}

/// Names whose meaning this proxy vouches for, or that frame the message.
pub(super) fn is_guarded(name: &str) -> bool {
    name.starts_with("x-forwarded-")
        || name.starts_with("x-envoy-")
        || matches!(
            name,
            "x-request-id"
                | "x-real-ip"
                | "content-length"
                | "transfer-encoding"
                | "keep-alive"
                | "proxy-connection"
                | "content-type"
        )
}

/// The `hops`th address from the right over all X-Forwarded-For values; entries with ports or names do not count.
fn forwarded_address(headers: &Headers, hops: usize) -> Option<IpAddr> {
    let mut remaining = hops;
    for value in headers.get_all(X_FORWARDED_FOR).rev() {
        for entry in value.as_bytes().rsplit(|byte| *byte == b',') {
            remaining -= 1;
            if remaining == 0 {
                let entry = std::str::from_utf8(entry.trim_ascii()).ok()?;
                return entry.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
            }
        }
    }
    None
}

fn ip_value(ip: IpAddr) -> HeaderValue {
    let mut text = String::with_capacity(40);
    // Writing to a String cannot fail, and an address is a valid header value.
    let _ = write!(text, "{ip}");
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("0.0.0.0"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
        }
        headers
    }

    fn values<'a>(headers: &'a Headers, name: &str) -> Vec<&'a str> {
        headers.get_all(name).map(|value| value.to_str().expect("text")).collect()
    }

    fn peer() -> Peer {
        from("192.0.2.9:5000", false)
    }

    fn from(address: &str, tls: bool) -> Peer {
        Peer::new(address.parse().expect("an address"), tls, None)
    }

    fn admit(peer: &Peer, headers: &mut Headers, trusted_hops: u32) -> Admitted {
        peer.admit(headers, trusted_hops, HeaderValue::from_static("new"))
    }

    #[test]
    fn what_belongs_to_one_hop_does_not_travel() {
        let mut headers = map(&[
            ("host", "a.example"),
            ("connection", "keep-alive, X-Hop"),
            ("connection", "x-other-hop, Upgrade"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-hop", "1"),
            ("x-other-hop", "2"),
            ("x-kept", "3"),
        ]);
        admit(&peer(), &mut headers, 0);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "upgrade", "x-forwarded-for", "x-forwarded-proto", "x-kept", "x-request-id"]);
    }

    #[test]
    fn an_offer_of_clear_text_http2_does_not_travel() {
        for (sent, kept) in [
            (&["websocket"][..], &["websocket"][..]),
            (&["h2c"], &[]),
            (&["websocket, H2C"], &[]),
            (&["websocket", "h2c"], &[]),
        ] {
            let mut fields: Vec<_> = sent.iter().map(|value| ("upgrade", *value)).collect();
            fields.push(("connection", "upgrade"));
            let mut headers = map(&fields);
            admit(&peer(), &mut headers, 0);
            assert_eq!(values(&headers, "upgrade"), kept, "{sent:?}");
        }
    }

    #[test]
    fn an_upgrade_that_the_connection_does_not_ask_for_is_none() {
        for connection in [None, Some("keep-alive"), Some("upgrades")] {
            let mut headers = map(&[("upgrade", "websocket")]);
            headers.extend(connection.map(|options| (CONNECTION, HeaderValue::from_static(options))));
            admit(&peer(), &mut headers, 0);
            assert!(!headers.contains_key(UPGRADE), "{connection:?}");
        }
    }

    #[test]
    fn connection_cannot_remove_what_identifies_a_request() {
        let guarded =
            ["host", "authorization", "cookie", "content-length", "forwarded", "x-real-ip", "x-forwarded-host"];
        for name in guarded {
            let mut headers = map(&[("connection", name), (name, "5")]);
            admit(&peer(), &mut headers, 0);
            assert_eq!(values(&headers, name), ["5"], "{name}");
        }
        let mut headers = map(&[("connection", "x-forwarded-for, x-request-id, x-forwarded-proto")]);
        admit(&peer(), &mut headers, 0);
        assert_eq!(values(&headers, "x-forwarded-for"), ["192.0.2.9"]);
        assert_eq!(values(&headers, "x-forwarded-proto"), ["http"]);
        assert_eq!(values(&headers, "x-request-id").len(), 1);
    }

    #[test]
    fn te_keeps_trailers_alone() {
        for (sent, kept) in [
            (&["trailers"][..], &["trailers"][..]),
            (&["gzip, Trailers;q=0.5"], &[]),
            (&["gzip", "deflate, TRAILERS"], &["trailers"]),
            (&["gzip"], &[]),
        ] {
            let fields: Vec<_> = sent.iter().map(|value| ("te", *value)).collect();
            let mut headers = map(&fields);
            admit(&peer(), &mut headers, 0);
            assert_eq!(values(&headers, "te"), kept, "{sent:?}");
        }
    }

    #[test]
    fn a_client_cannot_forge_what_the_proxy_says() {
        let mut headers = map(&[
            ("x-envoy-original-path", "/admin"),
            ("x-envoy-internal", "true"),
            ("x-forwarded-client-cert", "By=me"),
            ("x-request-id", "mine"),
            ("x-request-id", "mine too"),
            ("x-forwarded-proto", "https"),
            ("x_forwarded_for", "10.0.0.1"),
            ("transfer_encoding", "chunked"),
            ("x-envoy_peer", "1"),
            ("user_id", "7"),
            ("x-forwarded-host", "as.written"),
        ]);
        let admitted = admit(&peer(), &mut headers, 0);
        assert_eq!(admitted.scheme, "http");
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["user_id", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"]);
        assert_eq!(values(&headers, "x-request-id"), ["new"]);
    }

    #[test]
    fn upstreams_hear_of_the_certificate_that_was_verified_and_of_no_other() {
        for (told, values_are) in [(Some(HeaderValue::from_static("Hash=1")), &["Hash=1"][..]), (None, &[])] {
            let mut headers = map(&[("x-forwarded-client-cert", "Hash=2"), ("x_forwarded_client_cert", "Hash=3")]);
            admit(&Peer { certificate: told, ..peer() }, &mut headers, 1);
            assert_eq!(values(&headers, "x-forwarded-client-cert"), values_are);
            assert!(!headers.contains_key("x_forwarded_client_cert"));
        }
    }

    #[test]
    fn the_client_address_is_as_far_back_as_hops_are_trusted() {
        let table: &[(u32, &[&str], &str, &str)] = &[
            (0, &[], "192.0.2.9:5000", "192.0.2.9"),
            (0, &["10.0.0.1"], "192.0.2.9:5000", "10.0.0.1,192.0.2.9"),
            (1, &[], "192.0.2.9:5000", "192.0.2.9"),
            (1, &["1.1.1.1, 2.2.2.2"], "2.2.2.2:0", "1.1.1.1, 2.2.2.2,192.0.2.9"),
            (2, &["1.1.1.1, 2.2.2.2"], "1.1.1.1:0", "1.1.1.1, 2.2.2.2,192.0.2.9"),
            (2, &["9.9.9.9", "1.1.1.1,2.2.2.2"], "1.1.1.1:0", "9.9.9.9,1.1.1.1,2.2.2.2,192.0.2.9"),
            (3, &["1.1.1.1", "2.2.2.2"], "192.0.2.9:5000", "1.1.1.1,2.2.2.2,192.0.2.9"),
            (1, &["2001:db8::7"], "[2001:db8::7]:0", "2001:db8::7,192.0.2.9"),
            (1, &["1.1.1.1, unknown"], "192.0.2.9:5000", "1.1.1.1, unknown,192.0.2.9"),
            (1, &["1.1.1.1:80"], "192.0.2.9:5000", "1.1.1.1:80,192.0.2.9"),
            (1, &[""], "192.0.2.9:5000", "192.0.2.9"),
        ];
        for (hops, sent, client, forwarded) in table {
            let fields: Vec<_> = sent.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let mut headers = map(&fields);
            let admitted = admit(&peer(), &mut headers, *hops);
            assert_eq!(admitted.client.to_string(), *client, "{hops} hops, {sent:?}");
            assert_eq!(values(&headers, "x-forwarded-for"), [*forwarded], "{hops} hops, {sent:?}");
        }
    }

    #[test]
    fn the_scheme_is_the_connections_unless_a_trusted_hop_says_otherwise() {
        for (hops, tls, sent, scheme) in [
            (0, false, Some("https"), "http"),
            (0, true, Some("http"), "https"),
            (1, false, Some("https"), "https"),
            (1, true, Some("HTTP"), "http"),
            (1, false, Some("gopher"), "http"),
            (1, true, None, "https"),
        ] {
            let fields: Vec<_> = sent.iter().map(|value| ("x-forwarded-proto", *value)).collect();
            let mut headers = map(&fields);
            let admitted = admit(&from("[::1]:1", tls), &mut headers, hops);
            assert_eq!(admitted.scheme, scheme, "{hops} {tls} {sent:?}");
            assert_eq!(values(&headers, "x-forwarded-proto"), [scheme]);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_one_forwarded_for_ends_with_the_peer(
            sent in proptest::collection::vec("[0-9a-f.:, ]{0,20}", 0..4),
            hops in 0..4u32,
        ) {
            let mut headers = Headers::new();
            for value in &sent {
                headers.append(X_FORWARDED_FOR, value.parse().expect("a value"));
            }
            admit(&peer(), &mut headers, hops);
            let found = values(&headers, "x-forwarded-for");
            prop_assert_eq!(found.len(), 1);
            prop_assert!(found[0].ends_with("192.0.2.9"));
        }
    }
}
