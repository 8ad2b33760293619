//! The rules for Secrets: their keys and size, and certificates that can be read where there must be some.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Report;
use crate::field::{FieldError, Place};
use crate::kinds::Secret;

/// Kubernetes' limit for the values of a secret together.
const MAX_BYTES: usize = 1 << 20;
const MAX_KEY: usize = 253;
const TLS: &str = "kubernetes.io/tls";

pub(super) fn check(secret: &Secret, report: &mut Report) {
    let mut bytes = 0;
    for (field, entries) in [
        ("data", secret.data.iter().map(|(key, value)| (key, value.len())).collect::<Vec<_>>()),
        ("stringData", secret.string_data.iter().map(|(key, value)| (key, value.len())).collect()),
    ] {
        let at = Place::root(field);
        for (key, size) in entries {
            bytes += size;
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(allowed) || matches!(key.as_str(), "." | "..")
            {
                let detail = format_args!("a key must be at most {MAX_KEY} letters, digits, '-', '_' and '.'");
                report.invalid(&at.key(key), key, detail);
            }
        }
    }
    let data = Place::root("data");
    if bytes > MAX_BYTES {
        report.error(FieldError::too_long(data.path(), MAX_BYTES as u64));
    }
    if *secret.secret_type == TLS {
        check_tls(secret, &data, report);
    }
}

fn check_tls(secret: &Secret, data: &Place<'_>, report: &mut Report) {
    match secret.value("tls.crt") {
        Some(pem) => check_certificates(pem, &data.key("tls.crt"), report),
        None => report.required(&data.key("tls.crt"), "a secret of type kubernetes.io/tls holds a certificate"),
    }
    let key = data.key("tls.key");
    match secret.value("tls.key") {
        Some(pem) if PrivateKeyDer::from_pem_slice(pem).is_err() => {
            let detail = "must be a private key in PEM form: PKCS#8, PKCS#1 (RSA) or SEC1 (EC), not encrypted";
            report.invalid(&key, "…", detail);
        }
        Some(_) => {}
        None => report.required(&key, "a secret of type kubernetes.io/tls holds a private key"),
    }
    if let Some(pem) = secret.value("ca.crt") {
        check_certificates(pem, &data.key("ca.crt"), report);
    }
}

/// At least one, and all of them readable.
fn check_certificates(pem: &[u8], at: &Place<'_>, report: &mut Report) {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        count += 1;
        let problem = match &certificate {
            Ok(der) => X509Certificate::from_der(der).err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            report.invalid(at, "…", format_args!("certificate {count} cannot be read: {problem}"));
            return;
        }
    }
    if count == 0 {
        report.invalid(at, "…", "must hold at least one certificate in PEM form (-----BEGIN CERTIFICATE-----)");
    }
}
