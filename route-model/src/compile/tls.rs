//! From `servers[].tls` and secrets to what a handshake needs.

use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::ProxyScope;
use super::finding::{Finding, Severity};
use crate::field::FieldPath;
use crate::kind::Kind;
use crate::kinds::Secret;
use crate::kinds::gateway::{ServerTls, ServerTlsMode, TlsProtocol};
use crate::meta::ResourceKey;
use crate::resource::ResourceSet;
use crate::table::ServerRef;
use crate::table::tls::{CaSource, CertificateSource, Credential, TlsMode, TlsTerms, TlsVersion};

/// Istio looks for the CA of `name` in a secret of this name with the suffix first.
pub(super) const CA_SUFFIX: &str = "-cacert";

/// Compiles the terms of one server. What is missing leaves the terms without certificates: handshakes fail, other
/// servers do not notice.
pub(super) fn terms(
    tls: &ServerTls,
    server: &ServerRef,
    set: &ResourceSet,
    scope: &ProxyScope,
    findings: &mut Vec<Finding>,
) -> TlsTerms {
    let mut reader = Reader { server, set, scope, findings, failed: false };
    let mode = match *tls.mode {
        ServerTlsMode::Mutual | ServerTlsMode::IstioMutual => TlsMode::Mutual,
        ServerTlsMode::OptionalMutual => TlsMode::OptionalMutual,
        _ => TlsMode::Simple,
    };
    let of_mesh = *tls.mode == ServerTlsMode::IstioMutual;
    let mut certificates = if of_mesh { vec![CertificateSource::Mesh] } else { reader.certificates(tls) };
    let client_ca = match mode {
        TlsMode::Simple => None,
        TlsMode::Mutual if of_mesh => Some(CaSource::Mesh),
        TlsMode::Mutual | TlsMode::OptionalMutual => reader.client_ca(tls),
    };
    let (min_version, max_version) = reader.versions(tls);
    if reader.failed {
        // Without a CA to verify clients against, no handshake is better than one that lets everybody in.
        certificates.clear();
    }
    TlsTerms {
        mode,
        http: true,
        certificates,
        client_ca,
        subject_alt_names: tls.subject_alt_names.to_vec(),
        verify_certificate_spki: tls.verify_certificate_spki.to_vec(),
        verify_certificate_hash: tls.verify_certificate_hash.to_vec(),
        min_version,
        max_version,
        cipher_suites: tls.cipher_suites.to_vec(),
        ecdh_curves: tls.ecdh_curves.to_vec(),
        skip_verify: *tls.insecure_skip_verify && mode != TlsMode::Simple,
    }
}

struct Reader<'a> {
    server: &'a ServerRef,
    set: &'a ResourceSet,
    scope: &'a ProxyScope,
    findings: &'a mut Vec<Finding>,
    /// The server cannot do a handshake as it was asked for.
    failed: bool,
}

impl<'a> Reader<'a> {
    fn certificates(&mut self, tls: &ServerTls) -> Vec<CertificateSource> {
        let names: Vec<(String, &str)> = if tls.credential_name.is_empty() {
            let names = tls.credential_names.iter().enumerate();
            names.map(|(i, name)| (format!("credentialNames[{i}]"), name.as_str())).collect()
        } else {
            vec![("credentialName".to_owned(), tls.credential_name.as_str())]
        };
        if !names.is_empty() {
            let credentials: Vec<_> =
                names.into_iter().filter_map(|(field, name)| self.credential(&field, name)).collect();
            return credentials.into_iter().map(CertificateSource::Secret).collect();
        }
        let files = |certificate: &str, private_key: &str| CertificateSource::Files {
            certificate: certificate.to_owned(),
            private_key: private_key.to_owned(),
        };
        if !tls.tls_certificates.is_empty() {
            let list = tls.tls_certificates.iter();
            return list.map(|entry| files(&entry.server_certificate, &entry.private_key)).collect();
        }
        if tls.server_certificate.is_empty() || tls.private_key.is_empty() {
            self.report(
                "",
                Severity::Rejected,
                "CertificateMissing",
                "the server names no certificate, so its handshakes fail; set credentialName to the name of a TLS secret"
                    .to_owned(),
            );
            return Vec::new();
        }
        vec![files(&tls.server_certificate, &tls.private_key)]
    }

    /// A secret with a certificate and a key.
    fn credential(&mut self, field: &str, name: &str) -> Option<Arc<Credential>> {
        let (key, secret) = self.secret(field, name)?;
        let value = |keys: [&str; 2]| keys.iter().find_map(|key| secret.value(key)).unwrap_or_default().to_vec();
        let credential = Credential {
            certificate: value(["tls.crt", "cert"]),
            private_key: value(["tls.key", "key"]),
            ca: Vec::new(),
            secret: key.clone(),
        };
        for (what, data_key, fine) in [
            ("certificate", "tls.crt", has_certificate(&credential.certificate)),
            ("private key", "tls.key", PrivateKeyDer::from_pem_slice(&credential.private_key).is_ok()),
        ] {
            if !fine {
                let message = format!(
                    "{key} holds no {what} in PEM under `{data_key}`, so handshakes fail; create it with \
                     `kubectl create secret tls`"
                );
                self.report(field, Severity::Unresolved, "CertificateInvalid", message);
                return None;
            }
        }
        Some(Arc::new(credential))
    }

