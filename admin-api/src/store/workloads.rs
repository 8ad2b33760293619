//! The workloads that sidecars registered.

use jiff::Timestamp;
use push::workload::Workload;

/// What a sidecar registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The sidecar's node id; who comes with it again, to whatever replica, is the same workload.
    pub node: String,
    pub namespace: String,
    /// Empty: not known.
    pub service_account: String,
    pub workload: Workload,
}

/// A registration as it is stored.
#[derive(Clone, Debug)]
pub struct RegisteredWorkload {
    pub registration: Registration,
    /// A number of the sequence of resourceVersions.
    pub version: u64,
    /// Since when it is registered, by the database's clock.
    pub since: Timestamp,
    /// The replica that holds its sidecar's stream.
    pub replica: String,
    /// It left; only a [`Tail`](super::Tail) shows those.
    pub gone: bool,
}
