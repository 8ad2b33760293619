//! The facts about a connection and a request that formatters in header values may ask for.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use http::{StatusCode, Version};
use route_model::request::headers::Headers;
use route_model::table::headers::{Fact, FormatContext};

use crate::telemetry::flags::ResponseFlags;
use crate::tls::facts::TlsFacts;

/// What stays the same for all requests of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    /// The client's end: of the socket, or as a PROXY header says.
    pub peer: SocketAddr,
    /// The end that the client connected to.
    pub local: SocketAddr,
    /// `None` for a plain connection.
    pub tls: Option<Box<TlsFacts>>,
}

impl ConnectionFacts {
    /// The names that the verified client certificate is known by: its URIs, else its DNS names, else its subject.
    pub(crate) fn principals(&self) -> &[Box<str>] {
        let Some(peer) = self.tls.as_ref().and_then(|tls| tls.peer.as_deref()) else { return &[] };
        if !peer.uri_sans.is_empty() {
            &peer.uri_sans
        } else if !peer.dns_sans.is_empty() {
            &peer.dns_sans
        } else {
            std::slice::from_ref(&peer.subject)
        }
    }

    /// The server name that the client asked for, in lower case.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.tls.as_ref()?.server_name.as_deref()
    }
}

/// A view of one request at the moment its header operations run. The parts of the request are as they were before
/// any rewrite or header operation.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    pub connection: &'a ConnectionFacts,
    /// The client as far as it can be trusted; port 0 if it is known from X-Forwarded-For only.
    pub client: SocketAddr,
    pub method: &'a str,
    pub scheme: &'a str,
    pub authority: &'a str,
    pub path_and_query: &'a str,
    pub version: Version,
    pub request_headers: &'a Headers,
    pub response_headers: Option<&'a Headers>,
    pub start: SystemTime,
    /// Time since the start of the request.
    pub elapsed: Duration,
    pub status: Option<StatusCode>,
    pub flags: ResponseFlags,
    /// Empty for a route without a name.
    pub route_name: &'a str,
    /// The address the request is sent to, once one is chosen.
    pub upstream_host: Option<&'a str>,
    pub upstream_cluster: Option<&'a str>,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// The name of the machine the proxy runs on.
    pub hostname: &'a str,
}

/// `HTTP/1.1`, `HTTP/2`: as Envoy's `%PROTOCOL%` and the access log name the version.
pub fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// Appends an address as `ip:port`, IPv6 in brackets; an IPv4 address that came in IPv6 form is written as IPv4.
pub(crate) fn append_address(address: SocketAddr, out: &mut Vec<u8>) {
    let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
    append_display(canonical, out);
}

fn append_ip(ip: IpAddr, out: &mut Vec<u8>) {
    append_display(ip.to_canonical(), out);
}

/// Appends a moment in ISO 8601 with milliseconds, UTC; nothing for a moment outside years -9999 to 9999.
pub(crate) fn append_time(time: SystemTime, out: &mut Vec<u8>) {
    if let Ok(timestamp) = jiff::Timestamp::try_from(time) {
        append_display(format_args!("{timestamp:.3}"), out);
    }
}

fn append_display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{value}");
}

