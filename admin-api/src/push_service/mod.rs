//! The control plane's side of push: which proxies may join, what each is sent, what each runs.
//!
//! A proxy comes with a join token first, has a certificate signed with its help, and from then on comes with that.
//!
//! Every replica serves its own proxies from its own picture of the store. What the proxies acknowledge is written
//! down in batches, so that every replica can answer for all.

mod admission;
mod calls;
mod denied;
mod listen;
mod reach;
mod refused;
mod registrar;
mod roster;
mod scopes;
mod signing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Router;
use push::message::{Hello, Trust};
use push::server::{Caller, ControlPlane, Event, Peer, PushServer, Refusal, Scope, SessionId};
use push::sign::{SignRequest, SignResponse};
use push::transport::{PipeListener, PipeTransport, pipe};
use route_model::identity::{WorkloadId, workload_id};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info};

use self::admission::{Admission, Admitted};
pub(crate) use self::calls::PushApi;
use self::denied::Denied;
pub(crate) use self::listen::tls;
use self::refused::Refused;
use self::registrar::{Leases, Registrar};
use self::roster::{Followed, Mark, Member, Roster, Running, Standing};
pub use self::roster::{IssueView, ProxyInfo, ProxyView, RefusedView, ResourceName, WorkloadPortView, WorkloadView};
use self::scopes::Scopes;
use self::signing::Signing;
use crate::api::{Acks, ProxyAck, ProxyIssue};
use crate::ca::Ca;
use crate::store::{ProxyState, Snapshot, StoreError};

/// A proxy that its replica has not confirmed for so long counts as disconnected: the replica is gone.
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(35);
/// How often a replica confirms its proxies.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);
/// How often acknowledgements are written down and those of other replicas read, if nothing says that there are any.
const EXCHANGE_EVERY: Duration = Duration::from_secs(1);
/// The least time between two exchanges.
const EXCHANGE_PAUSE: Duration = Duration::from_millis(20);
/// About what a delta costs for each proxy; so long nothing else is sent. For a thousand proxies 50 ms.
const PER_PROXY: Duration = Duration::from_micros(50);
/// The longest time that a change waits for those before it.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Proxies that are written down in one transaction.
const PUT_AT_ONCE: usize = 200;
/// Acknowledgements that arrive within this time make one change of [`PushService::acks`].
const GATHER: Duration = Duration::from_millis(3);

/// Serves the proxies of this replica.
#[derive(Debug)]
pub struct PushService {
    snapshot: Snapshot,
    scopes: Arc<Scopes>,
    admission: Admission,
    signing: Arc<Signing>,
    denied: Denied,
    refused: Refused,
    trust: watch::Sender<Arc<Trust>>,
    roster: Roster,
    registrar: Registrar,
    /// Since when what the proxies run could be written down without a gap.
    confirmed_since: std::sync::Mutex<Option<Instant>>,
    acks: watch::Sender<Arc<[ProxyAck]>>,
    pipe: PipeTransport,
    /// Taken by [`PushService::serve`].
    piped: Mutex<Option<PipeListener>>,
}

impl PushService {
    /// Proxies get certificates of this CA that are good for so long.
    pub fn new(snapshot: Snapshot, ca: Arc<Ca>, cert_ttl: Duration) -> Arc<Self> {
        Self::with_leases(snapshot, ca, cert_ttl, Leases::default())
    }

    fn with_leases(snapshot: Snapshot, ca: Arc<Ca>, cert_ttl: Duration, leases: Leases) -> Arc<Self> {
        let (pipe, listener) = pipe();
        let replica = uuid::Uuid::new_v4().to_string();
        Arc::new(Self {
            scopes: Arc::new(Scopes::new(snapshot.view().resources().clone())),
            admission: Admission::new(snapshot.clone()),
            signing: Arc::new(Signing::new(snapshot.clone(), ca, cert_ttl)),
            denied: Denied::new(snapshot.store().clone()),
            refused: Refused::default(),
            trust: watch::Sender::default(),
            roster: Roster::new(replica),
            registrar: Registrar::new(leases),
            confirmed_since: std::sync::Mutex::default(),
            acks: watch::Sender::new(Arc::default()),
            snapshot,
            pipe,
            piped: Mutex::new(Some(listener)),
        })
    }

    /// What every proxy runs; changes with every acknowledgement.
    pub fn acks(&self) -> Acks {
        self.acks.subscribe()
    }

    /// Every proxy that is known, by id.
    pub fn proxies(&self) -> Vec<ProxyView> {
        let view = self.snapshot.view();
        let shown = |mut proxy: ProxyView| {
            if let Some(workload) = &mut proxy.info.workload {
                workload.problems = view.workload_problems(&proxy.id);
            }
            proxy.measured(view.revision())
        };
        self.roster.views().into_iter().map(shown).collect()
    }

