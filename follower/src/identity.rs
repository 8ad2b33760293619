//! The proxy's identity in the mesh: its certificate, asked for, renewed, kept on disk, and handed to the data plane.
//!
//! The first certificate is had by the join token, every further one by the one before. Each has a key of its own, so
//! that a key that leaked is of no use for longer than its certificate. Where that ran out, because the control plane
//! was away for so long, the join token counts again.
//!
//! What went wrong is said in the log each time: a proxy whose certificate runs out is one that nobody lets in.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxy::Identity;
use proxy::identity::{PeerError, PeerIs};
use push::client::{SignError, Status};
use push::message::service_account_or_default;
use push::sign::SignRequest;
use route_model::identity::WorkloadId;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tracing::{error, info, warn};

use self::certificate::{Certificate, Request};
use crate::Transport;

mod certificate;
mod kept;
mod schedule;
#[cfg(test)]
mod tests;

pub(crate) use self::kept::{Kept, is_kept};

/// A clock that was moved, or a machine that slept, is noticed within this time.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Who asks for a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Applicant {
    /// As in [`push::client::Node::id`].
    pub(crate) node: String,
    pub(crate) namespace: String,
    /// Empty: `default`.
    pub(crate) service_account: String,
}

/// Keeps [`Identity`] filled.
#[derive(Debug)]
pub(crate) struct Agent {
    applicant: Applicant,
    transport: Transport,
    identity: Identity,
    kept: Arc<Kept>,
    certificate: Option<Certificate>,
    /// Whom to trust, as it was said last: over the stream, or in an earlier run.
    told: Option<Told>,
    /// When to ask for a certificate.
    due: SystemTime,
    /// Attempts in a row.
    failures: u32,
    /// It was said that the certificate has run out.
    expiry_told: bool,
    /// Counts the certificates of this run.
    renewed: watch::Sender<u64>,
}

/// Whom to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    roots: Vec<CertificateDer<'static>>,
    /// Beside the one that certifies this proxy.
    domains: Vec<String>,
    denied: Vec<String>,
}

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("no key can be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("what it signed cannot be used: {0}")]
    Answer(String),
}

impl Agent {
    /// Takes what an earlier run kept.
    pub(crate) fn open(kept: Kept, applicant: Applicant, transport: Transport, identity: Identity) -> Self {
        let mut agent = Self {
            applicant,
            transport,
            identity,
            kept: Arc::new(kept),
            certificate: None,
            told: None,
            due: SystemTime::now(),
            failures: 0,
            expiry_told: false,
            renewed: watch::Sender::default(),
        };
        agent.resume();
        agent
    }

    /// Where the data plane finds the certificate.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Counts the certificates that came in this run.
    pub(crate) fn renewed(&self) -> watch::Receiver<u64> {
        self.renewed.subscribe()
    }

    fn resume(&mut self) {
        let Some((certificate, trust)) = self.kept.load() else { return };
        if let Err(reason) = self.is_ours(&certificate.id) {
            info!(reason, "the certificate that was kept is not for this proxy any more, it needs another");
            return;
        }
        let roots = trust.roots.get(domain(&certificate.id)).cloned().unwrap_or_default();
        let domains = trust.roots.into_keys().collect();
        self.told = Some(Told { roots, domains, denied: trust.denied });
        if let Err(reason) = self.put_in_force(certificate) {
            error!(reason, "the certificate that was kept cannot be used, the proxy needs another");
        }
        if let Some(certificate) = self.good() {
            info!(id = certificate.id, expires_in = certificate.expires_in(), "using the certificate that was kept");
            self.due = certificate.renewal(fastrand::f64());
        }
        if self.is_orphaned() {
            self.due = SystemTime::now();
        }
        self.look();
    }

    /// Asks once for a certificate, if there is none that is good.
    pub(crate) async fn bootstrap(&mut self) {
        if self.good().is_none() {
            self.attempt().await;
        }
    }

    /// Renews the certificate, and takes up whom to trust, for as long as it is polled.
    pub(crate) async fn keep(
        &mut self,
        mut trust: watch::Receiver<Option<Arc<push::message::Trust>>>,
        mut status: watch::Receiver<Status>,
    ) -> Infallible {
        loop {
            tokio::select! {
                () = until(self.wakes_at()) => {}
                Ok(()) = trust.changed() => {
                    let told = trust.borrow_and_update().clone();
                    if let Some(told) = told {
                        self.take(&told).await;
                    }
                }
                Ok(()) = status.changed() => {
                    // What waits for its next attempt does not wait when the control plane is back.
                    if *status.borrow_and_update() == Status::Connected && self.failures > 0 {
                        self.due = self.due.min(SystemTime::now() + schedule::soon(fastrand::f64()));
                    }
                }
            }
            self.look();
            if self.due <= SystemTime::now() {
                self.attempt().await;
            }
        }
    }