fn append_number(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn append_optional(value: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(value.unwrap_or_default().as_bytes());
}

impl FormatContext for RequestFacts<'_> {
    fn method(&self) -> &str {
        self.method
    }

    fn scheme(&self) -> &str {
        self.scheme
    }

    fn authority(&self) -> &str {
        self.authority
    }

    fn path_and_query(&self) -> &str {
        self.path_and_query
    }

    fn request_headers(&self) -> &Headers {
        self.request_headers
    }

    fn response_headers(&self) -> Option<&Headers> {
        self.response_headers
    }

    fn append_fact(&self, fact: Fact, out: &mut Vec<u8>) {
        let connection = self.connection;
        let tls = connection.tls.as_deref();
        let peer = tls.and_then(|tls| tls.peer.as_deref());
        match fact {
            Fact::DownstreamRemoteAddress => append_address(self.client, out),
            Fact::DownstreamRemoteAddressWithoutPort => append_ip(self.client.ip(), out),
            Fact::DownstreamRemotePort => append_number(self.client.port().into(), out),
            Fact::DownstreamDirectRemoteAddress => append_address(connection.peer, out),
            Fact::DownstreamDirectRemoteAddressWithoutPort => append_ip(connection.peer.ip(), out),
            Fact::DownstreamLocalAddress => append_address(connection.local, out),
            Fact::DownstreamLocalAddressWithoutPort => append_ip(connection.local.ip(), out),
            Fact::DownstreamLocalPort => append_number(connection.local.port().into(), out),
            Fact::DownstreamTlsVersion => append_optional(tls.map(|tls| tls.version), out),
            Fact::DownstreamTlsCipher => append_optional(tls.map(|tls| tls.cipher), out),
            Fact::DownstreamPeerSubject => append_optional(peer.map(|peer| &*peer.subject), out),
            Fact::DownstreamPeerUriSan => {
                for (position, uri) in peer.iter().flat_map(|peer| &peer.uri_sans).enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(uri.as_bytes());
                }
            }
            Fact::RequestedServerName => append_optional(tls.and_then(|tls| tls.server_name.as_deref()), out),
            Fact::Protocol => out.extend_from_slice(protocol_name(self.version).as_bytes()),
            Fact::ResponseCode => {
                if let Some(status) = self.status {
                    out.extend_from_slice(status.as_str().as_bytes());
                }
            }
            Fact::ResponseFlags => self.flags.append_to(out),
            Fact::RouteName => out.extend_from_slice(self.route_name.as_bytes()),
            // Istio's routes have no virtual clusters.
            Fact::VirtualClusterName => {}
            Fact::UpstreamHost => append_optional(self.upstream_host, out),
            Fact::UpstreamCluster => append_optional(self.upstream_cluster, out),
            Fact::StartTime => append_time(self.start, out),
            Fact::StartTimeSeconds => {
                if let Ok(since_epoch) = self.start.duration_since(SystemTime::UNIX_EPOCH) {
                    append_number(since_epoch.as_secs(), out);
                }
            }
            Fact::BytesReceived => append_number(self.bytes_received, out),
            Fact::BytesSent => append_number(self.bytes_sent, out),
            Fact::Duration => append_number(self.elapsed.as_millis() as u64, out),
            Fact::Hostname => out.extend_from_slice(self.hostname.as_bytes()),
            Fact::RequestId => {
                if let Some(id) = self.request_headers.get("x-request-id") {
                    out.extend_from_slice(id.as_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::facts::PeerCertificate;

    #[test]
    fn each_fact_reads_as_envoy_writes_it() {
        let connection = ConnectionFacts {
            peer: "[::ffff:10.1.2.3]:4711".parse().unwrap(),
            local: "127.0.0.1:8443".parse().unwrap(),
            tls: Some(Box::new(TlsFacts {
                version: "TLSv1.3",
                cipher: "TLS_AES_128_GCM_SHA256",
                server_name: Some("shop.example".into()),
                peer: Some(Box::new(PeerCertificate {
                    subject: "CN=client".into(),
                    uri_sans: vec!["spiffe://a/b".into(), "spiffe://a/c".into()],
                    ..PeerCertificate::default()
                })),
            })),
        };
        let mut headers = Headers::new();
        headers.insert(http::HeaderName::from_static("x-request-id"), "abc".parse().unwrap());
        let facts = RequestFacts {
            connection: &connection,
            client: "[2001:db8::1]:0".parse().unwrap(),
            method: "GET",
            scheme: "https",
            authority: "shop.example",
            path_and_query: "/a?b",
            version: Version::HTTP_2,
            request_headers: &headers,
            response_headers: None,
            start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_045),
            elapsed: Duration::from_micros(12_900),
            status: Some(StatusCode::NOT_FOUND),
            flags: ResponseFlags::NO_ROUTE,
            route_name: "reviews",
            upstream_host: None,
            upstream_cluster: Some("outbound|80||a"),
            bytes_received: 7,
            bytes_sent: 12345,
            hostname: "edge-1",
        };
        for (fact, expected) in [
            (Fact::DownstreamRemoteAddress, "[2001:db8::1]:0"),
            (Fact::DownstreamRemoteAddressWithoutPort, "2001:db8::1"),
            (Fact::DownstreamDirectRemoteAddress, "10.1.2.3:4711"),
            (Fact::DownstreamLocalPort, "8443"),
            (Fact::DownstreamTlsVersion, "TLSv1.3"),
            (Fact::DownstreamPeerSubject, "CN=client"),
            (Fact::DownstreamPeerUriSan, "spiffe://a/b,spiffe://a/c"),
            (Fact::RequestedServerName, "shop.example"),
            (Fact::Protocol, "HTTP/2"),
            (Fact::ResponseCode, "404"),
            (Fact::ResponseFlags, "NR"),
            (Fact::UpstreamHost, ""),
            (Fact::UpstreamCluster, "outbound|80||a"),
            (Fact::StartTime, "2023-11-14T22:13:20.045Z"),
            (Fact::StartTimeSeconds, "1700000000"),
            (Fact::BytesSent, "12345"),
            (Fact::Duration, "12"),
            (Fact::RequestId, "abc"),
        ] {
            let mut out = Vec::new();
            facts.append_fact(fact, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{fact:?}");
        }
    }
}