    /// The calls about proxies and their tokens. They expect the [`Identity`](crate::auth::Identity) of the caller
    /// among the request's extensions.
    pub fn router(self: &Arc<Self>) -> Router {
        calls::router(self.clone())
    }

    /// The way to this control plane for a proxy in the same process; it needs no token.
    pub fn local_transport(&self) -> PipeTransport {
        self.pipe.clone()
    }

    /// Serves proxies from this listener and the pipe until `stopping` is true; then ends their streams.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: TlsAcceptor, mut stopping: watch::Receiver<bool>) {
        let server = PushServer::new(self.clone());
        let piped = self.piped.lock().await.take();
        // Nobody is let in before it is known who is denied.
        self.denied.look().await;
        self.trust.send_replace(self.trusted());
        {
            let working = async {
                tokio::join!(
                    self.follow_resources(),
                    self.publish_acks(),
                    self.exchange(),
                    self.end_unwelcome(&server),
                    self.denied.follow(),
                    self.signing.ca().follow(),
                    self.publish_trust(),
                    self.registrar.run(&**self.snapshot.store(), self.roster.replica()),
                    self.registrar.look_after(&self.snapshot, self.roster.replica(), || self.confirmed_since()),
                    listen::accept(&server, &self.signing, &listener, &tls),
                    listen::accept_piped(&server, piped),
                )
            };
            tokio::select! {
                _ = working => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        }
        drop(listener);
        server.end();
        listen::until_idle(&self.roster).await;
        self.write_down().await;
    }

