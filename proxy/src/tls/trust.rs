//! Whom to trust: certificate authorities and revocation lists in PEM, and the authorities of the operating system.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::RootCertStore;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;

use super::certificate::{TlsFault, certificates};

/// Reads certificate authorities. `from` names where they come from, for messages.
pub(super) fn roots(pem: &[u8], from: &str) -> Result<Arc<RootCertStore>, TlsFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, from)? {
        roots
            .add(certificate)
            .map_err(|error| TlsFault::invalid(format!("{from}: a CA certificate cannot be used: {error}")))?;
    }
    Ok(Arc::new(roots))
}

/// Reads one or more lists of revoked certificates.
pub(super) fn revoked(pem: &[u8], from: &str) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsFault> {
    let lists = CertificateRevocationListDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsFault::invalid(format!("{from}: the CRL is no valid PEM: {error}")))?;
    if lists.is_empty() {
        return Err(TlsFault::invalid(format!("{from}: there is no PEM CRL in it")));
    }
    Ok(lists)
}

/// There is nobody whom the operating system trusts. Holds why, in parentheses, if that is known.
#[derive(Debug, thiserror::Error)]
#[error("this system has no certificate authorities{0}")]
pub(crate) struct NoSystemRoots(String);

/// The certificate authorities of the operating system, read when they are first asked for.
pub(crate) fn system_roots() -> Result<Arc<RootCertStore>, NoSystemRoots> {
    static LOADED: Mutex<Option<Arc<RootCertStore>>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(roots) = &*loaded {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(NoSystemRoots(if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) }));
    }
    Ok(Arc::clone(loaded.insert(Arc::new(roots))))
}
