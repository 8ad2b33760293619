//! TLS terms in force: built once, kept from table to table, read again when their files change.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use route_model::table::tls::{CaSource, TlsListener, TlsMode, TlsServer, TlsTerms};
use route_model::table::{RouteTable, ServerRef};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;
use tokio::sync::Notify;

use super::accept::TlsAcceptor;
use super::certificate::TlsFault;
use super::config::{self, Termination};
use super::identity::Identity;
use super::upstream::UpstreamTlsStore;
use crate::proxy::Issue;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// All TLS terms of a process.
#[derive(Debug, Default)]
pub struct TlsStore {
    state: Mutex<State>,
    pub(crate) upstreams: UpstreamTlsStore,
    /// What is shown to others of the mesh, and believed of them.
    identity: Identity,
}

#[derive(Debug, Default)]
struct State {
    /// By the address of their terms, which a context holds, so that no other terms can come to live there.
    contexts: HashMap<usize, Weak<TlsContext>>,
    /// What served a server last without a fault; it goes on serving while newer terms have one.
    last_good: HashMap<ServerId, Arc<TlsContext>>,
    /// Terms with a fault that others serve in place of: their files may come yet.
    at_fault: HashMap<ServerId, Arc<TlsContext>>,
    tickets: HashMap<TicketScope, Weak<Tickets>>,
}

type ServerId = (route_model::meta::ResourceKey, usize);

/// Terms and the configuration made of them.
#[derive(Debug)]
pub struct TlsContext {
    terms: Arc<TlsTerms>,
    tickets: Arc<Tickets>,
    identity: Identity,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Result<Arc<Termination>, TlsFault>,
    /// What the files looked like when they were last read.
    seen: Vec<Seen>,
}

/// Enough of a file's metadata to notice that it was written or replaced.
pub(super) type Seen = Option<(SystemTime, u64, u64)>;

/// What sessions must have in common to be resumed by one another: everything that was asked of the client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TicketScope {
    mutual: Option<bool>,
    skip_verify: bool,
    ca: Option<CaIdentity>,
    names: Vec<String>,
    spki: Vec<String>,
    hash: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum CaIdentity {
    Pem(Vec<u8>),
    Files(String, Option<String>, Vec<Seen>),
    Mesh,
}

/// Session ticket keys: AES-256 and HMAC-SHA-256, new every six hours, valid for twelve; shared by all workers.
#[derive(Debug)]
struct Tickets {
    keys: Arc<dyn ProducesTickets>,
}

impl TlsStore {
    /// `identity`: what connections to others of the mesh are made with.
    pub(crate) fn new(identity: Identity) -> Self {
        Self { state: Mutex::default(), upstreams: UpstreamTlsStore::new(identity.clone()), identity }
    }

    /// The acceptor of a listener, and what is wrong with its servers. A server whose terms have a fault goes on with
    /// the last that had none; if there are none, its handshakes fail while the others work.
    pub fn acceptor(&self, listener: &Arc<TlsListener>) -> (TlsAcceptor, Vec<Issue>) {
        let mut issues = Vec::new();
        let mut contexts = Vec::with_capacity(listener.servers.len());
        for server in &listener.servers {
            let (context, fault) = self.server(server);
            if let Some(TlsFault { reason, message }) = fault {
                let message = format!("servers[{}]: {message}", server.server.index);
                issues.push(Issue { resource: Some(server.server.gateway.clone()), reason, message });
            }
            contexts.push(context);
        }
        (TlsAcceptor::new(Arc::clone(listener), contexts), issues)
    }

    fn server(&self, server: &TlsServer) -> (Arc<TlsContext>, Option<TlsFault>) {
        let id = server_id(&server.server);
        let context = self.context(&server.terms);
        let mut state = self.state();
        match context.fault() {
            None => {
                state.at_fault.remove(&id);
                state.last_good.insert(id, Arc::clone(&context));
                (context, None)
            }
            Some(fault) => {
                let serving = state.last_good.get(&id).unwrap_or(&context).clone();
                state.at_fault.insert(id, context);
                (serving, Some(fault))
            }
        }
    }

    /// Forgets what servers that are not in this table had. To be called once a table is in force.
    pub fn retain(&self, table: &RouteTable) {
        use route_model::table::ListenerProtocol;
        let present: std::collections::HashSet<ServerId> = table
            .listeners
            .iter()
            .filter_map(|listener| match &listener.protocol {
                ListenerProtocol::Tls(tls) => Some(&tls.servers),
                _ => None,
            })
            .flatten()
            .map(|server| server_id(&server.server))
            .collect();
        let mut state = self.state();
        state.last_good.retain(|id, _| present.contains(id));
        state.at_fault.retain(|id, _| present.contains(id));
        state.contexts.retain(|_, context| context.strong_count() > 0);
        state.tickets.retain(|_, tickets| tickets.strong_count() > 0);
        drop(state);
        self.upstreams.retain();
    }