    /// Brings the scopes to every new revision. Writes that come while one is worked in, or soon after it, are taken
    /// together: else a stream of them would leave the proxies no time for anything but deltas.
    async fn follow_resources(&self) {
        let mut views = self.snapshot.views();
        views.mark_changed();
        while views.changed().await.is_ok() {
            let set = views.borrow_and_update().resources().clone();
            let scopes = self.scopes.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || scopes.update(&set)).await {
                error!(%error, "the scopes could not be brought up to date");
            }
            // What is in force without being sent counts from here on.
            self.roster.touch();
            tokio::time::sleep(PER_PROXY.saturating_mul(self.roster.connected() as u32).min(LONGEST_PAUSE)).await;
        }
    }

    async fn publish_acks(&self) {
        let mut took = Duration::ZERO;
        loop {
            self.roster.changed().await;
            // With thousands of proxies none of this takes more than a fifth of the time.
            tokio::time::sleep(GATHER.max(took * 4)).await;
            let began = Instant::now();
            let (running, scopes) = (self.roster.running(), self.scopes.clone());
            let acks = move || running.into_iter().map(|proxy| ack(proxy, &scopes)).collect::<Arc<[ProxyAck]>>();
            let acks = match tokio::task::spawn_blocking(acks).await {
                Ok(acks) => acks,
                Err(error) => {
                    error!(%error, "what the proxies run could not be told");
                    continue;
                }
            };
            self.acks.send_if_modified(|current| {
                let changed = **current != *acks;
                *current = acks;
                changed
            });
            took = began.elapsed();
        }
    }

    /// Whose certificates to accept now.
    fn trusted(&self) -> Arc<Trust> {
        let roots = self.signing.ca().current().roots().iter().map(|root| root.to_vec().into()).collect();
        let trust_domains = signing::trust_domains(&self.snapshot.view());
        let denied = in_all_domains(self.denied.current().keys(), &trust_domains);
        Arc::new(Trust { roots, denied, trust_domains })
    }

    async fn publish_trust(&self) {
        let (mut denied, mut authority) = (self.denied.watch(), self.signing.ca().watch());
        let mut views = self.snapshot.views();
        loop {
            let domains = signing::trust_domains(&self.snapshot.view());
            self.trust.send_if_modified(|current| {
                let trusted = self.trusted();
                let changed = *current != trusted;
                *current = trusted;
                changed
            });
            tokio::select! {
                Ok(()) = denied.changed() => {}
                Ok(()) = authority.changed() => {}
                Ok(_) = views.wait_for(|view| signing::trust_domains(view) != domains) => {}
                else => return,
            }
        }
    }

    /// Ends the sessions of identities that are denied, and those that a join token opened which was revoked, here or at
    /// another replica. A token that merely expired ends none: what joined is a member.
    async fn end_unwelcome(&self, server: &PushServer<Self>) {
        let mut views = self.snapshot.views();
        let mut denied = self.denied.watch();
        loop {
            denied.mark_unchanged();
            let denied_now = self.denied.current();
            let is_denied = |id: &String| denied_now.contains_key(id);
            let denied_id = |ns: &str, account: &str| self.signing.ids(ns, account).into_iter().find(is_denied);
            let members = if denied_now.is_empty() { Vec::new() } else { self.roster.with_identity(denied_id) };
            for Member { node, session, id } in members {
                info!(node, id, "a proxy's identity is denied, its session ends");
                server.end_session(&node, session, denial(&id));
            }
            let view = views.borrow().clone();
            let known: HashSet<&str> = view.tokens().map(|token| &*token.id).collect();
            let suspects = self.roster.without_token(|token| known.contains(token));
            let undecided = !suspects.is_empty() && self.end_if_revoked(server, suspects).await.is_err();
            tokio::select! {
                changed = views.wait_for(|now| now.token_writes() != view.token_writes()) => if changed.is_err() { return },
                // A token may be revoked while it lets a proxy in.
                () = self.roster.arrived() => {}
                Ok(()) = denied.changed() => {}
                () = tokio::time::sleep(EXCHANGE_EVERY), if undecided => {}
            }
        }
    }

    /// A token made a moment ago at another replica may not be in our picture of the store: the store itself decides.
    async fn end_if_revoked(&self, server: &PushServer<Self>, suspects: Vec<Member>) -> Result<(), StoreError> {
        let tokens = self.snapshot.store().tokens().await?;
        let kept: HashSet<&str> = tokens.iter().map(|token| &*token.id).collect();
        for Member { node, session, id: token } in suspects.into_iter().filter(|member| !kept.contains(&*member.id)) {
            info!(node, token, "a proxy's join token was revoked, its session ends");
            let why = format!("the join token {token} was revoked");
            server.end_session(&node, session, Refusal::Unauthenticated(why));
        }
        Ok(())
    }

    /// Tells other replicas what the proxies here run, and learns what theirs do.
    async fn exchange(&self) {
        let store = self.snapshot.store();
        let mut acks = self.acks.subscribe();
        let mut written: HashMap<String, Mark> = HashMap::new();
        let mut confirmed: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let due = confirmed.is_none_or(|last| last.elapsed() >= CONFIRM_EVERY);
            let news = self.roster.states(|node| written.get(node).copied().filter(|_| !due));
            match self.put_down(news, |mark, node| _ = written.insert(node, mark)).await {
                Ok(()) => {
                    confirmed = if due { Some(began) } else { confirmed };
                    self.confirmed(true);
                }
                Err(error) => {
                    self.confirmed(false);
                    debug!(%error, "what the proxies run cannot be written down now");
                }
            }
            self.learn().await;
            // What comes in a burst goes together, and none of this takes more than a fifth of the time.
            tokio::time::sleep(EXCHANGE_PAUSE.max(began.elapsed() * 4)).await;
            tokio::select! {
                // The sender lives in `self`.
                _ = acks.changed() => {}
                () = store.proxies_changed(EXCHANGE_EVERY) => {}
            }
        }
    }

    fn confirmed(&self, stored: bool) {
        let mut since = self.confirmed_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if stored { Some(since.unwrap_or_else(Instant::now)) } else { None };
    }

    fn confirmed_since(&self) -> Option<Instant> {
        *self.confirmed_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn learn(&self) {
        match self.snapshot.store().proxies(STALE_AFTER, Some(self.roster.replica())).await {
            Ok(states) => {
                let members: Vec<_> = states.iter().filter_map(roster::membership).collect();
                self.roster.remote(states);
                // Who was here since is known better here.
                self.admission.remember(members.into_iter().filter(|(node, _)| !self.roster.knows(node)));
            }
            // With the database away the last state counts.
            Err(error) => {
                self.confirmed(false);
                debug!(%error, "what other replicas know of their proxies cannot be read now");
            }
        }
    }

    /// Lets in who shows a certificate of what it claims to be, or a join token for it.
    async fn let_in(&self, caller: &Caller, hello: &Hello) -> Result<(), Refusal> {
        let ids = self.signing.ids(&hello.namespace, hello.service_account());
        if let Some(id) = ids.iter().find(|id| self.denied.contains(id)) {
            return Err(denial(id));
        }
        let vouched = match self.signing.vouched(caller, hello) {
            Err(reason) if caller.token.is_none() => return Err(Refusal::PermissionDenied(reason)),
            vouched => vouched,
        };
        // Inside this process nobody is kept out.
        if caller.peer != Peer::InProcess
            && self.roster.is_another(&hello.node, &hello.namespace, hello.service_account())
        {
            return Err(Refusal::PermissionDenied(format!(
                "the node id {} is in use by a proxy of another identity; give each proxy its own (--node-id), or wait \
                 until that one has left",
                hello.node
            )));
        }
        let fault = match vouched {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => None,
            Err(reason) => Some(reason),
        };
        if let Some(reason) = &fault {
            info!(node = hello.node, reason, "a proxy's certificate was passed over, its join token decides");
        }
        let admitted = self.admission.admit(caller, hello).await.map_err(|refusal| match (refusal, fault) {
            (Refusal::Unauthenticated(why), Some(fault)) => Refusal::Unauthenticated(format!("{why}; and {fault}")),
            (refusal, _) => refusal,
        });
        if admitted? == Admitted::New {
            // A member must be one after a crash too.
            let state = self.roster.joining(hello, caller.peer, self.admission.token_of(&hello.node));
            self.snapshot.store().put_proxies(self.roster.replica(), &[state]).await.map_err(|error| {
                Refusal::Unavailable(format!("the proxy cannot be written down as a member: {error}"))
            })?;
        }
        Ok(())
    }

    /// In parts, so that writers of resources do not wait long for their turn.
    async fn put_down(
        &self,
        news: Vec<(Mark, ProxyState)>,
        mut done: impl FnMut(Mark, String),
    ) -> Result<(), StoreError> {
        let (marks, states): (Vec<Mark>, Vec<ProxyState>) = news.into_iter().unzip();
        for (marks, states) in marks.chunks(PUT_AT_ONCE).zip(states.chunks(PUT_AT_ONCE)) {
            self.snapshot.store().put_proxies(self.roster.replica(), states).await?;
            marks.iter().zip(states).for_each(|(mark, state)| done(*mark, state.node.clone()));
        }
        Ok(())
    }

    async fn write_down(&self) {
        if let Err(error) = self.put_down(self.roster.states(|_| None), |_, _| {}).await {
            debug!(%error, "what the proxies run cannot be written down");
        }
    }
}

