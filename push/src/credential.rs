//! A proxy's own certificate, as it is shown to the control plane.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Holds the certificate and its key; shared by what renews them and the
/// [`TlsTransport`](crate::transport::TlsTransport), whose next connection shows the newest. One that has expired is
/// not shown, so that the join token decides.
#[derive(Debug, Default)]
pub struct Credential {
    current: RwLock<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    not_after: SystemTime,
}

impl Credential {
    /// Puts a certificate in the place of the one before.
    ///
    /// # Errors
    /// When the key cannot be used, or is not the certificate's.
    pub fn set(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        not_after: SystemTime,
    ) -> Result<(), rustls::Error> {
        let key = CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())?;
        let current = Current { key: Arc::new(key), not_after };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(current);
        Ok(())
    }
}

impl ResolvesClientCert for Credential {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|current| SystemTime::now() < current.not_after).map(|current| current.key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
