//! What a proxy needs before it can serve.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use proxy::identity::Credentials;
use route_model::meta::Revision;
use tokio::sync::watch;

/// A configuration, that of the last good set too, a certificate that has not expired, and for a sidecar the ports that
/// traffic comes in by.
#[derive(Clone, Debug)]
pub struct Prerequisites {
    in_force: watch::Receiver<Option<Revision>>,
    identity: watch::Receiver<Option<Arc<Credentials>>>,
    unbound: watch::Receiver<Vec<SocketAddr>>,
}

/// What is not there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// What the control plane gives, in words.
    Given(&'static str),
    /// It cannot listen there: the first of such addresses.
    Listener(SocketAddr),
}

impl Prerequisites {
    pub(crate) fn new(
        in_force: watch::Receiver<Option<Revision>>,
        identity: watch::Receiver<Option<Arc<Credentials>>>,
        unbound: watch::Receiver<Vec<SocketAddr>>,
    ) -> Self {
        Self { in_force, identity, unbound }
    }

    /// Resolves when all is there, or when the proxy ends.
    pub async fn met(&mut self) {
        while self.missing().is_some() && self.changed().await {}
    }

    /// Waits until something else may be missing; `false`: the proxy has ended.
    pub async fn changed(&mut self) -> bool {
        let changed = tokio::select! {
            changed = self.in_force.changed() => changed,
            changed = self.identity.changed() => changed,
            changed = self.unbound.changed() => changed,
        };
        changed.is_ok()
    }

    pub fn missing(&self) -> Option<Missing> {
        match (self.in_force.borrow().is_some(), is_good(self.identity.borrow().as_ref())) {
            (true, true) => self.unbound.borrow().first().copied().map(Missing::Listener),
            (false, true) => Some(Missing::Given("a configuration")),
            (true, false) => Some(Missing::Given("a certificate")),
            (false, false) => Some(Missing::Given("a configuration and a certificate")),
        }
    }
}

fn is_good(current: Option<&Arc<Credentials>>) -> bool {
    current.is_some_and(|current| SystemTime::now() < current.not_after())
}
