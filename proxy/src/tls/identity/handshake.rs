//! Handshakes between proxies of the mesh: TLS 1.3, certificates on both sides, looked up when the handshake runs.

use std::io;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Identity, PeerError, PeerIs};

/// What all handshakes between proxies are made with.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        // The cheapest first: nothing behind it is stronger than the P-256 keys of the certificates.
        let cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
    });
    &PROVIDER
}

/// For connections from proxies of the mesh: shows this proxy's certificate, and wants one that [`Identity`] accepts.
/// With `optional_client` none is fine too, one that is not accepted never. While there is no certificate every
/// handshake fails.
pub fn server_config(identity: &Identity, alpn: &[&[u8]], optional_client: bool) -> Arc<ServerConfig> {
    let clients = Clients { identity: identity.clone(), optional: optional_client };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for TLS 1.3")
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(Arc::new(Own(identity.clone())));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// For connections to proxies of the mesh: shows this proxy's certificate, and wants one that [`Identity`] accepts and
/// that names one of `expected` (SPIFFE ids; empty: any). The DNS name that is asked for does not matter.
pub fn client_config(identity: &Identity, alpn: &[&[u8]], expected: Arc<[Box<str>]>) -> Arc<ClientConfig> {
    let servers = Servers { identity: identity.clone(), expected };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers))
        .with_client_cert_resolver(Arc::new(Own(identity.clone())));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Why a handshake came to nothing, in words that are the same each time for the same certificate: it is not said when
/// it was looked at.
pub(crate) fn reason(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|error| error.downcast_ref());
    let Some(Error::InvalidCertificate(certificate)) = cause else { return error.to_string() };
    match certificate {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate of the peer has expired, it was good until {} (Unix time)", not_after.as_secs())
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the certificate of the peer is not good before {} (Unix time): the clocks of the two hosts differ",
            not_before.as_secs()
        ),
        _ => error.to_string(),
    }
}

/// This proxy's certificate. One that has expired is shown all the same: the peer then says what is wrong with it.
#[derive(Debug)]
struct Own(Identity);

impl Own {
    fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.0.current().map(|current| Arc::clone(current.key()))
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whom a server of the mesh accepts.
#[derive(Debug)]
struct Clients {
    identity: Identity,
    optional: bool,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    /// No hints: a proxy has one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let current = self.identity.current().ok_or(PeerError::NotYet)?;
        current.verify_peer(end_entity, intermediates, now, PeerIs::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Which servers a client of the mesh accepts.
#[derive(Debug)]
struct Servers {
    identity: Identity,
    expected: Arc<[Box<str>]>,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let current = self.identity.current().ok_or(PeerError::NotYet)?;
        let found = current.verify_peer(end_entity, intermediates, now, PeerIs::Server)?;
        if self.expected.is_empty() || self.expected.iter().any(|id| **id == *found) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(PeerError::Unexpected { found, expected: Arc::clone(&self.expected) }.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
