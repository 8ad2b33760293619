//! TLS to upstreams: the terms of a cluster, made ready for handshakes, kept from table to table, and read again when
//! their files change.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use route_model::table::upstream_tls::{TlsSource, UpstreamTls};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::certificate::TlsFault;
use super::identity::Identity;
use super::mesh::alpn;
use super::origination;
use super::store::{Seen, look_at};

/// The terms of all clusters of a process. Equal terms share a configuration.
#[derive(Debug, Default)]
pub(crate) struct UpstreamTlsStore {
    /// What is shown to others of the mesh, and believed of them.
    identity: Identity,
    contexts: Mutex<HashMap<Arc<UpstreamTls>, Weak<UpstreamContext>>>,
}

/// Terms and the configuration made of them.
#[derive(Debug)]
pub(crate) struct UpstreamContext {
    terms: Arc<UpstreamTls>,
    /// Which configuration is in force; 0: none, the terms have a fault. Connections of different generations do not
    /// stand in for each other.
    generation: AtomicU64,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    session: Result<Arc<Session>, TlsFault>,
    /// What the files looked like when they were last read.
    seen: Vec<Seen>,
}

/// What handshakes of one generation are made with.
#[derive(Debug)]
pub(crate) struct Session {
    /// `sni`; `None`: the host of the request.
    name: Option<ServerName<'static>>,
    configs: [Arc<ClientConfig>; 3],
}

/// What is spoken inside TLS, and so offered to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    Http1,
    Http2,
    /// Bytes: nothing is offered.
    Tcp,
}

impl UpstreamTlsStore {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, contexts: Mutex::default() }
    }

    /// The context of terms. `before` is what the same cluster used so far: it goes on serving while new terms that ask
    /// the same have a fault. The context with the fault is answered beside; its files are looked at while it is held.
    pub(crate) fn context(
        &self,
        terms: &Arc<UpstreamTls>,
        before: Option<&Arc<UpstreamContext>>,
    ) -> (Arc<UpstreamContext>, Option<Arc<UpstreamContext>>) {
        let known = self.contexts().get(terms).and_then(Weak::upgrade);
        let context = known.unwrap_or_else(|| {
            let context = Arc::new(UpstreamContext::new(Arc::clone(terms), &self.identity));
            self.contexts().insert(Arc::clone(terms), Arc::downgrade(&context));
            context
        });
        let at_fault = context.fault().is_some();
        let kept = before.filter(|before| at_fault && before.is_ready() && before.terms.asks_the_same(terms));
        (kept.unwrap_or(&context).clone(), at_fault.then_some(context))
    }

    /// Forgets what no cluster uses any more. To be called once a table is in force.
    pub(crate) fn retain(&self) {
        self.contexts().retain(|_, context| context.strong_count() > 0);
    }

    /// Looks once whether certificate files changed, and reads those that did. Whether something else is wrong with any
    /// terms than before.
    pub(crate) fn look_at_files(&self) -> bool {
        let contexts: Vec<_> = self.contexts().values().filter_map(Weak::upgrade).collect();
        let mut news = false;
        for context in contexts {
            news |= context.look_at_files(&self.identity);
        }
        news
    }

    fn contexts(&self) -> MutexGuard<'_, HashMap<Arc<UpstreamTls>, Weak<UpstreamContext>>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UpstreamContext {
    fn new(terms: Arc<UpstreamTls>, identity: &Identity) -> Self {
        let seen = look(&terms);
        let session = origination::build(&terms, identity);
        let generation = AtomicU64::new(if session.is_ok() { next_generation() } else { 0 });
        Self { terms, generation, current: Mutex::new(Current { session, seen }) }
    }

    /// Whether handshakes can be made.
    pub(crate) fn is_ready(&self) -> bool {
        self.generation() != 0
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the server that is asked for depends on the request.
    pub(crate) fn asks_for_host(&self) -> bool {
        self.terms.sni.is_none() && !self.is_of_mesh()
    }

    /// Whether it is for endpoints of the mesh alone.
    pub(crate) fn is_automatic(&self) -> bool {
        self.terms.automatic
    }

    /// Whether both ends show certificates of the mesh.
    pub(crate) fn is_of_mesh(&self) -> bool {
        matches!(self.terms.source, TlsSource::Mesh)
    }

    pub(crate) fn session(&self) -> Result<Arc<Session>, TlsFault> {
        self.current().session.clone()
    }

    /// Why no handshake can be made.
    pub(crate) fn fault(&self) -> Option<TlsFault> {
        self.current().session.as_ref().err().cloned()
    }

    fn look_at_files(&self, identity: &Identity) -> bool {
        let seen = look(&self.terms);
        if self.current().seen == seen {
            return false;
        }
        let built = origination::build(&self.terms, identity);
        let mut current = self.current();
        current.seen = seen;
        let rule = &self.terms.rule;
        if let (Err(fault), Ok(_)) = (&built, &current.session) {
            tracing::warn!(%rule, %fault, "certificate files changed but cannot be used; what was read before stays");
            return false;
        }
        if built.is_ok() {
            tracing::info!(%rule, "certificate files were read again");
            self.generation.store(next_generation(), Ordering::Release);
        }
        let news = built.as_ref().err() != current.session.as_ref().err();
        current.session = built;
        news
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// For a proxy of the mesh, which is recognised by its identity, and by which the connection is told apart from TLS
    /// that is the application's own: by the protocols that Istio's proxies offer.
    pub(super) fn of_mesh(name: ServerName<'static>, config: impl Fn(&[&[u8]]) -> Arc<ClientConfig>) -> Self {
        let configs = [alpn::HTTP1, alpn::HTTP2, alpn::BYTES].map(|protocol| config(&[protocol]));
        Self { name: Some(name), configs }
    }

    pub(super) fn new(name: Option<ServerName<'static>>, config: ClientConfig) -> Self {
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        let configs = [offering(&[super::config::ALPN_HTTP1]), offering(&[super::config::ALPN_H2]), offering(&[])];
        Self { name, configs }
    }

    pub(crate) fn config(&self, inside: Inside) -> Arc<ClientConfig> {
        Arc::clone(&self.configs[inside as usize])
    }

    /// The server to ask for, `host` where the terms name none.
    pub(crate) fn name<'a>(&'a self, host: Option<&'a ServerName<'static>>) -> Option<&'a ServerName<'static>> {
        self.name.as_ref().or(host)
    }
}

