//! Certificates of the tests' own.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;

/// An authority that nobody knows but who is told.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Default for Authority {
    fn default() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }
}

impl Authority {
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a host or an IP address.
    pub fn certificate(&self, name: &str) -> (Certificate, KeyPair) {
        self.signed(CertificateParams::new(vec![name.to_owned()]).expect("a name"))
    }

    /// One whose time is over.
    pub fn expired(&self, name: &str) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_after = date_time_ymd(2020, 1, 1);
        self.signed(params)
    }

    fn signed(&self, params: CertificateParams) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.0).expect("a certificate"), key)
    }

    /// A server of that name; with `clients` it wants a certificate of that authority.
    pub fn server(&self, name: &str, clients: Option<&Self>) -> ServerConfig {
        Self::serving(self.certificate(name), clients)
    }

    /// A server of that name with a certificate whose time is over.
    pub fn expired_server(&self, name: &str) -> ServerConfig {
        Self::serving(self.expired(name), None)
    }

    fn serving((certificate, key): (Certificate, KeyPair), clients: Option<&Self>) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("TLS");
        let verifier = match clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(ca.0.der().clone()).expect("an authority");
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("a verifier")
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let builder = builder.with_client_cert_verifier(verifier);
        builder.with_single_cert(vec![certificate.der().clone()], key).expect("a pair")
    }
}
