//! Certificates and private keys: from PEM to something that signs, or a sentence that says what is wrong.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::proxy::reason;

/// Why TLS terms cannot be put in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TlsFault {
    /// One of [`reason`].
    pub reason: &'static str,
    pub message: String,
}

impl TlsFault {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self { reason: reason::CERTIFICATE_INVALID, message: message.into() }
    }

    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self { reason: reason::CERTIFICATE_MISSING, message: message.into() }
    }
}

/// Reads a certificate chain and its key. `from` names where they come from, for messages: `Secret default/shop`.
pub fn certified_key(
    provider: &CryptoProvider,
    certificate: &[u8],
    private_key: &[u8],
    from: &str,
) -> Result<CertifiedKey, TlsFault> {
    let chain = certificates(certificate, from)?;
    let key = PrivateKeyDer::from_pem_slice(private_key)
        .map_err(|error| TlsFault::invalid(format!("{from}: the private key is no unencrypted PEM key: {error}")))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| TlsFault::invalid(format!("{from}: the private key cannot be used: {error}")))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(TlsFault {
                reason: reason::CERTIFICATE_KEY_MISMATCH,
                message: format!("{from}: the private key does not belong to the first certificate"),
            });
        }
        Err(error) => return Err(TlsFault::invalid(format!("{from}: the certificate cannot be used: {error}"))),
    }
    warn_of_dates(&certified, from);
    Ok(certified)
}

/// Reads one or more certificates.
pub(super) fn certificates(pem: &[u8], from: &str) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsFault::invalid(format!("{from}: the certificate is no valid PEM: {error}")))?;
    if chain.is_empty() {
        return Err(TlsFault::invalid(format!("{from}: there is no PEM certificate in it")));
    }
    Ok(chain)
}

/// An expired certificate is served all the same: clients see what is wrong, and some do not mind.
fn warn_of_dates(certified: &CertifiedKey, from: &str) {
    let Some(Ok((_, leaf))) = certified.cert.first().map(|leaf| X509Certificate::from_der(leaf)) else { return };
    if !leaf.validity().is_valid() {
        let (from_date, to_date) = (leaf.validity().not_before, leaf.validity().not_after);
        tracing::warn!(%from_date, %to_date, "{from}: the certificate is not valid today");
    }
}

/// The certificates of one server, at most one for each kind of key.
#[derive(Debug)]
pub(super) struct Certificates {
    /// ECDSA and Ed25519 before RSA: their handshakes are cheaper.
    keys: Box<[Arc<CertifiedKey>]>,
}

impl Certificates {
    pub(super) fn new(keys: Vec<CertifiedKey>) -> Self {
        let mut keys: Vec<Arc<CertifiedKey>> = keys.into_iter().map(Arc::new).collect();
        keys.sort_by_key(|certified| certified.key.algorithm() == SignatureAlgorithm::RSA);
        Self { keys: keys.into() }
    }
}

impl ResolvesServerCert for Certificates {
    /// The first certificate that the client can verify the signature of.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |certified: &&Arc<CertifiedKey>| certified.key.choose_scheme(hello.signature_schemes()).is_some();
        self.keys.iter().find(fits).or(self.keys.first()).cloned()
    }
}
