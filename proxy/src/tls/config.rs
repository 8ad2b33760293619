//! From terms, with every file read, to a configuration for handshakes.

use std::sync::Arc;

use route_model::table::tls::{CaSource, CertificateSource, TlsMode, TlsTerms, TlsVersion};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::{Certificates, TlsFault, certified_key};
use super::client_auth::{ClientCa, lenient, verifier};
use super::identity::{Identity, server_config};
use super::mesh::{self, alpn};
use super::{curves, suites};

pub(super) const ALPN_H2: &[u8] = b"h2";
pub(super) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The largest certificate, key, CA or CRL file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The files that terms name.
pub(super) fn files(terms: &TlsTerms) -> Vec<&str> {
    let mut files = Vec::new();
    for source in &terms.certificates {
        if let CertificateSource::Files { certificate, private_key } = source {
            files.extend([certificate.as_str(), private_key.as_str()]);
        }
    }
    if let Some(CaSource::Files { ca, crl }) = &terms.client_ca {
        files.push(ca);
        files.extend(crl.as_deref());
    }
    files
}

/// What handshakes with clients are made with.
#[derive(Debug)]
pub struct Termination {
    pub(super) config: Arc<ServerConfig>,
    /// With [`skip_verify`](TlsTerms::skip_verify): who says afterwards whether a client's certificate proves anything.
    judge: Option<Arc<dyn ClientCertVerifier>>,
}

impl Termination {
    /// Whether what a client showed is to be believed. Without a judge nobody comes here who is not.
    pub(super) fn believes(&self, chain: &[CertificateDer<'_>]) -> bool {
        let (Some(judge), Some((leaf, others))) = (&self.judge, chain.split_first()) else { return true };
        judge.verify_client_cert(leaf, others, UnixTime::now()).is_ok()
    }
}

/// Builds the configuration. `tickets` must not be shared with terms that ask for other client certificates: a
/// resumed session is not asked for one again.
pub(super) fn build(
    terms: &TlsTerms,
    tickets: Arc<dyn ProducesTickets>,
    identity: &Identity,
) -> Result<Arc<Termination>, TlsFault> {
    if terms.is_of_mesh() {
        let protocols = if terms.http { &mesh::HTTP[..] } else { &[alpn::BYTES] };
        return Ok(Arc::new(Termination { config: server_config(identity, protocols, false), judge: None }));
    }
    let mut provider = aws_lc_rs::default_provider();
    let (suites, unknown) = suites::select(&terms.cipher_suites, &provider.cipher_suites);
    if !unknown.is_empty() {
        tracing::warn!(suites = ?unknown, "cipher suites that this proxy does not have are ignored");
    }
    provider.cipher_suites = suites;
    let (curves, unknown) = curves::select(&terms.ecdh_curves, aws_lc_rs::ALL_KX_GROUPS, provider.kx_groups);
    if !unknown.is_empty() {
        tracing::warn!(curves = ?unknown, "curves that this proxy does not have are ignored");
    }
    provider.kx_groups = curves;
    let provider = Arc::new(provider);

    let certificates = load_certificates(&provider, terms)?;
    let ca = load_ca(terms)?;
    let strict = verifier(&provider, terms, ca.as_ref())?;
    let (verifier, judge) =
        if terms.skip_verify { (lenient(Arc::clone(&strict)), Some(strict)) } else { (strict, None) };

    let versions = match (terms.min_version, terms.max_version) {
        (TlsVersion::V1_2, TlsVersion::V1_2) => &[&TLS12][..],
        (TlsVersion::V1_2, TlsVersion::V1_3) => &[&TLS13, &TLS12],
        (TlsVersion::V1_3, TlsVersion::V1_3) => &[&TLS13],
        (TlsVersion::V1_3, TlsVersion::V1_2) => {
            return Err(TlsFault::invalid("minProtocolVersion is above maxProtocolVersion"));
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| TlsFault::invalid(format!("versions and cipher suites do not fit together: {error}")))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(certificates));
    if terms.http {
        config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
    }
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(Termination { config: Arc::new(config), judge }))
}

fn load_certificates(provider: &CryptoProvider, terms: &TlsTerms) -> Result<Certificates, TlsFault> {
    if terms.certificates.is_empty() {
        return Err(TlsFault::missing("the server has no certificate; its secret may be missing"));
    }
    let keys = terms.certificates.iter().map(|source| match source {
        CertificateSource::Secret(credential) => {
            certified_key(provider, &credential.certificate, &credential.private_key, &credential.secret.to_string())
        }
        CertificateSource::Files { certificate, private_key } => {
            let from = format!("{certificate} with {private_key}");
            certified_key(provider, &read(certificate)?, &read(private_key)?, &from)
        }
        CertificateSource::Mesh => Err(TlsFault::missing("its certificate is the mesh's to give")),
    });
    Ok(Certificates::new(keys.collect::<Result<_, _>>()?))
}

fn load_ca(terms: &TlsTerms) -> Result<Option<ClientCa>, TlsFault> {
    if terms.mode == TlsMode::Simple {
        return Ok(None);
    }
    Ok(match &terms.client_ca {
        None => None,
        Some(CaSource::Mesh) => return Err(TlsFault::missing("its authorities are the mesh's")),
        Some(CaSource::Secret(credential)) => {
            Some(ClientCa { from: credential.secret.to_string(), ca: credential.ca.clone(), crl: None })
        }
        Some(CaSource::Files { ca, crl }) => Some(ClientCa {
            from: crl.as_ref().map_or_else(|| ca.clone(), |crl| format!("{ca} with {crl}")),
            ca: read(ca)?,
            crl: crl.as_deref().map(read).transpose()?,
        }),
    })
}

pub(super) fn read(path: &str) -> Result<Vec<u8>, TlsFault> {
    let unreadable = |error| TlsFault::invalid(format!("cannot read {path}: {error}"));
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE {
        return Err(TlsFault::invalid(format!("{path} is larger than {MAX_FILE} bytes")));
    }
    std::fs::read(path).map_err(unreadable)
}
