//! This proxy's identity in the mesh: its certificate, an X.509-SVID, and whose certificates it accepts.
//!
//! [`Identity`] is where both are found. What renews them puts them there, every handshake looks there, and nobody else
//! is told: a configuration of [`server_config`] or [`client_config`] is made once and never again.
//!
//! Sessions are not resumed. A resumed session would stand for certificates that were looked at long ago, under another
//! trust, and proxies keep few connections to each other and keep them long. What a connection that is open already
//! stands for is for its owner to judge: [`Identity::watch`] says when the trust changed, [`Credentials::denies`] what
//! follows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use route_model::identity::WorkloadId;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use self::handshake::provider;

mod handshake;
#[cfg(test)]
mod tests;

pub(crate) use self::handshake::reason;
pub use self::handshake::{client_config, server_config};

/// The longest SPIFFE id, in bytes (SPIFFE-ID, section 2.3).
const MAX_ID: usize = 2048;

/// The identity of a proxy as it is now. All clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    current: watch::Sender<Option<Arc<Credentials>>>,
    obtained: AtomicU64,
    failures: AtomicU64,
}

/// A certificate of the mesh and its key.
#[derive(Debug)]
pub struct Svid {
    /// The leaf first; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// Whom the leaf names: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub spiffe_id: String,
    pub not_after: SystemTime,
}

/// Whose certificates to accept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// By trust domain: a root vouches for identities of its own trust domain alone.
    pub roots: BTreeMap<String, Vec<CertificateDer<'static>>>,
    /// SPIFFE ids that are refused although their certificates are good.
    pub denied: Vec<String>,
}

/// What handshakes are made with. Never changes; the next renewal makes others.
#[derive(Debug)]
pub struct Credentials {
    key: Arc<CertifiedKey>,
    spiffe_id: Arc<str>,
    trust_domain: Box<str>,
    not_after: SystemTime,
    trusted: HashMap<Box<str>, TrustDomain>,
    denied: HashSet<Box<str>>,
    generation: u64,
}

#[derive(Debug)]
struct TrustDomain {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

/// Which end of a connection a peer is at: its certificate must be meant for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerIs {
    Client,
    Server,
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate and its key cannot be used: {0}")]
    Key(rustls::Error),
    #[error("the certificate is not of {0}")]
    OtherName(String),
    #[error("there is no usable root for the trust domain {0}")]
    NoRoots(String),
}

/// Why a peer is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    #[error("this proxy has no certificate of the mesh yet")]
    NotYet,
    #[error(
        "the certificate names no workload: its one URI must be spiffe://<trust domain>/ns/<namespace>/sa/<account>"
    )]
    NoWorkload,
    #[error("the certificate names {0}, whose trust domain is not trusted here")]
    TrustDomain(Arc<str>),
    /// No trusted root vouches for the certificate, or not now, or not for this.
    #[error("{0}")]
    Chain(rustls::Error),
    #[error("the identity {0} is denied")]
    Denied(Arc<str>),
    #[error("the server is {found}, expected {}", expected.join(" or "))]
    Unexpected { found: Arc<str>, expected: Arc<[Box<str>]> },
}

impl Identity {
    /// Puts a certificate and a trust in force, for every handshake from here on.
    ///
    /// # Errors
    /// When they cannot be used; what was in force stays.
    pub fn replace(&self, svid: Svid, trust: Trust) -> Result<(), IdentityError> {
        let mut next = Credentials::new(svid, trust)?;
        self.shared.current.send_modify(|current| {
            next.generation = current.as_ref().map_or(0, |current| current.generation) + 1;
            *current = Some(Arc::new(next));
        });
        Ok(())
    }

    /// What is in force; none before the first certificate. One that has expired stays here: see
    /// [`Credentials::not_after`].
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.shared.current.borrow().clone()
    }

    /// Says when something else is in force.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Credentials>>> {
        self.shared.current.subscribe()
    }

    /// Counts a certificate that was signed.
    pub fn count_obtained(&self) {
        self.shared.obtained.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an attempt to get one that failed.
    pub fn count_failure(&self) {
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Certificates that were signed, and attempts that failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.obtained.load(Ordering::Relaxed), self.shared.failures.load(Ordering::Relaxed))
    }
}

