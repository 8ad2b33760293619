//! The rules for the TLS settings of servers: of Gateways, and of the ingress of Sidecars.

use std::collections::BTreeSet;

use super::Report;
use crate::field::Place;
use crate::kinds::gateway::{ServerTls, ServerTlsMode, TlsProtocol};

/// The cipher suites that Istio knows, by OpenSSL's names.
const CIPHER_SUITES: [&str; 22] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA256",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
    "PSK-AES128-CBC-SHA",
    "PSK-AES256-CBC-SHA",
];

/// How many places a server's certificate is taken from.
pub(super) fn sources(tls: &ServerTls) -> usize {
    let files = !tls.server_certificate.is_empty() || !tls.private_key.is_empty();
    [files, !tls.credential_name.is_empty(), !tls.credential_names.is_empty(), !tls.tls_certificates.is_empty()]
        .into_iter()
        .filter(|present| *present)
        .count()
}

pub(super) fn check(tls: &ServerTls, at: &Place<'_>, report: &mut Report) {
    check_versions(tls, at, report);
    check_cipher_suites(tls, at, report);
    check_curves(tls, at, report);
    match *tls.mode {
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            for (field, present) in certificate_fields(tls) {
                if present {
                    report.warn(&at.field(field), "ignored, because the mode passes TLS through");
                }
            }
        }
        ServerTlsMode::IstioMutual => {
            for (field, present) in certificate_fields(tls) {
                if present {
                    report.forbidden(&at.field(field), "ISTIO_MUTUAL takes its certificates from the mesh");
                }
            }
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            check_certificates(tls, *tls.mode != ServerTlsMode::Simple, at, report);
        }
    }
}

fn certificate_fields(tls: &ServerTls) -> [(&'static str, bool); 7] {
    [
        ("serverCertificate", !tls.server_certificate.is_empty()),
        ("privateKey", !tls.private_key.is_empty()),
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("caCrl", !tls.ca_crl.is_empty()),
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
    ]
}

fn check_certificates(tls: &ServerTls, mutual: bool, at: &Place<'_>, report: &mut Report) {
    if !tls.ca_crl.is_empty() {
        let at = at.field("caCrl");
        if !mutual {
            report.forbidden(&at, "SIMPLE asks for no client certificates that could be revoked");
        } else if !tls.credential_name.is_empty() || !tls.credential_names.is_empty() {
            report.forbidden(&at, "goes with caCertificates, not with a secret");
        }
    }
    match sources(tls) {
        0 => {
            let detail = "one of credentialName, credentialNames, tlsCertificates, and serverCertificate with privateKey \
                          is required";
            report.required(at, detail);
            return;
        }
        1 => {}
        _ => {
            let detail = "only one of credentialName, credentialNames, tlsCertificates, and serverCertificate with \
                          privateKey may be set";
            report.forbidden(at, detail);
            return;
        }
    }
    if !tls.credential_name.is_empty() || !tls.credential_names.is_empty() {
        let at = at.field("credentialNames");
        for (index, name) in tls.credential_names.iter().enumerate().filter(|(_, name)| name.is_empty()) {
            report.invalid(&at.index(index), name, "must not be empty");
        }
        // The CA is in the secret, in a second one, or in a file.
        return;
    }
    for (index, certificate) in tls.tls_certificates.iter().enumerate() {
        let at = at.field("tlsCertificates");
        let at = at.index(index);
        file_pair(&certificate.server_certificate, &certificate.private_key, &at, report);
    }
    if tls.tls_certificates.is_empty() {
        file_pair(&tls.server_certificate, &tls.private_key, at, report);
    }
    let has_ca = !tls.ca_certificates.is_empty()
        || !tls.ca_cert_credential_name.is_empty()
        || tls.tls_certificates.iter().any(|certificate| !certificate.ca_certificates.is_empty());
    if mutual && !has_ca {
        report.required(&at.field("caCertificates"), "client certificates can only be verified with a CA");
    }
}

fn file_pair(certificate: &str, key: &str, at: &Place<'_>, report: &mut Report) {
    if certificate.is_empty() {
        report.required(&at.field("serverCertificate"), "a private key needs its certificate");
    }
    if key.is_empty() {
        report.required(&at.field("privateKey"), "a certificate needs its private key");
    }
}

fn check_versions(tls: &ServerTls, at: &Place<'_>, report: &mut Report) {
    let (min, max) = (*tls.min_protocol_version, *tls.max_protocol_version);
    let rank = |version: TlsProtocol| version as u8;
    if min != TlsProtocol::TlsAuto && max != TlsProtocol::TlsAuto && rank(min) > rank(max) {
        report.invalid(&at.field("minProtocolVersion"), "object", "must not be above maxProtocolVersion");
    }
}

/// Those that can be negotiated, by BoringSSL's names.
const CURVES: [&str; 5] = ["X25519", "P-256", "P-384", "X25519MLKEM768", "P256MLKEM768"];

fn check_curves(tls: &ServerTls, at: &Place<'_>, report: &mut Report) {
    let at = at.field("ecdhCurves");
    let mut seen = BTreeSet::new();
    for (index, entry) in tls.ecdh_curves.iter().enumerate() {
        let at = at.index(index);
        if !CURVES.contains(&entry.as_str()) {
            let known = CURVES.join(", ");
            report.warn(&at, format_args!("the curve {entry:?} is not negotiated and ignored; use {known}"));
        } else if !seen.insert(entry) {
            report.warn(&at, format_args!("the curve {entry:?} is listed twice"));
        }
    }
}

/// Istio drops suites that it does not know, with a warning.
fn check_cipher_suites(tls: &ServerTls, at: &Place<'_>, report: &mut Report) {
    let at = at.field("cipherSuites");
    let mut seen = BTreeSet::new();
    for (index, entry) in tls.cipher_suites.iter().enumerate() {
        let at = at.index(index);
        if !CIPHER_SUITES.contains(&entry.as_str()) {
            report.warn(&at, format_args!("the cipher suite {entry:?} is not known and ignored"));
        } else if !seen.insert(entry) {
            report.warn(&at, format_args!("the cipher suite {entry:?} is listed twice"));
        }
    }
}
