//! What is kept for a start without a control plane: `identity.pem`, the key and then its certificate and what leads to
//! the root, and `trust.json`, whom to trust. Only this user may read them.
//!
//! Key and certificate are one file, so that no crash leaves one without the other.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pem::{EncodeConfig, LineEnding, Pem, encode_config, encode_many_config};
use proxy::Trust;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::error;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::Certificate;
use crate::data_dir::{self, DataDir};

const IDENTITY: &str = "identity.pem";
const TRUST: &str = "trust.json";

/// Where it is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    identity: PathBuf,
    trust: PathBuf,
}

/// Whether an earlier run kept a certificate in a data folder.
pub(crate) fn is_kept(data_dir: &Path) -> bool {
    data_dir.join(IDENTITY).exists()
}

#[derive(Debug, Error)]
enum LoadError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("it is not the PEM of a private key and certificates: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("it is not the JSON that was written: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Certificate(String),
}

/// [`Trust`] at rest: certificates as PEM.
#[derive(Serialize, Deserialize)]
struct Stored {
    roots: BTreeMap<String, String>,
    denied: Vec<String>,
}

impl Kept {
    pub(crate) fn of(dir: &DataDir) -> Self {
        Self { identity: dir.path(IDENTITY), trust: dir.path(TRUST) }
    }

    /// What was saved last. Files that cannot be read are reported, and are as if they were not there.
    pub(super) fn load(&self) -> Option<(Certificate, Trust)> {
        let certificate = found(&self.identity, self.load_certificate())?;
        // Whom to trust without having been told is nobody.
        let trust = found(&self.trust, self.load_trust())?;
        Some((certificate, trust))
    }

    fn load_certificate(&self) -> Result<Certificate, LoadError> {
        let text = fs::read(&self.identity)?;
        let key = PrivateKeyDer::from_pem_slice(&text)?;
        let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>()?;
        let written = fs::metadata(&self.identity)?.modified()?;
        let (not_before, not_after) = validity(&chain).map_err(LoadError::Certificate)?;
        // A folder that was copied may say anything.
        let obtained = written.clamp(not_before, not_after);
        Certificate::new(chain, key, obtained, not_after).map_err(LoadError::Certificate)
    }

    fn load_trust(&self) -> Result<Trust, LoadError> {
        let stored: Stored = serde_json::from_slice(&fs::read(&self.trust)?)?;
        let mut roots = BTreeMap::new();
        for (domain, pem) in stored.roots {
            roots.insert(domain, CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(Trust { roots, denied: stored.denied })
    }

    pub(super) fn save_certificate(&self, certificate: &Certificate) -> io::Result<()> {
        let key = Pem::new("PRIVATE KEY", certificate.key.secret_der());
        let text = encode_config(&key, lines()) + &certificates(&certificate.chain);
        data_dir::write(&self.identity, text.as_bytes())
    }

    pub(super) fn save_trust(&self, trust: &Trust) -> io::Result<()> {
        let roots = trust.roots.iter().map(|(domain, roots)| (domain.clone(), certificates(roots))).collect();
        let stored = Stored { roots, denied: trust.denied.clone() };
        data_dir::write(&self.trust, &serde_json::to_vec_pretty(&stored)?)
    }
}

fn found<T>(path: &Path, loaded: Result<T, LoadError>) -> Option<T> {
    match loaded {
        Ok(loaded) => Some(loaded),
        Err(LoadError::Read(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            error!(path = %path.display(), %error, "the identity that was kept cannot be used, the proxy needs another");
            None
        }
    }
}

fn certificates(chain: &[CertificateDer<'_>]) -> String {
    let pems: Vec<Pem> = chain.iter().map(|certificate| Pem::new("CERTIFICATE", certificate.to_vec())).collect();
    encode_many_config(&pems, lines())
}

fn lines() -> EncodeConfig {
    EncodeConfig::new().set_line_ending(LineEnding::LF)
}

fn validity(chain: &[CertificateDer<'_>]) -> Result<(SystemTime, SystemTime), String> {
    let leaf = chain.first().ok_or("there is no certificate in it")?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let validity = leaf.validity();
    let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or_default());
    let (not_before, not_after) = (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()));
    if not_before <= not_after { Ok((not_before, not_after)) } else { Err("it ends before it begins".to_owned()) }
}
