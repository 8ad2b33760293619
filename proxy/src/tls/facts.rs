//! What a finished handshake says about a connection and its client.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use rustls::server::ServerConnection;
use rustls::{ProtocolVersion, SupportedCipherSuite};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::x509::X509Name;

use super::suites;

/// Facts of a TLS connection, taken once when its handshake is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// As Envoy writes it: `TLSv1.2`, `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its OpenSSL name.
    pub cipher: &'static str,
    /// In lower case.
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
    /// All of it as upstreams are told in `x-forwarded-client-cert`; `None` if it cannot be written as a header.
    pub forwarded: Option<HeaderValue>,
}

impl TlsFacts {
    pub(super) fn of(connection: &ServerConnection, server_name: Option<Box<str>>) -> Self {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        };
        let suite = connection.negotiated_cipher_suite();
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            version,
            cipher: suite.as_ref().map(SupportedCipherSuite::suite).map_or("", suites::name),
            server_name,
            peer: leaf.map(|leaf| Box::new(PeerCertificate::of(leaf))),
        }
    }
}

impl PeerCertificate {
    fn of(der: &CertificateDer<'_>) -> Self {
        let mut facts = Self { sha256: hex(digest(&SHA256, der).as_ref()), ..Self::default() };
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return facts };
        facts.subject = rfc2253(certificate.subject());
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => facts.uri_sans.push((*uri).into()),
                    GeneralName::DNSName(dns) => facts.dns_sans.push((*dns).into()),
                    _ => {}
                }
            }
        }
        facts.forwarded = facts.forwarded_value(der);
        facts
    }

    /// The elements and their order are Envoy's, those that an Istio gateway sets.
    fn forwarded_value(&self, der: &CertificateDer<'_>) -> Option<HeaderValue> {
        let mut value = format!("Hash={};Cert=\"{}\";Subject=\"{}\"", self.sha256, escaped_pem(der), self.subject);
        for (key, names) in [("URI", &self.uri_sans), ("DNS", &self.dns_sans)] {
            for name in names {
                // A name that could be taken for another element is left out.
                if !name.contains([',', ';', '=', '"', '\\']) {
                    value.extend([";", key, "=", name]);
                }
            }
        }
        HeaderValue::from_str(&value).ok()
    }
}

/// PEM with what a header cannot bear, and what query strings give a meaning, as %XX.
fn escaped_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("-----BEGIN%20CERTIFICATE-----%0A{text}%0A-----END%20CERTIFICATE-----%0A")
}

fn hex(bytes: &[u8]) -> Box<str> {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0x0f])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

/// The most specific part first, values escaped.
fn rfc2253(name: &X509Name<'_>) -> Box<str> {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|rdn| {
            let pairs: Vec<String> = rdn
                .iter()
                .map(|pair| {
                    let oid = pair.attr_type();
                    let known = x509_parser::objects::oid2abbrev(oid, x509_parser::objects::oid_registry());
                    let value = pair.as_str().map_or_else(|_| format!("#{}", hex(pair.attr_value().data)), escape);
                    format!("{}={value}", known.map_or_else(|_| oid.to_id_string(), ToOwned::to_owned))
                })
                .collect();
            pairs.join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",").into()
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (position, c) in value.char_indices() {
        let edge_space = c == ' ' && (position == 0 || position == last);
        if matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') || edge_space || (c == '#' && position == 0) {
            out.push('\\');
        }
        // A subject ends up in headers and logs, which bear no control characters.
        out.push(if c.is_control() { '?' } else { c });
    }
    out
}
