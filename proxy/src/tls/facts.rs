//! What a finished handshake says about a connection and its client.

/// Facts of a TLS connection, taken once when its handshake is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// As Envoy writes it: `TLSv1.2`, `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its OpenSSL name; empty if the library names one we do not know.
    pub cipher: &'static str,
    /// In lower case, as the client sent it.
    pub server_name: Option<Box<str>>,
    /// The verified client certificate; `None` if there was none.
    pub peer: Option<Box<PeerCertificate>>,
}

/// What a verified client certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The subject as RFC 2253 writes it: `CN=client,O=Example`.
    pub subject: Box<str>,
    /// The URI names of the certificate, in its order.
    pub uri_sans: Vec<Box<str>>,
    /// The DNS names of the certificate, in its order.
    pub dns_sans: Vec<Box<str>>,
    /// SHA-256 of the certificate, in lower-case hex.
    pub sha256: Box<str>,
}
