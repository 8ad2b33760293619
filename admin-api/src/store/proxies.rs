//! What replicas write down about the proxies connected to them, so that every replica can answer for all.

use jiff::Timestamp;
use route_model::meta::Revision;
use serde_json::Value;

/// A proxy as the replica it is connected to knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyState {
    /// The proxy's id; a proxy that reconnects, to whatever replica, keeps it.
    pub node: String,
    /// The replica that wrote this. Filled in by the store on read.
    pub replica: String,
    pub connected: bool,
    /// The newest revision that it acknowledged.
    pub acked: Revision,
    /// The newest revision that was sent to it.
    pub sent: Revision,
    /// What it could not put in force, as it reported it with its last acknowledgement.
    pub issues: Value,
    /// Role, namespace, labels, build, model version, address, since when …; the push service defines the shape.
    pub info: Value,
    /// When the replica last wrote this, by the database's clock. Filled in by the store.
    pub seen: Timestamp,
}

impl ProxyState {
    /// The id of the token that it joined with.
    pub fn join_token(&self) -> Option<&str> {
        self.info.get("joinToken")?.as_str()
    }
}
