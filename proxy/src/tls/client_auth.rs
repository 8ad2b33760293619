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
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::TlsFault;
use super::names::is_for_one_of;
use super::trust::{revoked, roots};

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
    let roots = roots(&ca.ca, &ca.from)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    if let Some(crl) = &ca.crl {
        // As Envoy does: a list past its date proves nothing.
        builder = builder.with_crls(revoked(crl, &ca.from)?).enforce_revocation_expiration();
    }
    if terms.mode == TlsMode::OptionalMutual {
        builder = builder.allow_unauthenticated();
    }
    let chain = builder
        .build()
        .map_err(|error| TlsFault::invalid(format!("{}: the CA or CRL cannot be used: {error}", ca.from)))?;
    let demands = Demands::new(terms)?;
    Ok(if demands.is_empty() { chain } else { Arc::new(Verifier { chain, check: Check::Demands(demands) }) })
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
    Arc::new(Verifier { chain: strict, check: Check::Anybody })
}

/// What is asked of a certificate beside its key.
#[derive(Debug)]
enum Check {
    /// Nothing, not even a valid chain.
    Anybody,
    /// A valid chain first, and these second.
    Demands(Demands),
}

#[derive(Debug)]
struct Verifier {
    chain: Arc<dyn ClientCertVerifier>,
    check: Check,
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        match self.check {
            // It does not matter whose certificate it is.
            Check::Anybody => &[],
            Check::Demands(_) => self.chain.root_hint_subjects(),
        }
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let Check::Demands(demands) = &self.check else { return Ok(ClientCertVerified::assertion()) };
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        if demands.met_by(end_entity) {
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