    /// The certificate, unless it has expired.
    fn good(&self) -> Option<&Certificate> {
        self.certificate.as_ref().filter(|certificate| !certificate.left().is_zero())
    }

    /// When there is something to do at the latest.
    fn wakes_at(&self) -> SystemTime {
        self.good().map_or(self.due, |certificate| self.due.min(certificate.not_after))
    }

    /// Says it, once, when the certificate has run out.
    fn look(&mut self) {
        let Some(certificate) = &self.certificate else { return };
        if self.expiry_told || !certificate.left().is_zero() {
            return;
        }
        self.expiry_told = true;
        let Applicant { namespace, service_account, .. } = &self.applicant;
        let service_account = service_account_or_default(service_account);
        let id = &certificate.id;
        if self.transport.token.is_some() {
            error!(
                id,
                "the certificate has expired: no proxy of the mesh accepts this one now. It goes on asking for another, \
                 with its join token; if that was revoked, make one with `fairway join-token create -n {namespace} \
                 --service-account {service_account}` and start the proxy with it"
            );
        } else {
            error!(
                id,
                "the certificate has expired: no proxy of the mesh accepts this one now. It goes on asking for another, \
                 but has no join token; make one with `fairway join-token create -n {namespace} --service-account \
                 {service_account}` and start the proxy with it"
            );
        }
    }

    /// Takes up whom the control plane trusts now.
    async fn take(&mut self, trust: &push::message::Trust) {
        let mut told = Told {
            roots: trust.roots.iter().map(|root| CertificateDer::from(root.to_vec())).collect(),
            domains: trust.trust_domains.clone(),
            denied: trust.denied.clone(),
        };
        if told.roots.is_empty() {
            // A CA that is not there yet is no reason to trust nobody.
            told.roots = self.told.take().unwrap_or_default().roots;
        }
        if self.told.as_ref() == Some(&told) {
            return;
        }
        self.told = Some(told);
        let Some(certificate) = self.certificate.clone() else { return };
        if let Err(reason) = self.put_in_force(certificate) {
            error!(reason, "whom the control plane trusts cannot be taken up, the trust before stays");
            return;
        }
        self.save_trust().await;
        if self.is_orphaned() {
            info!("no root that the mesh trusts vouches for the certificate any more, asking for another at once");
            self.due = SystemTime::now();
        }
    }

