//! A CA that an operator brings: `--ca-cert` and `--ca-key`.

use std::path::Path;

use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::time::ASN1Time;

use super::{Authority, CaError};

impl Authority {
    /// From PEM files: in `cert` the certificate of `key`, then each the issuer of the one before, the root last. What
    /// follows the root are further roots that are trusted, such as the one before it.
    ///
    /// # Errors
    /// [`CaError::File`] when a file cannot be read, the key is another one's, or a certificate is no CA's, expired, or
    /// out of order.
    pub fn given(cert: &Path, key: &Path) -> Result<Self, CaError> {
        let wrong = |file: &Path, reason: String| CaError::File { file: file.display().to_string(), reason };
        let certificates = read_chain(cert)?;
        let text = std::fs::read_to_string(key).map_err(|e| wrong(key, e.to_string()))?;
        let key_pair = KeyPair::from_pem(&text)
            .map_err(|e| wrong(key, format!("it holds no private key in PEM that can sign ({e})")))?;
        let (chain, roots) = check(&certificates, &key_pair.subject_public_key_info(), ASN1Time::now())
            .map_err(|fault| wrong(if fault == OTHER_KEY { key } else { cert }, fault))?;
        Self::of_chain(chain, key_pair, roots).map_err(|reason| wrong(cert, reason))
    }
}

const OTHER_KEY: &str = "the key is not that of the first certificate in --ca-cert";

/// Every certificate of a PEM file, of which there must be one.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let wrong = |reason: String| CaError::File { file: path.display().to_string(), reason };
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| wrong(e.to_string()))?;
    if chain.is_empty() { Err(wrong("it holds no PEM certificate".to_owned())) } else { Ok(chain) }
}

type Certificates = Vec<CertificateDer<'static>>;

/// Parts the certificates into the signer's chain (root included) and the roots.
fn check(
    certificates: &[CertificateDer<'static>],
    public_key: &[u8],
    now: ASN1Time,
) -> Result<(Certificates, Certificates), String> {
    let parsed: Vec<X509Certificate<'_>> = certificates
        .iter()
        .enumerate()
        .map(|(at, der)| match x509_parser::parse_x509_certificate(der) {
            Ok((_, certificate)) => Ok(certificate),
            Err(error) => Err(format!("its certificate {} cannot be read: {error}", at + 1)),
        })
        .collect::<Result<_, _>>()?;
    if parsed.first().is_some_and(|signer| signer.public_key().raw != public_key) {
        return Err(OTHER_KEY.to_owned());
    }
    for certificate in &parsed {
        is_a_ca(certificate, now)?;
    }
    let is_root = |certificate: &X509Certificate<'_>| certificate.verify_signature(None).is_ok();
    let root = parsed.iter().position(is_root).ok_or_else(|| {
        let last = parsed.last().map(|last| last.issuer().to_string()).unwrap_or_default();
        format!("its chain does not end at a root: add the certificate of {last}")
    })?;
    for pair in parsed[..=root].windows(2) {
        let [certificate, issuer] = pair else { continue };
        if certificate.verify_signature(Some(issuer.public_key())).is_err() {
            let (subject, after) = (certificate.subject(), issuer.subject());
            return Err(format!("{subject} is followed by {after}, which did not sign it"));
        }
    }
    if let Some(stray) = parsed[root + 1..].iter().find(|certificate| !is_root(certificate)) {
        return Err(format!("{} follows the root, but is no root itself", stray.subject()));
    }
    Ok((certificates[..=root].to_vec(), certificates[root..].to_vec()))
}

fn is_a_ca(certificate: &X509Certificate<'_>, now: ASN1Time) -> Result<(), String> {
    let subject = certificate.subject();
    let is_ca = certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca);
    if !is_ca {
        return Err(format!("{subject} is not the certificate of a CA (its basic constraints say so)"));
    }
    if certificate.key_usage().ok().flatten().is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(format!("{subject} may not sign certificates (its key usage lacks keyCertSign)"));
    }
    let validity = certificate.validity();
    if now < validity.not_before {
        return Err(format!("{subject} is not valid before {}", validity.not_before));
    }
    if now > validity.not_after {
        return Err(format!("{subject} expired at {}", validity.not_after));
    }
    Ok(())
}
