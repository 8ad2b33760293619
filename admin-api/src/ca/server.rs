//! Certificates of the control plane's own ports.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Authority, CaError, serial_number, validity};

/// A server certificate is made anew at every start, so this bounds how long a process may run.
const SERVER_DAYS: i64 = 825;

/// A certificate with its chain, and the key to it.
#[derive(Debug)]
pub struct ServerCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// The certificate that a port shows from its next handshake on.
#[derive(Debug)]
pub struct ServerKey(RwLock<Arc<CertifiedKey>>);

impl ServerKey {
    /// Shows this certificate first.
    pub fn new(certificate: ServerCertificate) -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self(RwLock::new(certified(certificate)?))))
    }

    /// Shows another certificate from the next handshake on.
    pub fn set(&self, certificate: ServerCertificate) -> Result<(), rustls::Error> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified(certificate)?;
        Ok(())
    }
}

impl ResolvesServerCert for ServerKey {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn certified(certificate: ServerCertificate) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(certificate.chain, certificate.key, &provider)?))
}

impl Authority {
    /// A certificate for a server that is reached by these names and addresses.
    pub fn issue_server(&self, names: &[String]) -> Result<ServerCertificate, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "fairway");
        params.serial_number = Some(serial_number()?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(SERVER_DAYS);
        params.not_after = params.not_after.min(self.not_after);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ServerCertificate {
            chain: self.with_intermediates(certificate.der().clone()),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        })
    }
}

/// Reads a certificate chain and its key from PEM files (`--admin-cert`, `--admin-key`).
pub fn read_server_certificate(cert: &Path, key: &Path) -> Result<ServerCertificate, CaError> {
    let chain = super::given::read_chain(cert)?;
    let wrong = |reason: String| CaError::File { file: key.display().to_string(), reason };
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(e.to_string()))?;
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