impl Credentials {
    fn new(svid: Svid, trust: Trust) -> Result<Self, IdentityError> {
        let key = CertifiedKey::from_der(svid.chain, svid.key, provider()).map_err(IdentityError::Key)?;
        let own = key.end_entity_cert().ok().and_then(|leaf| spiffe_id(leaf).ok());
        let Some(spiffe_id) = own.filter(|own| **own == *svid.spiffe_id) else {
            return Err(IdentityError::OtherName(svid.spiffe_id));
        };
        let trust_domain: Box<str> = WorkloadId::parse(&spiffe_id).map_or("", |id| id.trust_domain).into();
        let mut trusted = HashMap::new();
        for (domain, roots) in trust.roots {
            if let Some(roots) = TrustDomain::new(&domain, roots) {
                trusted.insert(domain.into(), roots);
            }
        }
        if !trusted.contains_key(&trust_domain) {
            return Err(IdentityError::NoRoots(trust_domain.into()));
        }
        Ok(Self {
            spiffe_id,
            trust_domain,
            key: Arc::new(key),
            not_after: svid.not_after,
            trusted,
            denied: trust.denied.into_iter().map(String::into_boxed_str).collect(),
            generation: 0,
        })
    }

    /// The certificate with its chain, ready to sign.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    pub fn spiffe_id(&self) -> &Arc<str> {
        &self.spiffe_id
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The roots of this proxy's own trust domain.
    pub fn roots(&self) -> &Arc<RootCertStore> {
        // It was there when this was made.
        &self.trusted[&self.trust_domain].roots
    }

    /// When the certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Rises by one with everything that is put in force, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether an identity is refused although its certificate is good.
    pub fn denies(&self, spiffe_id: &str) -> bool {
        self.denied.contains(spiffe_id)
    }

    /// Who a peer is, if one of the roots of its trust domain vouches for it and it is not denied.
    pub fn verify_peer(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        peer: PeerIs,
    ) -> Result<Arc<str>, PeerError> {
        // What it claims decides by which roots to judge it.
        let id = spiffe_id(end_entity)?;
        let domain = WorkloadId::parse(&id).and_then(|id| self.trusted.get(id.trust_domain));
        let Some(domain) = domain else { return Err(PeerError::TrustDomain(id)) };
        domain.verify(end_entity, intermediates, now, peer).map_err(PeerError::Chain)?;
        if self.denies(&id) { Err(PeerError::Denied(id)) } else { Ok(id) }
    }
}

impl TrustDomain {
    /// `None` without any usable root.
    fn new(domain: &str, certificates: Vec<CertificateDer<'static>>) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        let (usable, ignored) = roots.add_parsable_certificates(certificates);
        if usable == 0 || ignored > 0 {
            tracing::warn!(domain, usable, ignored, "roots of a trust domain cannot be read and are left out");
        }
        let roots = Arc::new(roots);
        // Fails without roots only.
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider())).build().ok()?;
        Some(Self { roots, clients })
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        peer: PeerIs,
    ) -> Result<(), rustls::Error> {
        match peer {
            PeerIs::Client => self.clients.verify_client_cert(end_entity, intermediates, now).map(drop),
            PeerIs::Server => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &self.roots,
                intermediates,
                now,
                provider().signature_verification_algorithms.all,
            ),
        }
    }
}

/// The workload that a certificate names, which proves nothing yet: after [`Credentials::verify_peer`] or a handshake it
/// is the one that was accepted.
pub fn spiffe_id(certificate: &CertificateDer<'_>) -> Result<Arc<str>, PeerError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PeerError::NoWorkload)?;
    let names = parsed.subject_alternative_name().ok().flatten().ok_or(PeerError::NoWorkload)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    // X.509-SVID, section 2: exactly one URI, whatever other names there are.
    let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(PeerError::NoWorkload) };
    let is_workload = |id: &WorkloadId<'_>| uri.len() <= MAX_ID && id.is_wellformed();
    WorkloadId::parse(uri).filter(is_workload).map(|_| uri.into()).ok_or(PeerError::NoWorkload)
}

impl From<PeerError> for rustls::Error {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Chain(error) => error,
            PeerError::NotYet => Self::General(error.to_string()),
            // Told to the peer as an unacceptable certificate, and in words here.
            _ => rustls::CertificateError::Other(rustls::OtherError(Arc::new(InWords(error)))).into(),
        }
    }
}

/// An error as [`rustls::Error`] shows it, which takes the debug form.
#[derive(thiserror::Error)]
#[error("{0}")]
struct InWords(PeerError);

impl fmt::Debug for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
