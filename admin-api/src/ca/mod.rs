//! Fairway's own certificate authority: it signs the certificates of the control plane's ports.
//!
//! The root is made on first start and lives, sealed, in the database, so that all replicas share it.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

/// The root is good for ten years; who needs another hierarchy brings certificates of their own.
const ROOT_DAYS: i64 = 3650;
/// A server certificate is made anew at every start, so this bounds how long a process may run.
const SERVER_DAYS: i64 = 825;

/// The root certificate and its key, as PEM: the form in which it is kept.
#[derive(Clone, Serialize, Deserialize)]
pub struct Root {
    pub certificate: String,
    private_key: String,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").finish_non_exhaustive()
    }
}

/// A certificate with its chain, and the key to it.
#[derive(Debug)]
pub struct ServerCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("cannot make a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("the CA kept in the database cannot be read: {0}")]
    Damaged(String),
    #[error("{file} cannot be used: {reason}")]
    File { file: String, reason: String },
}

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_pem: String,
}

impl Root {
    /// A new root with a fresh P-256 key.
    pub fn generate() -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Fairway CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity(ROOT_DAYS);
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate: certificate.pem(), private_key: key.serialize_pem() })
    }
}

impl Authority {
    pub fn new(root: &Root) -> Result<Self, CaError> {
        let damaged = |error: &dyn std::fmt::Display| CaError::Damaged(error.to_string());
        let key = KeyPair::from_pem(&root.private_key).map_err(|e| damaged(&e))?;
        let der = CertificateDer::from_pem_slice(root.certificate.as_bytes()).map_err(|e| damaged(&e))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| damaged(&e))?;
        Ok(Self { issuer, root: der, root_pem: root.certificate.clone() })
    }

    /// What clients verify this control plane against (PEM).
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A certificate for a server that is reached by these names and addresses.
    pub fn issue_server(&self, names: &[String]) -> Result<ServerCertificate, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "fairway");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(SERVER_DAYS);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ServerCertificate {
            chain: vec![certificate.der().clone(), self.root.clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        })
    }
}

/// From an hour ago, for clocks that differ, to so many days ahead.
fn validity(days: i64) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = time::OffsetDateTime::now_utc();
    (now - time::Duration::hours(1), now + time::Duration::days(days))
}

/// Reads a certificate chain and its key from PEM files (`--admin-cert`, `--admin-key`).
pub fn read_server_certificate(cert: &std::path::Path, key: &std::path::Path) -> Result<ServerCertificate, CaError> {
    let wrong = |path: &std::path::Path, reason: String| CaError::File { file: path.display().to_string(), reason };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| wrong(cert, e.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(cert, "it holds no PEM certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, e.to_string()))?;
    Ok(ServerCertificate { chain, key })
}

/// The names by which clients on this host and its network may reach a server bound to these addresses.
pub fn server_names(bound: &[IpAddr], extra: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let addresses = bound.iter().filter(|ip| !ip.is_unspecified()).map(IpAddr::to_string);
    names.extend(addresses.chain(extra.iter().cloned()).chain(hostname()));
    names.sort();
    names.dedup();
    names
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_owned();
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    (!name.is_empty() && name.chars().all(valid)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_client_that_trusts_the_root_accepts_the_server() {
        let authority = Authority::new(&Root::generate().unwrap()).unwrap();
        let issued = authority.issue_server(&server_names(&[], &[])).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.root_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        use rustls::client::danger::ServerCertVerifier;
        let now = rustls_pki_types::UnixTime::now();
        for (name, fits) in [("localhost", true), ("127.0.0.1", true), ("elsewhere.example", false)] {
            let name = name.try_into().unwrap();
            let verdict = verifier.verify_server_cert(&issued.chain[0], &issued.chain[1..], &name, &[], now);
            assert_eq!(verdict.is_ok(), fits, "{name:?}");
        }
    }
}
