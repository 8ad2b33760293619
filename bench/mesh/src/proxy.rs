//! One simulated sidecar: who it is, and what it holds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use push::client::Token;
use push::credential::Credential;
use push::message::{Ack, Hello, Resume};
use push::transport::TlsTransport;

use crate::delta::Delta;

/// Who a sidecar is, and what lets it join.
pub(crate) struct Identity {
    pub(crate) node: String,
    pub(crate) namespace: String,
    pub(crate) app: String,
    pub(crate) token: Token,
}

pub(crate) struct Proxy {
    pub(crate) identity: Identity,
    pub(crate) credential: Arc<Credential>,
    pub(crate) transport: TlsTransport,
    held: Mutex<Held>,
}

/// What a real proxy would hold, but for the resources.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) connected: bool,
    pub(crate) scope: String,
    pub(crate) revision: u64,
    pub(crate) digest: Bytes,
    /// What was acknowledged, and when, since [`Held::acks`] was cleared.
    pub(crate) acks: Vec<(u64, u64)>,
}

impl Proxy {
    pub(crate) fn new(identity: Identity, transport: TlsTransport, credential: Arc<Credential>) -> Self {
        Self { identity, credential, transport, held: Mutex::default() }
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hello(&self) -> Hello {
        let Identity { node, namespace, app, .. } = &self.identity;
        let held = self.held();
        let labels = [("app", app.as_str()), ("version", "v1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        Hello {
            node: node.clone(),
            namespace: namespace.clone(),
            labels: labels.into(),
            role: "sidecar".to_owned(),
            build: "simulated".to_owned(),
            model_version: push::MODEL_VERSION,
            resume: (!held.scope.is_empty()).then(|| Resume {
                scope: held.scope.clone(),
                revision: held.revision,
                digest: held.digest.clone(),
            }),
            applied: (held.revision > 0).then(|| Ack { revision: held.revision, nonce: 0, issues: Vec::new() }),
            ..Hello::default()
        }
    }

    /// Holds what the last part of a delta leads to, and acknowledges it.
    pub(crate) fn take(&self, last: &Delta) -> Ack {
        let mut held = self.held();
        held.scope.clone_from(&last.scope);
        held.revision = last.revision;
        held.digest = Bytes::copy_from_slice(&last.digest);
        held.acks.push((last.revision, now()));
        Ack { revision: last.revision, nonce: last.nonce, issues: Vec::new() }
    }

    /// When this revision, or a later one, was acknowledged.
    pub(crate) fn acked(&self, revision: u64) -> Option<u64> {
        self.held().acks.iter().find(|(acked, _)| *acked >= revision).map(|(_, at)| *at)
    }
}

/// Nanoseconds by the clock that all processes of the host share.
pub(crate) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
