//! Client certificates: verified against a CA, and then against what else the Gateway asks of them.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use route_model::table::tls::{TlsMode, TlsTerms};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::{TlsFault, certificates};
use super::names::is_for_one_of;

/// PEM texts that client certificates are verified with.
#[derive(Debug)]
pub(super) struct ClientCa {
    /// Where it comes from, for messages.
    pub(super) from: String,
    pub(super) ca: Vec<u8>,
    pub(super) crl: Option<Vec<u8>>,
}

/// The verifier that terms ask for.
pub(super) fn verifier(
    provider: &Arc<CryptoProvider>,
    terms: &TlsTerms,
    ca: Option<&ClientCa>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsFault> {
    if terms.mode == TlsMode::Simple {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let Some(ca) = ca else {
        return Err(TlsFault::missing("there is no CA to verify client certificates with; its secret may be missing"));
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&ca.ca, &ca.from)? {
        roots
            .add(certificate)
            .map_err(|error| TlsFault::invalid(format!("{}: a CA certificate cannot be used: {error}", ca.from)))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(crl) = &ca.crl {
        let lists = CertificateRevocationListDer::pem_slice_iter(crl)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| TlsFault::invalid(format!("{}: the CRL is no valid PEM: {error}", ca.from)))?;
        if lists.is_empty() {
            return Err(TlsFault::invalid(format!("{}: there is no PEM CRL in it", ca.from)));
        }
        // As Envoy does: a list past its date proves nothing.
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    if terms.mode == TlsMode::OptionalMutual {
        builder = builder.allow_unauthenticated();
    }
    let chain = builder
        .build()
        .map_err(|error| TlsFault::invalid(format!("{}: the CA or CRL cannot be used: {error}", ca.from)))?;
    let demands = Demands::new(terms)?;
    Ok(if demands.is_empty() { chain } else { Arc::new(DemandingVerifier { chain, demands }) })
}

/// What a client certificate must have beyond a valid chain.
#[derive(Debug)]
struct Demands {
    /// One of these names; empty: any.
    names: Box<[String]>,
    /// SHA-256 of the public key or of the whole certificate, one of either list; both empty: any.
    spki: Box<[Vec<u8>]>,
    certificate: Box<[Vec<u8>]>,
}

impl Demands {
    fn new(terms: &TlsTerms) -> Result<Self, TlsFault> {
        let spki = terms.verify_certificate_spki.iter().map(|text| {
            STANDARD
                .decode(text)
                .ok()
                .filter(|hash| hash.len() == 32)
                .ok_or_else(|| TlsFault::invalid(format!("verifyCertificateSpki: {text:?} is no base64 SHA-256")))
        });
        let hashes = terms.verify_certificate_hash.iter().map(|text| {
            unhex(text)
                .ok_or_else(|| TlsFault::invalid(format!("verifyCertificateHash: {text:?} is no SHA-256 in hex")))
        });
        Ok(Self {
            names: terms.subject_alt_names.clone().into(),
            spki: spki.collect::<Result<_, _>>()?,
            certificate: hashes.collect::<Result<_, _>>()?,
        })
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.spki.is_empty() && self.certificate.is_empty()
    }

    fn met_by(&self, der: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
        let hash_fits = (self.spki.is_empty() && self.certificate.is_empty())
            || self.spki.iter().any(|hash| hash == digest(&SHA256, certificate.public_key().raw).as_ref())
            || self.certificate.iter().any(|hash| hash == digest(&SHA256, der).as_ref());
        hash_fits && (self.names.is_empty() || is_for_one_of(&certificate, &self.names))
    }
}

/// Hex with or without colons between the bytes.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    (digits.len() == 64).then(|| digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

/// Asks for a certificate as `strict` does, and takes any that the client has the key of.
pub(super) fn lenient(strict: Arc<dyn ClientCertVerifier>) -> Arc<dyn ClientCertVerifier> {
    Arc::new(LenientVerifier(strict))
}

#[derive(Debug)]
struct LenientVerifier(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for LenientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    /// None: it does not matter whose certificate it is.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Asks for a valid chain first and the demands second.
#[derive(Debug)]
struct DemandingVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    demands: Demands,
}

impl ClientCertVerifier for DemandingVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        if self.demands.met_by(end_entity) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