    async fn attempt(&mut self) {
        match self.ask().await {
            Ok(()) => {
                self.failures = 0;
                self.expiry_told = false;
                self.identity.count_obtained();
                if let Some(certificate) = &self.certificate {
                    self.due = certificate.renewal(fastrand::f64());
                    let renews_in = schedule::text(schedule::until(self.due));
                    let expires_in = certificate.expires_in();
                    info!(id = certificate.id, expires_in, renews_in, "the control plane signed a certificate");
                }
                self.renewed.send_modify(|renewed| *renewed += 1);
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Asks for a certificate and puts it in force.
    async fn ask(&mut self) -> Result<(), AttemptError> {
        let request = Request::new()?;
        let Applicant { node, namespace, service_account } = self.applicant.clone();
        let message = SignRequest { csr: request.csr(), node, namespace, service_account };
        let token = self.transport.token.as_ref();
        let signed = push::client::sign(&*self.transport.connect, token, message).await?;
        let roots = signed.roots.clone();
        let certificate = request.answered(signed).map_err(AttemptError::Answer)?;
        self.is_ours(&certificate.id).map_err(AttemptError::Answer)?;
        if certificate.left().is_zero() {
            let text = "it has expired already: the clocks of this host and of the control plane differ";
            return Err(AttemptError::Answer(text.to_owned()));
        }
        // What the stream said counts, unless a root was replaced since.
        let Told { domains, denied, .. } = self.told.clone().unwrap_or_default();
        let answered = Told { roots, domains, denied };
        if self.told.as_ref().is_none_or(|told| told.roots.is_empty()) {
            self.told = Some(answered.clone());
        }
        self.put_in_force(certificate.clone()).map_err(AttemptError::Answer)?;
        if self.is_orphaned() {
            self.told = Some(answered);
            self.put_in_force(certificate.clone()).map_err(AttemptError::Answer)?;
        }
        // Both at once: whoever ends the proxy now that it is ready finds all of it at the next start.
        let (kept, trust) = (self.kept.clone(), self.trust(&certificate.id));
        on_disk("certificate", move || kept.save_trust(&trust).and_then(|()| kept.save_certificate(&certificate)))
            .await;
        Ok(())
    }

    fn failed(&mut self, error: &AttemptError) {
        self.failures += 1;
        self.identity.count_failure();
        let refused = matches!(error, AttemptError::Sign(SignError::Refused(_)));
        let wait = schedule::retry(self.failures, refused, self.good().map(Certificate::life));
        self.due = SystemTime::now() + wait;
        let (origin, failures) = (self.transport.connect.origin(), self.failures);
        let retry_in = schedule::text(wait);
        if let Some(certificate) = self.good() {
            let expires_in = certificate.expires_in();
            warn!(%error, origin, failures, retry_in, expires_in, "cannot renew the certificate, the one there is is good");
        } else if self.certificate.is_some() {
            error!(%error, origin, failures, retry_in, "cannot renew the certificate, which has expired");
        } else {
            warn!(
                %error, origin, failures, retry_in,
                "cannot get a certificate; until there is one no proxy of the mesh accepts this one"
            );
        }
    }

    /// Hands a certificate to the data plane, with whom to trust.
    fn put_in_force(&mut self, certificate: Certificate) -> Result<(), String> {
        let trust = self.trust(&certificate.id);
        // The mesh and the control plane's port have one CA: a new root is no reason to be told by hand.
        self.transport.connect.trust(self.told.as_ref().map_or(&[][..], |told| &told.roots));
        self.identity.replace(certificate.svid(), trust).map_err(|error| error.to_string())?;
        if let Some(credential) = &self.transport.credential {
            let (chain, key) = (certificate.chain.clone(), certificate.key.clone_key());
            credential.set(chain, key, certificate.not_after).map_err(|error| error.to_string())?;
        }
        self.certificate = Some(certificate);
        Ok(())
    }

    /// What was told, in the form that the data plane wants. The roots are of the trust domain that certifies this proxy,
    /// and of the others that are the mesh's.
    fn trust(&self, id: &str) -> proxy::Trust {
        let Told { roots, domains, denied } = self.told.clone().unwrap_or_default();
        let domains = domains.into_iter().chain([domain(id).to_owned()]);
        proxy::Trust { roots: domains.map(|domain| (domain, roots.clone())).collect(), denied }
    }

    /// Whether none of the trusted roots vouches for the certificate, so that nobody else accepts it either.
    fn is_orphaned(&self) -> bool {
        let (Some(current), Some(certificate)) = (self.identity.current(), self.good()) else { return false };
        let Some((leaf, intermediates)) = certificate.chain.split_first() else { return false };
        let verdict = current.verify_peer(leaf, intermediates, UnixTime::now(), PeerIs::Client);
        matches!(verdict, Err(PeerError::Chain(_)))
    }

    /// Whether an id is of this proxy's service account; the trust domain is the control plane's to choose.
    fn is_ours(&self, id: &str) -> Result<(), String> {
        let Applicant { namespace, service_account, .. } = &self.applicant;
        let own = service_account_or_default(service_account);
        match WorkloadId::parse(id) {
            Some(id) if id.namespace == namespace && id.service_account == own => Ok(()),
            _ => Err(format!("it is of {id}, this proxy runs as {own} in namespace {namespace}")),
        }
    }

    async fn save_trust(&self) {
        let Some(certificate) = &self.certificate else { return };
        let (kept, trust) = (self.kept.clone(), self.trust(&certificate.id));
        on_disk("trust", move || kept.save_trust(&trust)).await;
    }
}

async fn on_disk(what: &str, write: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
    let written = tokio::task::spawn_blocking(write).await;
    if let Err(error) = written.map_err(std::io::Error::other).flatten() {
        error!(%error, "the {what} cannot be kept: after a restart the control plane must be there");
    }
}

/// The trust domain of a workload's id.
fn domain(id: &str) -> &str {
    WorkloadId::parse(id).map_or("", |id| id.trust_domain)
}

/// Resolves at a time of the clock on the wall.
async fn until(at: SystemTime) {
    loop {
        let left = schedule::until(at);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
}