    fn client_ca(&mut self, tls: &ServerTls) -> Option<CaSource> {
        let (field, name) = if !tls.ca_cert_credential_name.is_empty() {
            ("caCertCredentialName", tls.ca_cert_credential_name.as_str())
        } else if !tls.credential_name.is_empty() {
            ("credentialName", tls.credential_name.as_str())
        } else {
            ("credentialNames[0]", tls.credential_names.first().map_or("", String::as_str))
        };
        if name.is_empty() {
            let entry_ca = tls.tls_certificates.first().map_or("", |entry| entry.ca_certificates.as_str());
            let ca = if tls.ca_certificates.is_empty() { entry_ca } else { tls.ca_certificates.as_str() };
            if ca.is_empty() {
                self.failed = true;
                let message = "the mode verifies client certificates, and there is no CA to verify them against; set \
                               caCertCredentialName, or put ca.crt into the server's secret";
                self.report("mode", Severity::Rejected, "CaMissing", message.to_owned());
                return None;
            }
            let crl = (!tls.ca_crl.is_empty()).then(|| tls.ca_crl.to_string());
            return Some(CaSource::Files { ca: ca.to_owned(), crl });
        }
        let with_suffix = format!("{name}{CA_SUFFIX}");
        let found = self.find_secret(&with_suffix).or_else(|| self.find_secret(name));
        let ca = found.and_then(|(key, secret)| {
            let ca = ["ca.crt", "cacert"].iter().find_map(|data_key| secret.value(data_key))?;
            has_certificate(ca).then(|| (key, ca.to_vec()))
        });
        let Some((secret, ca)) = ca else {
            self.failed = true;
            let message = format!(
                "neither secret `{with_suffix}` nor `{name}` holds a CA in PEM under `ca.crt`, so handshakes fail; \
                 add it, or set caCertCredentialName"
            );
            self.report(field, Severity::Unresolved, "CaMissing", message);
            return None;
        };
        Some(CaSource::Secret(Arc::new(Credential { secret, certificate: Vec::new(), private_key: Vec::new(), ca })))
    }

    fn secret(&mut self, field: &str, name: &str) -> Option<(ResourceKey, &'a Secret)> {
        let found = self.find_secret(name);
        if found.is_none() {
            let own = &self.server.gateway.namespace;
            let gateway = &self.scope.namespace;
            let places =
                if own == gateway { format!("namespace {own}") } else { format!("namespaces {gateway} and {own}") };
            let message = format!(
                "there is no secret `{name}` in {places}, so handshakes fail; create it with \
                 `kubectl create secret tls {name} -n {own}`"
            );
            self.report(field, Severity::Unresolved, "SecretNotFound", message);
        }
        found
    }

    /// In the namespace of the gateway's proxies first, then in the Gateway's own.
    fn find_secret(&self, name: &str) -> Option<(ResourceKey, &'a Secret)> {
        let name = name.strip_prefix("kubernetes://").unwrap_or(name);
        [&self.scope.namespace, &self.server.gateway.namespace].into_iter().find_map(|namespace| {
            let resource = self.set.get(&ResourceKey::new(Kind::Secret, namespace.clone(), name))?;
            Some((resource.key.clone(), resource.spec::<Secret>()?))
        })
    }

    /// rustls speaks 1.2 and 1.3.
    fn versions(&mut self, tls: &ServerTls) -> (TlsVersion, TlsVersion) {
        let min = match *tls.min_protocol_version {
            TlsProtocol::Tls10 | TlsProtocol::Tls11 => {
                let message = "TLS below 1.2 is not served; the minimum is 1.2";
                self.report("minProtocolVersion", Severity::Warning, "TlsVersionNotSupported", message.to_owned());
                TlsVersion::V1_2
            }
            TlsProtocol::TlsAuto | TlsProtocol::Tls12 => TlsVersion::V1_2,
            TlsProtocol::Tls13 => TlsVersion::V1_3,
        };
        let max = match *tls.max_protocol_version {
            TlsProtocol::Tls10 | TlsProtocol::Tls11 => {
                self.failed = true;
                let message = "TLS below 1.2 is not served, so no handshake succeeds; raise the maximum";
                self.report("maxProtocolVersion", Severity::Rejected, "TlsVersionNotSupported", message.to_owned());
                TlsVersion::V1_2
            }
            TlsProtocol::Tls12 => TlsVersion::V1_2,
            TlsProtocol::TlsAuto | TlsProtocol::Tls13 => TlsVersion::V1_3,
        };
        (min, max)
    }

    fn report(&mut self, field: &str, severity: Severity, reason: &'static str, message: String) {
        let base = format!("spec.servers[{}].tls", self.server.index);
        self.findings.push(Finding {
            resource: self.server.gateway.clone(),
            path: FieldPath::new(&if field.is_empty() { base } else { format!("{base}.{field}") }),
            severity,
            reason,
            message,
        });
    }
}

pub(super) fn has_certificate(pem: &[u8]) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(pem).peekable();
    certificates.peek().is_some() && certificates.all(|certificate| certificate.is_ok())
}
