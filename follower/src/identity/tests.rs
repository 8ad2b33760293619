//! An agent against a control plane in the same process, whose certificates are good for moments.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use push::client::Token;
use push::credential::Credential;
use push::message::{Hello, Trust};
use push::server::{Caller, ControlPlane, Event, Peer, PushServer, Refusal, Scope, SessionId};
use push::sign::SignResponse;
use push::transport::{PipeTransport, pipe};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::data_dir::DataDir;

const PATIENCE: Duration = Duration::from_secs(20);
const REVIEWS: &str = "spiffe://cluster.local/ns/shop/sa/reviews";
const RATINGS: &str = "spiffe://cluster.local/ns/shop/sa/ratings";

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Signs for whoever asks.
struct Signer {
    state: Mutex<State>,
    trust: watch::Sender<Arc<Trust>>,
}

struct State {
    issuer: Issuer,
    life: Duration,
    id: &'static str,
    refusal: Option<Refusal>,
    /// The tokens that requests came with.
    tokens: Vec<Option<Token>>,
}

impl ControlPlane for Signer {
    async fn admit(&self, _: &Caller, _: &Hello) -> Result<Arc<Scope>, Refusal> {
        Err(Refusal::Invalid("nobody follows here".into()))
    }

    async fn sign(&self, caller: &Caller, request: SignRequest) -> Result<SignResponse, Refusal> {
        let mut state = self.state.lock().unwrap();
        state.tokens.push(caller.token.clone());
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        let mut csr = CertificateSigningRequestParams::from_der(&request.csr.to_vec().into()).unwrap();
        csr.params.subject_alt_names = vec![SanType::URI(state.id.try_into().unwrap())];
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let not_after = SystemTime::now() + state.life;
        (csr.params.not_before, csr.params.not_after) =
            ((not_after - Duration::from_hours(1)).into(), not_after.into());
        let leaf = csr.signed_by(&state.issuer).unwrap();
        Ok(SignResponse {
            chain: vec![leaf.der().to_vec().into()],
            roots: vec![state.issuer.der().to_vec().into()],
            not_after: not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
        })
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    fn observe(&self, _: SessionId, _: Event) {}
}

struct Plane {
    signer: Arc<Signer>,
    transport: PipeTransport,
}

impl Plane {
    fn start(life: Duration) -> Self {
        let state = State { issuer: authority("first"), life, id: REVIEWS, refusal: None, tokens: Vec::new() };
        let signer = Arc::new(Signer { state: Mutex::new(state), trust: watch::Sender::default() });
        let server = PushServer::new(signer.clone());
        let (transport, mut listener) = pipe();
        tokio::spawn(async move {
            while let Some(io) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve_connection(io, Peer::InProcess).await });
            }
        });
        Self { signer, transport }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.signer.state.lock().unwrap());
    }

    fn asked(&self) -> usize {
        self.signer.state.lock().unwrap().tokens.len()
    }

    fn root(&self) -> CertificateDer<'static> {
        self.signer.state.lock().unwrap().issuer.der().clone()
    }
}

/// What the stream of a running proxy would say.
struct Stream {
    trust: watch::Sender<Option<Arc<Trust>>>,
    status: watch::Sender<Status>,
}

