//! The protocol names of ports.

/// A port's protocol, read without regard to case. A name that is none of Istio's is `None` from [`Protocol::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    GrpcWeb,
    HttpProxy,
    Https,
    Tls,
    Tcp,
    Mongo,
    Redis,
    Mysql,
    Udp,
    Hbone,
}

impl Protocol {
    /// Reads a name in any case.
    pub fn parse(name: &str) -> Option<Self> {
        const NAMES: [(&str, Protocol); 13] = [
            ("http", Protocol::Http),
            ("http2", Protocol::Http2),
            ("grpc", Protocol::Grpc),
            ("grpc-web", Protocol::GrpcWeb),
            ("http_proxy", Protocol::HttpProxy),
            ("https", Protocol::Https),
            ("tls", Protocol::Tls),
            ("tcp", Protocol::Tcp),
            ("mongo", Protocol::Mongo),
            ("redis", Protocol::Redis),
            ("mysql", Protocol::Mysql),
            ("udp", Protocol::Udp),
            ("hbone", Protocol::Hbone),
        ];
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, protocol)| *protocol)
    }

    /// What the name of a port begins with, as Istio reads it: `http-web`, `grpc`, `tcp-db`.
    pub fn of_port_name(name: &str) -> Option<Self> {
        let mut ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]).take(2);
        let first = Self::parse(&name[..ends.next()?]);
        // The only name of two words goes before its first.
        let second = ends.next().and_then(|end| Self::parse(&name[..end]));
        second.filter(|found| *found == Self::GrpcWeb).or(first)
    }

    /// HTTP in the clear: routed by `http` rules.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb | Self::HttpProxy)
    }

    /// TLS, with whatever inside.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Spoken to an upstream over HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }
}