impl ControlPlane for PushService {
    async fn admit(&self, caller: &Caller, hello: &Hello) -> Result<Arc<Scope>, Refusal> {
        let scope = hello
            .proxy_scope()
            .ok_or_else(|| Refusal::Invalid(format!("this control plane knows no proxies of role {:?}", hello.role)))?;
        self.let_in(caller, hello).await.inspect_err(|refusal| self.refused.note(caller, hello, refusal))?;
        Ok(self.scopes.of(&scope, hello.model_version))
    }

    async fn sign(&self, caller: &Caller, request: SignRequest) -> Result<SignResponse, Refusal> {
        let claim = Hello {
            node: request.node.clone(),
            namespace: request.namespace.clone(),
            service_account: request.service_account.clone(),
            ..Hello::default()
        };
        self.let_in(caller, &claim).await.inspect_err(|refusal| self.refused.note(caller, &claim, refusal))?;
        self.signing.sign(&claim, request).await
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    fn observe(&self, session: SessionId, event: Event) {
        self.registrar.observe(session, self.roster.node_of(session).as_deref(), &event);
        self.roster.observe(session, event, |caller, hello| Standing {
            // Inside this process nobody needs a token, whoever had the same name elsewhere.
            join_token: self.admission.token_of(&hello.node).filter(|_| caller.peer != Peer::InProcess),
            identity: self.signing.vouched(caller, hello).ok().flatten(),
        });
    }
}

/// The identities in each of the trust domains where they are of one of these.
fn in_all_domains<'a>(ids: impl Iterator<Item = &'a String>, domains: &[String]) -> Vec<String> {
    let all = ids.flat_map(|id| match WorkloadId::parse(id) {
        Some(own) if domains.len() > 1 && domains.iter().any(|domain| domain == own.trust_domain) => {
            domains.iter().map(|domain| workload_id(domain, own.namespace, own.service_account)).collect()
        }
        _ => vec![id.clone()],
    });
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

fn denial(id: &str) -> Refusal {
    Refusal::PermissionDenied(format!("the identity {id} is denied; `fairway identity allow` allows it again"))
}

fn ack(proxy: Running, scopes: &Scopes) -> ProxyAck {
    let acked = proxy.acked();
    let Running { node, connected, issues, followed, .. } = proxy;
    let issues = issues.into_iter().map(|(resource, issue)| ProxyIssue {
        resource,
        reason: issue.reason,
        message: issue.message,
    });
    let reach = match followed {
        Followed::Here(scope) => scopes.reach_in(&scope),
        Followed::Elsewhere(Some(scope), model_version) => scopes.reach_of(&scope, model_version),
        Followed::Elsewhere(None, _) => scopes.reach_of_nobody(),
    };
    ProxyAck { node, connected, acked, issues: issues.collect(), reach }
}
