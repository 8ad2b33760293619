//! Certificates of workloads: X.509-SVIDs
//! (<https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>).

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use route_model::identity::WorkloadId;
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;

use super::{Authority, serial_number};

/// The shortest and the longest time that a workload's certificate may be good for. Seconds are for trying out what
/// happens around an expiry.
pub const MIN_CERT_TTL: Duration = Duration::from_secs(10);
pub const MAX_CERT_TTL: Duration = Duration::from_hours(90 * 24);

/// How far the clocks of proxies may be behind.
const SKEW: Duration = Duration::from_mins(1);

/// Why a certificate is not signed.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    #[error("the request is no PKCS#10 certificate signing request in DER")]
    Unreadable,
    #[error("the request is not signed by the key that it is for")]
    Signature,
    #[error("the request's key is none on the curve P-256")]
    Key,
    #[error("{0:?} is no workload's identity of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Identity(String),
    #[error("the CA's own certificate has expired")]
    Expired,
    #[error("the certificate could not be made: {0}")]
    Issue(#[from] rcgen::Error),
}

/// A workload's certificate.
#[derive(Clone, Debug)]
pub struct Svid {
    /// The leaf first; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    pub not_after: SystemTime,
}

/// Whom a certificate that somebody showed names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    /// `spiffe://…`; a [`WorkloadId`].
    pub id: String,
    pub not_after: SystemTime,
}

impl Authority {
    /// A certificate for the key of `csr` (PKCS#10, DER), which is all that counts of it: the names are `id`'s. It is
    /// good from a minute ago for `ttl`, and for less when the CA is not that long itself.
    pub fn issue_workload(&self, csr: &[u8], id: &str, ttl: Duration) -> Result<Svid, CsrError> {
        let (rest, csr) = X509CertificationRequest::from_der(csr).map_err(|_| CsrError::Unreadable)?;
        if !rest.is_empty() {
            return Err(CsrError::Unreadable);
        }
        let key = &csr.certification_request_info.subject_pki;
        let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
            return Err(CsrError::Key);
        }
        csr.verify_signature().map_err(|_| CsrError::Signature)?;
        let public_key = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::Key)?;

        let unfit = || CsrError::Identity(id.to_owned());
        WorkloadId::parse(id).filter(WorkloadId::is_wellformed).ok_or_else(unfit)?;
        let now = OffsetDateTime::now_utc();
        let not_after = (now + ttl).min(self.not_after);
        if not_after <= now {
            return Err(CsrError::Expired);
        }
        let mut params = CertificateParams::default();
        // The name is in the SAN alone, which is critical therefore (RFC 5280, section 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().map_err(|_| unfit())?)];
        params.serial_number = Some(serial_number()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - SKEW;
        params.not_after = not_after;
        let leaf = params.signed_by(&public_key, &self.issuer)?;
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(not_after.unix_timestamp().unsigned_abs());
        Ok(Svid { chain: self.with_intermediates(leaf.der().clone()), not_after })
    }

    /// Whom the certificate of a client names, if it is a workload's and one of the trusted roots vouches for it now.
    ///
    /// # Errors
    /// Why it does not count, in words.
    pub fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<Identified, String> {
        let (leaf, intermediates) = chain.split_first().ok_or("there is none")?;
        let verdict = self.clients.verify_client_cert(leaf, intermediates, UnixTime::now());
        verdict.map_err(|error| error.to_string())?;
        let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|error| error.to_string())?;
        let names = leaf.subject_alternative_name().ok().flatten();
        let id = match names.map(|names| &*names.value.general_names) {
            Some([GeneralName::URI(uri)]) if WorkloadId::parse(uri).is_some() => (*uri).to_owned(),
            _ => return Err("it names no workload: its one name must be spiffe://…/ns/…/sa/…".to_owned()),
        };
        let not_after = leaf.validity().not_after.timestamp();
        Ok(Identified { id, not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(not_after.unsigned_abs()) })
    }
}