/// Never the same again in this process.
fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn look(terms: &UpstreamTls) -> Vec<Seen> {
    let TlsSource::Files(files) = &terms.source else { return Vec::new() };
    let paths = [&files.certificate, &files.private_key, &files.ca, &files.crl];
    paths.into_iter().flatten().map(|path| look_at(path)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use route_model::kind::Kind;
    use route_model::meta::ResourceKey;
    use route_model::table::upstream_tls::TlsFiles;

    use super::*;

    /// Terms with the CA in a file.
    fn terms(path: &std::path::Path, name: &str) -> Arc<UpstreamTls> {
        Arc::new(UpstreamTls {
            rule: ResourceKey::new(Kind::DestinationRule, "default", "s"),
            automatic: false,
            sni: None,
            subject_alt_names: [name.to_owned()].into(),
            mutual: false,
            verify: true,
            source: TlsSource::Files(TlsFiles { ca: Some(path.to_str().unwrap().to_owned()), ..TlsFiles::default() }),
        })
    }

    fn authority() -> String {
        rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn equal_terms_share_a_configuration_for_as_long_as_somebody_uses_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, authority()).unwrap();
        let store = UpstreamTlsStore::default();
        let (first, at_fault) = store.context(&terms(&path, "a"), None);
        assert!(at_fault.is_none());
        let (second, _) = store.context(&terms(&path, "a"), None);
        let (other, _) = store.context(&terms(&path, "b"), None);
        assert!(Arc::ptr_eq(&first, &second));
        assert_ne!(first.generation(), other.generation());
        drop(other);
        store.retain();
        assert_eq!(store.contexts().len(), 1);
    }

    #[test]
    fn files_that_cannot_be_used_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let store = UpstreamTlsStore::default();
        let (context, at_fault) = store.context(&terms(&path, "a"), None);
        assert!(at_fault.unwrap().fault().unwrap().message.starts_with("cannot read "));
        assert!(!context.is_ready() && !store.look_at_files());
        std::fs::write(&path, authority()).unwrap();
        assert!(store.look_at_files());
        let first = context.generation();
        assert!(context.is_ready() && context.session().is_ok());
        std::fs::write(&path, "no certificate at all").unwrap();
        assert!(!store.look_at_files(), "what serves is as good as before");
        assert_eq!(context.generation(), first);
        assert!(context.session().is_ok());
        std::fs::write(&path, authority() + &authority()).unwrap();
        store.look_at_files();
        assert!(context.generation() > first);
    }
}
