//! A certificate with its key: as it is asked for, and as it came.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use proxy::Svid;
use proxy::identity::spiffe_id;
use push::client::Signed;
use rcgen::{CertificateParams, CertificateSigningRequest, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::schedule;

/// A new key, and the request to certify it.
pub(super) struct Request {
    key: KeyPair,
    csr: CertificateSigningRequest,
}

impl Request {
    pub(super) fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        // The control plane knows whose it is.
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?;
        Ok(Self { key, csr })
    }

    /// PKCS#10, in DER.
    pub(super) fn csr(&self) -> Bytes {
        self.csr.der().to_vec().into()
    }

    /// The certificate that the control plane made of it.
    pub(super) fn answered(self, signed: Signed) -> Result<Certificate, String> {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        Certificate::new(signed.chain, key, SystemTime::now(), signed.not_after)
    }
}

/// A certificate with its key.
#[derive(Debug)]
pub(super) struct Certificate {
    /// The leaf first; without the root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// Whom the leaf names.
    pub(super) id: String,
    obtained: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Certificate {
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        obtained: SystemTime,
        not_after: SystemTime,
    ) -> Result<Self, String> {
        let leaf = chain.first().ok_or("there is no certificate")?;
        let id = spiffe_id(leaf).map_err(|error| error.to_string())?.to_string();
        Ok(Self { chain, key, id, obtained, not_after })
    }

    pub(super) fn svid(&self) -> Svid {
        Svid {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            spiffe_id: self.id.clone(),
            not_after: self.not_after,
        }
    }

    /// How long it was good when it came.
    pub(super) fn life(&self) -> Duration {
        self.not_after.duration_since(self.obtained).unwrap_or_default()
    }

    /// How long it is good from now on; zero once it has expired.
    pub(super) fn left(&self) -> Duration {
        schedule::until(self.not_after)
    }

    pub(super) fn expires_in(&self) -> String {
        schedule::text(self.left())
    }

    /// When to renew it. `random` is from 0 to 1.
    pub(super) fn renewal(&self, random: f64) -> SystemTime {
        schedule::renewal(self.obtained, self.not_after, random)
    }
}

impl Clone for Certificate {
    fn clone(&self) -> Self {
        let Self { chain, key, id, obtained, not_after } = self;
        let (obtained, not_after) = (*obtained, *not_after);
        Self { chain: chain.clone(), key: key.clone_key(), id: id.clone(), obtained, not_after }
    }
}
