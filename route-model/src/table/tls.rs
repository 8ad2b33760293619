//! TLS: which server a connection belongs to and, where it is terminated, what its handshake uses.

use std::sync::Arc;

use super::{HostIndex, HttpRoutes, ServerRef, StreamRoutes};
use crate::meta::ResourceKey;

/// The TLS servers of one listener.
#[derive(Clone, Debug)]
pub struct TlsListener {
    /// Those that terminate.
    pub servers: Vec<Arc<TlsServer>>,
    /// Those that pass connections through as they come.
    pub passthrough: Vec<Arc<PassthroughServer>>,
    /// Where an SNI leads: exact, then the longest wildcard, then `*`, which also takes no SNI at all. An SNI that
    /// matches nothing ends the handshake.
    pub by_sni: HostIndex<TlsChoice>,
}

/// The server that an SNI leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsChoice {
    /// Index into [`TlsListener::servers`].
    Terminate(u32),
    /// Index into [`TlsListener::passthrough`].
    PassThrough(u32),
}

impl TlsListener {
    /// The routes for an authority on a connection that was made to `server`; `None` when it does not belong there
    /// (421, RFC 9110 section 15.5.20).
    pub fn routes_for(&self, server: usize, authority: &str) -> Option<&Arc<HttpRoutes>> {
        match self.by_sni.find_authority(authority)? {
            TlsChoice::Terminate(owner) if *owner as usize == server => self.servers.get(server)?.http(),
            _ => None,
        }
    }
}

/// One TLS-terminating Gateway server. It has routes of its own; they never leak into another server's.
#[derive(Clone, Debug)]
pub struct TlsServer {
    pub server: ServerRef,
    pub terms: Arc<TlsTerms>,
    pub routes: TlsRoutes,
}

/// What is inside TLS.
#[derive(Clone, Debug)]
pub enum TlsRoutes {
    /// Protocol HTTPS.
    Http(Arc<HttpRoutes>),
    /// Protocol TLS: bytes.
    Tcp(Arc<StreamRoutes>),
}

impl TlsServer {
    /// The routes of HTTP inside TLS.
    pub fn http(&self) -> Option<&Arc<HttpRoutes>> {
        match &self.routes {
            TlsRoutes::Http(routes) => Some(routes),
            TlsRoutes::Tcp(_) => None,
        }
    }
}

/// One Gateway server of mode PASSTHROUGH: connections are chosen by SNI and never decrypted.
#[derive(Clone, Debug)]
pub struct PassthroughServer {
    pub server: ServerRef,
    pub routes: Arc<StreamRoutes>,
}

/// What a handshake needs. Equal terms are one allocation from table to table, so a TLS configuration is rebuilt
/// only when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsTerms {
    pub mode: TlsMode,
    /// HTTP is spoken inside: `h2` and `http/1.1` are offered (ALPN). Otherwise no protocol is.
    pub http: bool,
    /// One, or an RSA and an ECDSA one. Empty when the secret is missing: handshakes fail, a condition says why.
    pub certificates: Vec<CertificateSource>,
    /// What client certificates are verified against; none with [`TlsMode::Simple`].
    pub client_ca: Option<CaSource>,
    /// `subjectAltNames`: a client certificate must carry one of them; empty: any.
    pub subject_alt_names: Vec<String>,
    /// Base64 SHA-256 of the SPKI, or hex SHA-256 of the certificate; empty: any.
    pub verify_certificate_spki: Vec<String>,
    pub verify_certificate_hash: Vec<String>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    /// OpenSSL names; empty: the library's defaults.
    pub cipher_suites: Vec<String>,
    /// BoringSSL's names, best first; empty: the library's defaults.
    pub ecdh_curves: Vec<String>,
    /// `insecureSkipVerify`: a client certificate that does not verify is taken too, as if there were none.
    pub skip_verify: bool,
}

impl TlsTerms {
    /// Whether both ends show certificates of the mesh.
    pub fn is_of_mesh(&self) -> bool {
        self.certificates.contains(&CertificateSource::Mesh)
    }
}

/// Terms that ask nothing of clients, with every version and suite there is, and no certificate yet.
impl Default for TlsTerms {
    fn default() -> Self {
        Self {
            mode: TlsMode::Simple,
            http: true,
            certificates: Vec::new(),
            client_ca: None,
            subject_alt_names: Vec::new(),
            verify_certificate_spki: Vec::new(),
            verify_certificate_hash: Vec::new(),
            min_version: TlsVersion::V1_2,
            max_version: TlsVersion::V1_3,
            cipher_suites: Vec::new(),
            ecdh_curves: Vec::new(),
            skip_verify: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Simple,
    /// A client certificate is required and verified.
    Mutual,
    /// A client certificate is asked for; one that is presented must verify.
    OptionalMutual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    Secret(Arc<Credential>),
    /// `serverCertificate` and `privateKey`: files on the proxy's host.
    Files {
        certificate: String,
        private_key: String,
    },
    /// The proxy's own of the mesh (`ISTIO_MUTUAL`).
    Mesh,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaSource {
    Secret(Arc<Credential>),
    /// `caCertificates` and `caCrl`: files on the proxy's host.
    Files {
        ca: String,
        crl: Option<String>,
    },
    /// Whom the mesh trusts (`ISTIO_MUTUAL`).
    Mesh,
}

/// A TLS secret: `tls.crt`, `tls.key`, `ca.crt` (PEM).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    pub secret: ResourceKey,
    pub certificate: Vec<u8>,
    pub private_key: Vec<u8>,
    pub ca: Vec<u8>,
}

/// Without the key material: this type ends up in logs and dumps.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("secret", &self.secret).finish_non_exhaustive()
    }
}
