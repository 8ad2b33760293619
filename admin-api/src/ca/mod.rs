//! Fairway's own certificate authority: it signs the certificates of the control plane's ports and of the proxies.
//!
//! Its root is made on first start and lives, sealed, in the database, so that all replicas share it; or an operator
//! gives a CA of theirs (`--ca-cert`, `--ca-key`), an intermediate one for instance.

mod current;
mod given;
mod kept;
mod server;
#[cfg(test)]
mod tests;
mod workload;

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::store::StoreError;
use crate::store::seal::encode_hex;

pub use self::current::{Ca, RootInfo};
pub use self::kept::Kept;
pub use self::server::{ServerCertificate, ServerKey, read_server_certificate, server_names};
pub use self::workload::{CsrError, Identified, MAX_CERT_TTL, MIN_CERT_TTL, Svid};

/// The root is good for ten years; who needs another hierarchy brings certificates of their own.
const ROOT_DAYS: i64 = 3650;

/// The root certificate and its key, as PEM: the form in which it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Root {
    certificate: String,
    private_key: String,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("cannot make a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("the CA kept in the database cannot be read: {0}")]
    Damaged(String),
    #[error("the CA was given by --ca-cert: to change it, put another in those files and start again")]
    NotOurs,
    #[error("another rotation of the CA is under way; try again")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{file} cannot be used: {reason}")]
    File { file: String, reason: String },
}

/// Signs certificates, and knows whose to accept.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// What lies between a certificate that is signed here and the root.
    intermediates: Vec<CertificateDer<'static>>,
    /// What is trusted; first the root above the issuer.
    roots: Vec<CertificateDer<'static>>,
    root_pem: String,
    /// When the first certificate between the issuer and its root expires: nothing that is signed here outlives it.
    not_after: OffsetDateTime,
    /// Accepts the certificates of proxies.
    clients: Arc<dyn ClientCertVerifier>,
}

impl Root {
    /// A new root with a fresh P-256 key.
    fn generate() -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = root_params()?.self_signed(&key)?;
        Ok(Self { certificate: certificate.pem(), private_key: key.serialize_pem() })
    }
}

/// What a root says of itself. No two have the same name: chains are found by it.
fn root_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let serial = serial_number()?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Fairway CA {}", encode_hex(&serial.as_ref()[..4])));
    params.serial_number = Some(serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(ROOT_DAYS);
    Ok(params)
}

impl Authority {
    /// `chain` leads from the certificate of `key` to the first of the roots, which may be left out at its end.
    fn of_chain(
        mut chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let signer = chain.first().ok_or("there is no certificate")?;
        let issuer = Issuer::from_ca_cert_der(signer, key).map_err(|e| text(&e))?;
        let ends = chain.iter().map(|certificate| {
            let (_, certificate) = x509_parser::parse_x509_certificate(certificate).map_err(|e| text(&e))?;
            Ok(certificate.validity().not_after.to_datetime())
        });
        let not_after = ends.collect::<Result<Vec<_>, String>>()?.into_iter().min().ok_or("there is no certificate")?;
        chain.retain(|certificate| !roots.contains(certificate));

        let mut store = RootCertStore::empty();
        let mut root_pem = String::new();
        for root in &roots {
            store.add(root.clone()).map_err(|e| text(&e))?;
            root_pem.push_str(&pem(root));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().map_err(|e| text(&e))?;
        Ok(Self { issuer, intermediates: chain, roots, root_pem, not_after, clients })
    }

    /// What clients verify this control plane against (PEM), one or more certificates.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The roots of all that is trusted here.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// A leaf, with what leads from it to the root.
    fn with_intermediates(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        std::iter::once(leaf).chain(self.intermediates.iter().cloned()).collect()
    }
}

/// From an hour ago, for clocks that differ, to so many days ahead.
fn validity(days: i64) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - time::Duration::hours(1), now + time::Duration::days(days))
}

/// 127 random bits: RFC 5280, section 4.1.2.2 wants serial numbers positive, unique per issuer and at most 20 bytes.
fn serial_number() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// A certificate as PEM (RFC 7468): base64 in lines of 64 characters.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = crate::base64(certificate);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
