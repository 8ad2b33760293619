//! The proxy's end: a connection that keeps itself up and hands over one complete revision after another.

mod assembly;
mod backoff;
mod held;
mod session;
mod sign;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use route_model::compile::{Changed, ProxyScope};
use route_model::meta::Revision;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use self::backoff::Backoff;
pub use self::held::{Held, HeldError};
use self::session::{Command, Driver, Slot};
pub use self::sign::{SignError, Signed, sign};
use crate::message::{Ack, Hello, Issue, Nack, Report, Trust, role_name};
use crate::transport::Connect;
use crate::workload::{Ready, Workload};

/// How long [`Subscriber::leave`] may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Who a proxy is.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique among the proxies of a control plane.
    pub id: String,
    pub scope: ProxyScope,
    /// The proxy's version, for people.
    pub build: String,
}

/// Ceilings for what a control plane may send. What goes beyond is refused with a nack.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_resources: usize,
    /// Bytes of resource bodies in one delta.
    pub max_delta_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_resources: 500_000, max_delta_bytes: 512 * 1024 * 1024 }
    }
}

#[derive(Clone, Debug)]
pub struct SubscriberOptions {
    pub node: Node,
    /// The service account that the proxy runs as: what its join token must name. Empty: `default`.
    pub service_account: String,
    /// What proves the proxy's right to join; not needed over a pipe.
    pub token: Option<Token>,
    /// What the proxy holds from an earlier run. The first update brings only what differs.
    pub held: Option<Held>,
    /// Whether [`SubscriberOptions::held`] is in force already.
    pub applied: Option<Ack>,
    /// What a sidecar registers, and whether it is ready to begin with. Without an address it has this host's on the
    /// way to the control plane.
    pub workload: Option<Workload>,
    pub backoff: Backoff,
    pub limits: Limits,
}

impl SubscriberOptions {
    pub fn new(node: Node) -> Self {
        Self {
            node,
            service_account: String::new(),
            token: None,
            held: None,
            applied: None,
            workload: None,
            backoff: Backoff::default(),
            limits: Limits::default(),
        }
    }
}

/// A join token. Its text does not show in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a join token is one line of visible ASCII characters")]
pub struct InvalidToken;

impl Token {
    /// Takes the text without the white space around it.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.is_empty() || text.len() > 512 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[cfg(feature = "server")]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A complete revision, different from the one before.
#[derive(Clone, Debug)]
pub struct Update {
    /// The set at the new revision, and what identifies it. Drop it before asking for the next update: what is still
    /// shared by then has to be copied.
    pub held: Arc<Held>,
    /// What differs from the update before it (or from what the subscriber started with).
    pub changed: Changed,
}

impl Update {
    pub fn revision(&self) -> Revision {
        self.held.set().revision
    }
}

/// How the connection is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Connecting,
    /// The control plane took the proxy in.
    Connected,
    /// Lost or refused; tried again after the wait.
    Waiting {
        reason: String,
        wait: Duration,
    },
}

/// Subscribes a proxy to its scope. Ends when dropped.
#[derive(Debug)]
pub struct Subscriber {
    slot: Arc<Slot>,
    commands: mpsc::UnboundedSender<Command>,
    status: watch::Receiver<Status>,
    trust: watch::Receiver<Option<Arc<Trust>>>,
    driver: JoinHandle<()>,
}

impl Subscriber {
    /// Starts connecting. Must be called inside a tokio runtime with time and I/O.
    pub fn start(options: SubscriberOptions, transport: Arc<dyn Connect>) -> Self {
        let slot = Arc::new(Slot::default());
        let (commands, received) = mpsc::unbounded_channel();
        let (status_sender, status) = watch::channel(Status::Connecting);
        let (trust_sender, trust) = watch::channel(None);
        let driver = Driver::new(options, transport, slot.clone(), received, status_sender, trust_sender);
        Self { slot, commands, status, trust, driver: tokio::spawn(driver.run()) }
    }

    /// The newest revision that was not handed over yet; what came between is merged into it. May be dropped and
    /// called again without losing anything.
    pub async fn next_update(&mut self) -> Update {
        self.slot.take().await
    }

    /// Tells the control plane that `revision` is in force, and what of it is not; again, when that changed. Resources
    /// that this build could not read are added by the subscriber.
    pub fn ack(&self, revision: Revision, issues: Vec<Issue>) {
        self.send(Command::Ack(Ack::new(revision, issues)));
    }

    /// Tells the control plane that nothing of `revision` is in force, although it could be decoded.
    pub fn nack(&self, revision: Revision, issues: Vec<Issue>) {
        self.send(Command::Nack(Nack::decoded(revision, issues)));
    }

    /// Tells the control plane whether the workload can serve now, and why not. Without a workload it means nothing.
    pub fn ready(&self, ready: bool, reason: &str) {
        self.send(Command::Ready(Ready::new(ready, reason)));
    }

    /// Says that the workload serves no more, and ends the connection when the control plane has heard it; it takes at
    /// most [`LEAVE_TIMEOUT`].
    pub async fn leave(self) {
        let (left, leaving) = oneshot::channel();
        self.send(Command::Leave(left));
        // What goes wrong ends the connection too, which says the same a little later.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, leaving).await;
    }

    /// Tells the control plane how the proxy is doing, if that differs from what it was told last.
    pub fn report(&self, report: Report) {
        self.send(Command::Report(report));
    }

    /// Opens another connection, which shows the newest certificate, and goes on over that. What is in force and what is
    /// acknowledged is not touched; while the other cannot be opened, the one there is serves on.
    pub fn reconnect(&self) {
        self.send(Command::Reconnect);
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Whose certificates to accept; nothing until the control plane took the proxy in for the first time.
    pub fn trust(&self) -> watch::Receiver<Option<Arc<Trust>>> {
        self.trust.clone()
    }

    fn send(&self, command: Command) {
        // The driver ends only with the subscriber.
        let _ = self.commands.send(command);
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Hello {
    fn of(SubscriberOptions { node, service_account, workload, .. }: &SubscriberOptions) -> Self {
        let labels: &BTreeMap<String, String> = &node.scope.labels;
        Self {
            node: node.id.clone(),
            namespace: node.scope.namespace.to_string(),
            labels: labels.clone().into_iter().collect(),
            role: role_name(node.scope.role).to_owned(),
            build: node.build.clone(),
            model_version: crate::MODEL_VERSION,
            resume: None,
            applied: None,
            service_account: service_account.clone(),
            workload: workload.clone(),
            uptime: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_trimmed_checked_and_never_shown() {
        let token = Token::new("  fwj_abc.def\n").unwrap();
        assert_eq!(token.bearer(), "Bearer fwj_abc.def");
        assert_eq!(format!("{token:?}"), "Token");
        for bad in ["", " \n", "two words", "line\nbreak", "umlaut-ä"] {
            assert_eq!(Token::new(bad), Err(InvalidToken), "{bad:?}");
        }
    }
}
