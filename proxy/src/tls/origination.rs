//! From the terms of a cluster, with every file read, to a configuration for handshakes with its servers.

use std::sync::Arc;

use route_model::table::upstream_tls::{TlsSource, UpstreamTls};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::{TlsFault, certified_key};
use super::config::read;
use super::identity::{Identity, client_config};
use super::names::is_for_one_of;
use super::trust::{revoked, roots, system_roots};
use super::upstream::Session;

/// Builds what handshakes are made with.
pub(super) fn build(terms: &UpstreamTls, identity: &Identity) -> Result<Arc<Session>, TlsFault> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let name = terms.sni.as_deref().map(|sni| {
        ServerName::try_from(sni.to_owned())
            .map_err(|_| TlsFault::invalid(format!("sni: {sni:?} is no name of a host")))
    });
    let name = name.transpose()?;
    if let TlsSource::Mesh = &terms.source {
        let expected: Arc<[Box<str>]> = terms.subject_alt_names.iter().map(|name| name.as_str().into()).collect();
        let name = name.unwrap_or_else(|| ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()));
        return Ok(Arc::new(Session::of_mesh(name, |alpn| client_config(identity, alpn, Arc::clone(&expected)))));
    }
    let verifier = verifier(terms, &provider)?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsFault::invalid(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match own_certificate(terms, &provider)? {
        Some(certificate) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate))),
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(Session::new(name, config)))
}

fn own_certificate(terms: &UpstreamTls, provider: &CryptoProvider) -> Result<Option<CertifiedKey>, TlsFault> {
    if !terms.mutual {
        return Ok(None);
    }
    match &terms.source {
        TlsSource::Mesh => Err(TlsFault::missing("its certificate is the mesh's to give")),
        TlsSource::Secret { found: Err(missing), .. } => Err(TlsFault::missing(&*missing.0)),
        TlsSource::Secret { found: Ok(material), .. } => {
            let Some(own) = &material.certificate else {
                return Err(TlsFault::missing("there is no client certificate"));
            };
            certified_key(provider, &own.certificate, &own.private_key, &own.secret.to_string()).map(Some)
        }
        TlsSource::Files(files) => {
            let (Some(certificate), Some(private_key)) = (&files.certificate, &files.private_key) else {
                return Err(TlsFault::missing("MUTUAL needs clientCertificate and privateKey"));
            };
            let from = format!("{certificate} with {private_key}");
            certified_key(provider, &read(certificate)?, &read(private_key)?, &from).map(Some)
        }
    }
}

fn verifier(terms: &UpstreamTls, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TlsFault> {
    if !terms.verify {
        return Ok(Arc::new(Verifier { provider: Arc::clone(provider), check: Check::Anybody }));
    }
    let (roots, crl, from) = match &terms.source {
        TlsSource::Mesh => return Err(TlsFault::missing("its authorities are the mesh's")),
        TlsSource::Secret { found: Err(missing), .. } => return Err(TlsFault::missing(&*missing.0)),
        TlsSource::Secret { found: Ok(material), .. } => {
            let Some(ca) = &material.ca else {
                return Err(TlsFault::missing("there is no CA to verify the server with"));
            };
            let from = ca.secret.to_string();
            (roots(&ca.ca, &from)?, None, from)
        }
        TlsSource::Files(files) => {
            let roots = match &files.ca {
                Some(path) => roots(&read(path)?, path)?,
                None => system_roots().map_err(|none| {
                    TlsFault::missing(format!(
                        "{none}; install its ca-certificates package, point SSL_CERT_FILE to a bundle, or set \
                         caCertificates or credentialName"
                    ))
                })?,
            };
            let from = [&files.ca, &files.crl].map(|path| path.as_deref().unwrap_or_default()).join(" ");
            (roots, files.crl.as_deref().map(read).transpose()?, from)
        }
    };
    let mut builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
    if let Some(crl) = crl {
        // As Envoy does: a list past its date proves nothing.
        builder = builder.with_crls(revoked(&crl, &from)?).enforce_revocation_expiration();
    }
    let chain = builder
        .build()
        .map_err(|error| TlsFault::invalid(format!("{}: the CA or CRL cannot be used: {error}", from.trim())))?;
    Ok(if terms.subject_alt_names.is_empty() && terms.sni.is_none() {
        chain
    } else {
        let check = Check::Named { chain, names: terms.subject_alt_names.clone() };
        Arc::new(Verifier { provider: Arc::clone(provider), check })
    })
}

/// What is asked of a server beside the key of its certificate.
#[derive(Debug)]
enum Check {
    /// Nothing (`insecureSkipVerify`).
    Anybody,
    /// A valid chain, and a certificate for one of some names instead of the one that was asked for; no names: for any.
    Named { chain: Arc<WebPkiServerVerifier>, names: Box<[String]> },
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    check: Check,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Check::Named { chain, names } = &self.check else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, when all else is fine.
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(error) => return Err(error),
        }
        let is_for_us = names.is_empty()
            || X509Certificate::from_der(end_entity).is_ok_and(|(_, parsed)| is_for_one_of(&parsed, names));
        if is_for_us {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General(format!("the certificate is for none of subjectAltNames {names:?}")))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