    /// The context of terms, built if these terms were not seen before.
    fn context(&self, terms: &Arc<TlsTerms>) -> Arc<TlsContext> {
        let address = Arc::as_ptr(terms) as usize;
        if let Some(context) = self.state().contexts.get(&address).and_then(Weak::upgrade) {
            return context;
        }
        let context = Arc::new(TlsContext::new(Arc::clone(terms), self.tickets(terms), self.identity.clone()));
        self.state().contexts.insert(address, Arc::downgrade(&context));
        context
    }

    fn tickets(&self, terms: &TlsTerms) -> Arc<Tickets> {
        let scope = TicketScope::of(terms);
        let mut state = self.state();
        if let Some(tickets) = state.tickets.get(&scope).and_then(Weak::upgrade) {
            return tickets;
        }
        let tickets = Arc::new(Tickets::new());
        state.tickets.insert(scope, Arc::downgrade(&tickets));
        tickets
    }

    /// Reads certificate files again whenever they change, for as long as it is polled. Belongs on the control
    /// runtime. Notifies `news` when something else is wrong with any terms than before.
    pub(crate) async fn watch_files(self: Arc<Self>, news: Arc<Notify>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let store = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || store.look_at_files()).await {
                Ok(false) => {}
                Ok(true) => news.notify_one(),
                Err(error) => tracing::error!(%error, "looking at certificate files failed"),
            }
        }
    }

    /// Looks once whether certificate files changed, and reads those that did. Whether something else is wrong with any
    /// terms than before.
    pub fn look_at_files(&self) -> bool {
        let contexts: Vec<_> = self.state().contexts.values().filter_map(Weak::upgrade).collect();
        let mut news = self.upstreams.look_at_files();
        for context in contexts {
            news |= context.look_at_files();
        }
        news
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TlsContext {
    fn new(terms: Arc<TlsTerms>, tickets: Arc<Tickets>, identity: Identity) -> Self {
        let seen = look(&terms);
        let config = config::build(&terms, Arc::clone(&tickets.keys), &identity);
        Self { terms, tickets, identity, current: Mutex::new(Current { config, seen }) }
    }

    pub fn terms(&self) -> &Arc<TlsTerms> {
        &self.terms
    }

    /// The configuration for a handshake; `None` if the terms have a fault.
    pub fn config(&self) -> Option<Arc<Termination>> {
        self.current().config.as_ref().ok().cloned()
    }

    /// Why there is no configuration.
    pub fn fault(&self) -> Option<TlsFault> {
        self.current().config.as_ref().err().cloned()
    }

    fn look_at_files(&self) -> bool {
        let seen = look(&self.terms);
        if self.current().seen == seen {
            return false;
        }
        // Who a client certificate must come from may have changed with the files, and a resumed session is not
        // asked again: with client authentication old tickets are worth nothing then.
        let tickets = match self.terms.mode {
            TlsMode::Simple => Arc::clone(&self.tickets.keys),
            TlsMode::Mutual | TlsMode::OptionalMutual => Tickets::new().keys,
        };
        let built = config::build(&self.terms, tickets, &self.identity);
        let mut current = self.current();
        current.seen = seen;
        if let (Err(fault), Ok(_)) = (&built, &current.config) {
            tracing::warn!(%fault, "certificate files changed but cannot be used; what was read before stays");
            return false;
        }
        tracing::info!(files = ?config::files(&self.terms), "certificate files were read again");
        let news = built.as_ref().err() != current.config.as_ref().err();
        current.config = built;
        news
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tickets {
    fn new() -> Self {
        match Ticketer::new() {
            Ok(keys) => Self { keys },
            Err(error) => {
                tracing::error!(%error, "there is no randomness for session tickets; TLS sessions are not resumed");
                Self { keys: Arc::new(NoTickets) }
            }
        }
    }
}

#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _plain: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _cipher: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

impl TicketScope {
    fn of(terms: &TlsTerms) -> Self {
        let (mutual, ca) = match terms.mode {
            TlsMode::Simple => (None, None),
            TlsMode::OptionalMutual => (Some(false), terms.client_ca.as_ref()),
            TlsMode::Mutual => (Some(true), terms.client_ca.as_ref()),
        };
        Self {
            mutual,
            skip_verify: terms.skip_verify,
            ca: ca.map(|ca| match ca {
                CaSource::Secret(credential) => CaIdentity::Pem(credential.ca.clone()),
                CaSource::Files { ca, crl } => CaIdentity::Files(ca.clone(), crl.clone(), look(terms)),
                CaSource::Mesh => CaIdentity::Mesh,
            }),
            names: terms.subject_alt_names.clone(),
            spki: terms.verify_certificate_spki.clone(),
            hash: terms.verify_certificate_hash.clone(),
        }
    }
}

fn server_id(server: &ServerRef) -> ServerId {
    (server.gateway.clone(), server.index)
}

fn look(terms: &TlsTerms) -> Vec<Seen> {
    config::files(terms).into_iter().map(look_at).collect()
}

/// What a file looks like; `None` if it is not there.
pub(super) fn look_at(path: &str) -> Seen {
    let metadata = std::fs::metadata(Path::new(path)).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}
