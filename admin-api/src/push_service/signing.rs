//! Certificates for proxies: who may have which, and how many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use push::message::Hello;
use push::server::{Caller, ClientCertificate, Refusal};
use push::sign::{SignRequest, SignResponse};
use route_model::identity::{WorkloadId, workload_id};
use route_model::kind::Kind;
use route_model::kinds::MeshConfig;
use route_model::meta::ResourceKey;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::ca::{Ca, CsrError};
use crate::store::{Snapshot, View};

/// Certificates that are made at the same time: two cores do no more of them at once.
const MAX_AT_ONCE: usize = 4;
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// So many certificates a node may have in a row, and then one in [`REFILL`]: enough for certificates of a minute and
/// for a proxy that somebody restarts a few times.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(6);
/// Nodes whose shares are remembered; beyond, those whose share is whole are forgotten.
const MAX_NODES: usize = 65_536;

#[derive(Debug)]
pub(super) struct Signing {
    snapshot: Snapshot,
    ca: Arc<Ca>,
    ttl: Duration,
    turns: Semaphore,
    shares: Mutex<HashMap<String, Share>>,
}

/// What is left of a node's share.
#[derive(Debug)]
struct Share {
    left: u32,
    /// Since when it grows.
    since: Instant,
}

impl Signing {
    pub(super) fn new(snapshot: Snapshot, ca: Arc<Ca>, ttl: Duration) -> Self {
        Self { snapshot, ca, ttl, turns: Semaphore::new(MAX_AT_ONCE), shares: Mutex::default() }
    }

    pub(super) fn ca(&self) -> &Arc<Ca> {
        &self.ca
    }

