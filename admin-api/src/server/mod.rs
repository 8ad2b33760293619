//! The control plane as one thing: opens the store, starts its tasks, and serves its ports.

mod activity;
mod bootstrap;
mod listen;
mod ports;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use route_model::compile::ProxyScope;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::ApiState;
use crate::ca::CaError;
use crate::push_service::PushService;
use crate::store::{Snapshot, StoreError};

pub use bootstrap::{Database, MasterKeySource};

/// How to start a control plane.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the SQLite file, the admin token and the CA certificate are.
    pub data_dir: PathBuf,
    pub database: Database,
    /// The token of the first admin; without one it is read from the data folder or made there.
    pub admin_token: Option<String>,
    /// Plain HTTP; must be a loopback address.
    pub admin_addr: SocketAddr,
    pub admin_tls_addr: SocketAddr,
    pub push_addr: SocketAddr,
    /// Certificate and key of the TLS admin port (PEM files); else Fairway's own CA issues one.
    pub admin_certificate: Option<(PathBuf, PathBuf)>,
    /// Certificate chain and key of the CA (PEM files); else the one kept in the database.
    pub ca: Option<(PathBuf, PathBuf)>,
    /// How long the certificates of proxies are good.
    pub cert_ttl: Duration,
    /// More names by which this server is reached, for the certificates that Fairway's CA issues.
    pub server_names: Vec<String>,
    /// The gateway that changes are checked for before they are stored.
    pub gateway: ProxyScope,
}

/// What was bound.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub admin: SocketAddr,
    pub admin_tls: SocketAddr,
    pub push: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the data folder {path} cannot be used: {error}; choose another by --data-dir")]
    DataDir { path: PathBuf, error: io::Error },
    #[error("cannot listen on {address}: {error}; free the port or choose another by {flag}")]
    Bind { flag: &'static str, address: SocketAddr, error: io::Error },
    #[error(
        "--admin-addr {0} is no loopback address: the plain port carries the admin token in clear text; \
         use --admin-tls-addr to be reached from elsewhere"
    )]
    PlainNotLoopback(SocketAddr),
    #[error(
        "a Postgres database needs the master key that its secrets are sealed under: name a file by --master-key-file \
         or set FAIRWAY_MASTER_KEY (32 random bytes in base64: `openssl rand -base64 32`)"
    )]
    MasterKeyRequired,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error("the certificate of {flag} cannot be used: {error}")]
    Tls { flag: &'static str, error: rustls::Error },
    #[error("--cert-ttl must be 10s to 90d: proxies renew their certificates within it")]
    CertTtl,
    #[error("the operating system gives no random bytes")]
    Random,
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    pub bound: Bound,
    pub snapshot: Snapshot,
    api: ApiState,
    push: Arc<PushService>,
    shutdown: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl ControlPlane {
    /// Opens the store and starts to serve; everything is bound when this returns.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        bootstrap::start(options).await
    }

    /// A connection of a proxy in this very process; it needs no token.
    pub fn local_transport(&self) -> push::transport::PipeTransport {
        self.push.local_transport()
    }

    /// Stops accepting, lets open requests finish shortly, and closes the store.
    pub async fn stop(mut self) {
        self.api.end_streams();
        // An error means that nothing runs any more.
        let _ = self.shutdown.send(true);
        while self.tasks.join_next().await.is_some() {}
        self.snapshot.store().close().await;
    }
}
