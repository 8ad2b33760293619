//! Upstreams: where requests go, which endpoint takes one, and the connections to it.

pub(crate) mod balance;
pub(crate) mod cluster_state;
pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod dynamic;
pub(crate) mod load;
mod locality;
pub(crate) mod original;
pub(crate) mod outlier;
pub(crate) mod own;
pub(crate) mod peer;
mod placement;
pub(crate) mod pool;
pub(crate) mod resolve;
mod slow_start;