    /// How long certificates are good.
    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// What a connection's certificate is worth.
    pub(super) fn identify(&self, chain: Option<&[rustls_pki_types::CertificateDer<'_>]>) -> ClientCertificate {
        let Some(chain) = chain else { return ClientCertificate::Absent };
        match self.ca.current().identify(chain) {
            Ok(identified) => ClientCertificate::Identity { id: identified.id, not_after: identified.not_after },
            Err(reason) => ClientCertificate::Refused(reason),
        }
    }

    /// Signs for a proxy that may have what it claims.
    pub(super) async fn sign(&self, claim: &Hello, request: SignRequest) -> Result<SignResponse, Refusal> {
        self.take_share(&claim.node)?;
        let busy = |_| Refusal::Unavailable("the control plane is busy signing certificates".to_owned());
        let _turn = timeout(TURN, self.turns.acquire()).await.map_err(busy)?;
        let (authority, id, ttl) = (self.ca.current(), self.id(&claim.namespace, claim.service_account()), self.ttl);
        let signed = tokio::task::spawn_blocking(move || {
            let svid = authority.issue_workload(&request.csr, &id, ttl)?;
            Ok((svid, authority, id))
        });
        match signed.await {
            Ok(Ok((svid, authority, id))) => {
                let not_after = svid.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
                info!(node = claim.node, id, not_after, "signed a certificate");
                let der = |certificates: &[rustls_pki_types::CertificateDer<'_>]| {
                    certificates.iter().map(|certificate| certificate.to_vec().into()).collect()
                };
                Ok(SignResponse { chain: der(&svid.chain), roots: der(authority.roots()), not_after })
            }
            Ok(Err(error)) => Err(Self::refusal(claim, error)),
            Err(error) => {
                warn!(node = claim.node, %error, "a certificate could not be signed");
                Err(Refusal::Unavailable("the certificate could not be signed".to_owned()))
            }
        }
    }

    fn refusal(claim: &Hello, error: CsrError) -> Refusal {
        match error {
            CsrError::Unreadable | CsrError::Signature | CsrError::Key | CsrError::Identity(_) => {
                Refusal::Invalid(error.to_string())
            }
            CsrError::Expired | CsrError::Issue(_) => {
                warn!(node = claim.node, %error, "no certificate can be signed");
                Refusal::Unavailable(error.to_string())
            }
        }
    }

    /// The identity of a service account, in the mesh's trust domain.
    pub(super) fn id(&self, namespace: &str, service_account: &str) -> String {
        with_mesh(&self.snapshot.view(), |mesh| workload_id(mesh.trust_domain(), namespace, service_account))
    }

    /// The same in each of the mesh's trust domains, its own first: they are all one.
    pub(super) fn ids(&self, namespace: &str, service_account: &str) -> Vec<String> {
        let domains = trust_domains(&self.snapshot.view());
        domains.iter().map(|domain| workload_id(domain, namespace, service_account)).collect()
    }

    /// The identity that the caller claims, if its certificate is one of it, and when that expires; none if it has no
    /// certificate.
    ///
    /// # Errors
    /// Why its certificate is none of that identity.
    pub(super) fn vouched(&self, caller: &Caller, claim: &Hello) -> Result<Option<(String, SystemTime)>, String> {
        let (id, not_after) = match &*caller.certificate {
            ClientCertificate::Absent => return Ok(None),
            ClientCertificate::Refused(reason) => {
                return Err(format!("the proxy's certificate does not count: {reason}"));
            }
            ClientCertificate::Identity { id, not_after } => (id, *not_after),
        };
        if not_after <= SystemTime::now() {
            return Err(format!("the certificate of {id}, with which the connection was opened, has expired"));
        }
        let claimed = self.id(&claim.namespace, claim.service_account());
        if *id == claimed {
            return Ok(Some((claimed, not_after)));
        }
        Err(match WorkloadId::parse(id) {
            Some(own) if own.namespace == claim.namespace && own.service_account == claim.service_account() => {
                if trust_domains(&self.snapshot.view()).iter().any(|domain| domain == own.trust_domain) {
                    return Ok(Some((claimed, not_after)));
                }
                format!(
                    "the certificate is of {id}, from another trust domain than {claimed}; if that is what the mesh's was \
                     before, say so in MeshConfig's trustDomainAliases"
                )
            }
            _ => format!("the certificate is of {id}, the proxy claims to be {claimed}"),
        })
    }

    fn take_share(&self, node: &str) -> Result<(), Refusal> {
        let now = Instant::now();
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.len() >= MAX_NODES && !shares.contains_key(node) {
            shares.retain(|_, share| share.grow(now) < BURST);
            if shares.len() >= MAX_NODES {
                return Err(Refusal::Unavailable("too many proxies ask for certificates".to_owned()));
            }
        }
        let share = shares.entry(node.to_owned()).or_insert(Share { left: BURST, since: now });
        if share.grow(now) == 0 {
            let wait = REFILL.saturating_sub(now - share.since).as_secs() + 1;
            return Err(Refusal::TooMany(format!(
                "{node} has had {BURST} certificates in a short time; the next can be had in {wait} s"
            )));
        }
        share.left -= 1;
        Ok(())
    }
}

impl Share {
    /// Adds what has come since; answers what is there.
    fn grow(&mut self, now: Instant) -> u32 {
        let grown = u32::try_from((now - self.since).as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(grown).min(BURST);
        self.since = if self.left == BURST { now } else { self.since + REFILL * grown };
        self.left
    }
}

/// The mesh's own trust domain, and then its aliases.
pub(super) fn trust_domains(view: &View) -> Vec<String> {
    with_mesh(view, |mesh| mesh.trust_domains().into_iter().map(str::to_owned).collect())
}

fn with_mesh<T>(view: &View, read: impl FnOnce(&MeshConfig) -> T) -> T {
    let mesh = view.resources().get(&ResourceKey::new(Kind::MeshConfig, "", "default"));
    match mesh.and_then(|mesh| mesh.spec::<MeshConfig>()) {
        Some(mesh) => read(mesh),
        None => read(&MeshConfig::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_used_up_and_grows_again() {
        let start = Instant::now();
        let mut share = Share { left: 0, since: start };
        let mut at = |tenths: u64| share.grow(start + REFILL * tenths as u32 / 10);
        assert_eq!([at(9), at(10), at(19), at(25), at(1000)], [0, 1, 1, 2, BURST]);
    }
}
