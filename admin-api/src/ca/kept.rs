//! The CA as the database keeps it, and how one root takes over from another.
//!
//! A new root signs from the moment it is made. Who knows the one before it alone accepts what it signs all the same: a
//! **bridge**, its key certified by the root before, goes with every certificate. The root before stays trusted until
//! what it signed has run out, and its key is not kept.

use jiff::Timestamp;
use rcgen::{BasicConstraints, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::{Authority, CaError, Root, root_params};

/// What signs, and what is trusted beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    #[serde(flatten)]
    root: Root,
    /// PEM; from the root that is the first of the former ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bridge: Option<String>,
    /// Roots from before, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former: Vec<Former>,
}

/// A root that does not sign any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Former {
    /// PEM.
    certificate: String,
    /// Trusted until then.
    until: Timestamp,
}

impl Kept {
    /// With a new root, and nothing before it.
    pub fn generate() -> Result<Self, CaError> {
        Ok(Self { root: Root::generate()?, bridge: None, former: Vec::new() })
    }

    /// With a new root in the place of the one that signs now, which stays trusted until `until`.
    pub(super) fn rotated(&self, until: Timestamp, now: Timestamp) -> Result<Self, CaError> {
        let old_key = KeyPair::from_pem(&self.root.private_key)?;
        let old = der(&self.root.certificate)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&old).map_err(|e| CaError::Damaged(e.to_string()))?;
        let old_not_after = parsed.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&old, old_key)?;

        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = root_params()?;
        let root = Root { certificate: params.self_signed(&key)?.pem(), private_key: key.serialize_pem() };
        params.serial_number = Some(super::serial_number()?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        params.not_after = params.not_after.min(old_not_after);
        let bridge = params.signed_by(&key, &issuer)?.pem();

        let mut former = vec![Former { certificate: self.root.certificate.clone(), until }];
        former.extend(self.former.iter().filter(|former| former.until > now).cloned());
        Ok(Self { root, bridge: Some(bridge), former })
    }

    /// Until when each root is trusted at `now`; the one that signs comes first, and without an end.
    pub(super) fn trusted(&self, now: Timestamp) -> impl Iterator<Item = (&str, Option<Timestamp>)> {
        let former = self.former.iter().filter(move |former| former.until > now);
        let former = former.map(|former| (former.certificate.as_str(), Some(former.until)));
        std::iter::once((self.root.certificate.as_str(), None)).chain(former)
    }
}

impl Authority {
    /// The one that the database keeps, with the roots that are trusted at `now`.
    pub fn kept(kept: &Kept, now: Timestamp) -> Result<Self, CaError> {
        let damaged = |error: &dyn std::fmt::Display| CaError::Damaged(error.to_string());
        let key = KeyPair::from_pem(&kept.root.private_key).map_err(|e| damaged(&e))?;
        let trusted: Vec<(&str, Option<Timestamp>)> = kept.trusted(now).collect();
        let roots = trusted.iter().map(|(pem, _)| der(pem)).collect::<Result<Vec<_>, _>>()?;
        let mut chain = vec![der(&kept.root.certificate)?];
        let newest = kept.former.first().map(|former| former.certificate.as_str());
        if let Some(bridge) = &kept.bridge
            && trusted.iter().any(|(pem, _)| Some(*pem) == newest)
        {
            chain.push(der(bridge)?);
        }
        Self::of_chain(chain, key, roots).map_err(|reason| damaged(&reason))
    }
}

fn der(pem: &str) -> Result<CertificateDer<'static>, CaError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| CaError::Damaged(error.to_string()))
}