impl Stream {
    fn trusts(&self, roots: &[&CertificateDer<'_>], denied: &[&str]) {
        self.trusts_in(&[], roots, denied);
    }

    fn trusts_in(&self, trust_domains: &[&str], roots: &[&CertificateDer<'_>], denied: &[&str]) {
        let roots = roots.iter().map(|root| root.to_vec().into()).collect();
        let denied = denied.iter().map(|&id| id.to_owned()).collect();
        let trust_domains = trust_domains.iter().map(|&domain| domain.to_owned()).collect();
        self.trust.send_replace(Some(Arc::new(Trust { roots, denied, trust_domains })));
    }
}

struct Proxy {
    identity: Identity,
    stream: Stream,
    renewed: watch::Receiver<u64>,
    running: JoinHandle<()>,
}

impl Proxy {
    fn open(folder: &Path, transport: PipeTransport) -> Agent {
        let dir = DataDir::open(folder).unwrap();
        let applicant =
            Applicant { node: "reviews-1".into(), namespace: "shop".into(), service_account: "reviews".into() };
        let token = Some(Token::new("fwj_token").unwrap());
        let transport =
            Transport { connect: Arc::new(transport), token, credential: Some(Arc::new(Credential::default())) };
        Agent::open(Kept::of(&dir), applicant, transport, Identity::default())
    }

    async fn start(folder: &Path, transport: PipeTransport) -> Self {
        let mut agent = Self::open(folder, transport);
        agent.bootstrap().await;
        let stream = Stream { trust: watch::Sender::default(), status: watch::Sender::new(Status::Connecting) };
        let (trust, status) = (stream.trust.subscribe(), stream.status.subscribe());
        let (identity, renewed) = (agent.identity().clone(), agent.renewed());
        let running = tokio::spawn(async move { match agent.keep(trust, status).await {} });
        Self { identity, stream, renewed, running }
    }

    fn leaf(&self) -> Option<CertificateDer<'static>> {
        Some(self.identity.current()?.key().cert[0].clone())
    }

    async fn until(&self, what: &str, met: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !met() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            assert!(!self.running.is_finished(), "the agent ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn nobody() -> PipeTransport {
    pipe().0
}

#[tokio::test]
async fn the_first_certificate_comes_by_the_token_and_is_kept_for_a_start_without_a_control_plane() {
    let (folder, plane) = (TempDir::new().unwrap(), Plane::start(Duration::from_hours(1)));
    let proxy = Proxy::start(folder.path(), plane.transport.clone()).await;
    let current = proxy.identity.current().unwrap();
    assert_eq!(&**current.spiffe_id(), REVIEWS);
    assert_eq!(plane.signer.state.lock().unwrap().tokens, [Some(Token::new("fwj_token").unwrap())]);
    proxy.stream.trusts(&[&plane.root()], &[RATINGS]);
    proxy.until("the denial", || proxy.identity.current().unwrap().denies(RATINGS)).await;
    let kept = || fs::read_to_string(folder.path().join("trust.json")).unwrap();
    proxy.until("the denial on disk", || kept().contains(RATINGS)).await;
    proxy.stream.trusts_in(&["cluster.local", "old.example"], &[&plane.root()], &[RATINGS]);
    proxy.until("the alias on disk", || kept().contains("old.example")).await;
    let leaf = proxy.leaf();
    drop(proxy);

    for file in ["identity.pem", "trust.json"] {
        let mode = fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let again = Proxy::start(folder.path(), nobody()).await;
    assert_eq!(again.leaf(), leaf);
    assert!(again.identity.current().unwrap().denies(RATINGS), "a denial outlives a restart");
    assert_eq!((again.identity.counts(), plane.asked()), ((0, 0), 1), "nobody had to be asked");
}

#[tokio::test]
async fn certificates_are_renewed_in_time_each_with_a_key_of_its_own() {
    let (folder, plane) = (TempDir::new().unwrap(), Plane::start(Duration::from_secs(4)));
    let mut proxy = Proxy::start(folder.path(), plane.transport.clone()).await;
    let mut keys = vec![];
    for round in 0..3 {
        let current = proxy.identity.current().unwrap();
        keys.push(current.key().key.public_key().unwrap().to_vec());
        assert!(SystemTime::now() < current.not_after(), "round {round}: it came too late");
        tokio::time::timeout(PATIENCE, proxy.renewed.changed()).await.unwrap().unwrap();
    }
    keys.dedup();
    assert_eq!(keys.len(), 3);
    assert_eq!(proxy.identity.counts(), (4, 0));
}

#[tokio::test]
async fn what_failed_is_tried_again_and_at_once_when_the_control_plane_is_back() {
    let (folder, plane) = (TempDir::new().unwrap(), Plane::start(Duration::from_secs(2)));
    let proxy = Proxy::start(folder.path(), plane.transport.clone()).await;
    let first = proxy.leaf();
    plane.change(|state| state.refusal = Some(Refusal::PermissionDenied("the identity is denied".into())));
    let expired = || proxy.identity.current().unwrap().not_after() < SystemTime::now();
    proxy.until("failures", || proxy.identity.counts().1 > 0).await;
    proxy.until("the end of the certificate", expired).await;
    assert_eq!(proxy.leaf(), first, "it is shown as long as there is no other");

    // A refusal is not tried again for seven seconds, unless something changes.
    plane.change(|state| state.refusal = None);
    proxy
        .until("an attempt after the expiry", || {
            proxy.stream.status.send_replace(Status::Connected);
            !expired()
        })
        .await;
    assert_ne!(proxy.leaf(), first);
}

#[tokio::test]
async fn a_root_that_is_not_trusted_any_more_has_the_certificate_renewed_at_once() {
    let (folder, plane) = (TempDir::new().unwrap(), Plane::start(Duration::from_hours(1)));
    let proxy = Proxy::start(folder.path(), plane.transport.clone()).await;
    let (old, first) = (plane.root(), proxy.leaf());
    plane.change(|state| state.issuer = authority("second"));
    let new = plane.root();

    // While both are trusted there is no hurry.
    proxy.stream.trusts(&[&new, &old], &[]);
    proxy.until("both roots", || proxy.identity.current().unwrap().roots().len() == 2).await;
    assert_eq!((proxy.leaf(), plane.asked()), (first.clone(), 1));
    proxy.stream.trusts(&[&new], &[]);
    proxy.until("another certificate", || proxy.leaf() != first).await;
    let current = proxy.identity.current().unwrap();
    let leaf = proxy.leaf().unwrap();
    current.verify_peer(&leaf, &[], UnixTime::now(), PeerIs::Client).unwrap();
    assert_eq!((current.roots().len(), plane.asked()), (1, 2));

    // A list without roots is that of a control plane without a CA.
    proxy.stream.trusts(&[], &[RATINGS]);
    proxy.until("the denial", || proxy.identity.current().unwrap().denies(RATINGS)).await;
    assert_eq!(proxy.identity.current().unwrap().roots().len(), 1);
}

#[tokio::test]
async fn a_control_plane_with_another_ca_is_believed_when_it_signs() {
    let (folder, plane) = (TempDir::new().unwrap(), Plane::start(Duration::from_secs(1)));
    drop(Proxy::start(folder.path(), plane.transport.clone()).await);
    let other = Plane::start(Duration::from_hours(1));
    let proxy = Proxy::start(folder.path(), nobody()).await;
    proxy.until("the end of the certificate", || proxy.identity.counts().1 > 0).await;
    drop(proxy);
    let proxy = Proxy::start(folder.path(), other.transport.clone()).await;
    let (current, leaf) = (proxy.identity.current().unwrap(), proxy.leaf().unwrap());
    current.verify_peer(&leaf, &[], UnixTime::now(), PeerIs::Server).unwrap();
}

#[tokio::test]
async fn what_cannot_be_used_of_what_was_kept_is_asked_for_again() {
    for (what, file, content) in [
        ("junk", "identity.pem", Some("junk")),
        ("no chain", "identity.pem", None),
        ("a foreign key", "identity.pem", Some("foreign")),
        ("no trust", "trust.json", Some("{\"roots\": {}, \"denied\": []}")),
        ("trust that is no JSON", "trust.json", Some("cut")),
        ("another service account", "", None),
    ] {
        let (folder, plane) = (TempDir::new().unwrap(), Plane::start(Duration::from_hours(1)));
        if file.is_empty() {
            let mut agent = Proxy::open(folder.path(), plane.transport.clone());
            agent.applicant.service_account = "ratings".into();
            plane.change(|state| state.id = RATINGS);
            agent.bootstrap().await;
            assert_eq!(agent.identity().counts(), (1, 0));
            plane.change(|state| state.id = REVIEWS);
        } else {
            drop(Proxy::start(folder.path(), plane.transport.clone()).await);
            let path = folder.path().join(file);
            let text = fs::read_to_string(&path).unwrap();
            let key_end = text.find("-----BEGIN CERTIFICATE").unwrap_or(text.len());
            let content = match content {
                None => text[..key_end].to_owned(),
                Some("foreign") => KeyPair::generate().unwrap().serialize_pem() + &text[key_end..],
                Some(content) => content.to_owned(),
            };
            fs::write(&path, content).unwrap();
        }
        let proxy = Proxy::start(folder.path(), plane.transport.clone()).await;
        assert_eq!(proxy.identity.counts(), (1, 0), "{what}");
        assert_eq!(&**proxy.identity.current().unwrap().spiffe_id(), REVIEWS, "{what}");
    }
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_not_taken() {
    let (folder, plane) = (TempDir::new().unwrap(), Plane::start(Duration::from_hours(1)));
    plane.change(|state| state.id = RATINGS);
    let proxy = Proxy::start(folder.path(), plane.transport.clone()).await;
    assert!(proxy.identity.current().is_none());
    assert_eq!((proxy.identity.counts(), is_kept(folder.path())), ((0, 1), false));
}
