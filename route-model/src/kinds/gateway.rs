//! `networking.istio.io` Gateway: the ports, hosts and certificates of an edge.

use super::value::{StringMap, Written, choice, message};

message! {
    /// The spec of a Gateway.
    pub struct Gateway {
        /// Labels of the proxies that serve this Gateway, in any namespace; none: all gateways.
        pub selector: Written<StringMap>,
        pub servers: Written<Vec<Server>>,
    }

    /// One port and the hosts served on it.
    pub struct Server {
        pub port: Option<Port>,
        /// An IP address, or `unix://` with port 0; empty: the proxy's default address.
        pub bind: Written<String>,
        /// `host`, `*.host` or `*`, each with an optional `namespace/` that says whose VirtualServices may bind.
        pub hosts: Written<Vec<String>>,
        pub tls: Option<ServerTls>,
        pub default_endpoint: Written<String>,
        pub name: Written<String>,
    }

    /// A service port.
    pub struct Port {
        pub number: Written<u32>,
        /// `HTTP`, `HTTPS`, `GRPC` … in any case; see [`Protocol`](super::protocol::Protocol).
        pub protocol: Written<String>,
        pub name: Written<String>,
        pub target_port: Written<u32>,
    }

    /// How a server terminates TLS (Istio: `ServerTLSSettings`). Gateway servers and Sidecar ingress share it.
    pub struct ServerTls {
        pub https_redirect: Written<bool>,
        pub mode: Written<ServerTlsMode>,
        /// Paths on the proxy's host.
        pub server_certificate: Written<String>,
        pub private_key: Written<String>,
        pub ca_certificates: Written<String>,
        pub ca_crl: Written<String>,
        /// The name of a secret with certificate and key.
        pub credential_name: Written<String>,
        /// Two secrets: one with an RSA certificate, one with an ECDSA one.
        pub credential_names: Written<Vec<String>>,
        /// A secret that holds the CA apart from the certificate.
        pub ca_cert_credential_name: Written<String>,
        pub tls_certificates: Written<Vec<TlsCertificate>>,
        /// Names of which a client certificate must carry one.
        pub subject_alt_names: Written<Vec<String>>,
        /// Base64 SHA-256 of the SPKI of acceptable client certificates.
        pub verify_certificate_spki: Written<Vec<String>>,
        /// Hex SHA-256 of acceptable client certificates.
        pub verify_certificate_hash: Written<Vec<String>>,
        pub min_protocol_version: Written<TlsProtocol>,
        pub max_protocol_version: Written<TlsProtocol>,
        /// OpenSSL names, for TLS 1.2 and below.
        pub cipher_suites: Written<Vec<String>>,
        pub ecdh_curves: Written<Vec<String>>,
        pub insecure_skip_verify: Written<bool>,
    }

    /// A certificate in files on the proxy's host.
    pub struct TlsCertificate {
        pub server_certificate: Written<String>,
        pub private_key: Written<String>,
        pub ca_certificates: Written<String>,
    }
}

choice! {
    /// What a server does with TLS. Mind the zero value: `tls: {}` passes the connection through.
    pub enum ServerTlsMode {
        Passthrough,
        Simple,
        Mutual,
        AutoPassthrough,
        IstioMutual,
        OptionalMutual,
    }

    /// A version of TLS; `TLS_AUTO` leaves it to the proxy.
    pub enum TlsProtocol {
        TlsAuto,
        #[serde(rename = "TLSV1_0")]
        Tls10,
        #[serde(rename = "TLSV1_1")]
        Tls11,
        #[serde(rename = "TLSV1_2")]
        Tls12,
        #[serde(rename = "TLSV1_3")]
        Tls13,
    }
}
