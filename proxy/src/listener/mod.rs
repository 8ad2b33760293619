//! Listeners: which sockets a table asks for, binding them, and accepting on them.
//!
//! A socket is keyed by address and port only. Protocol, TLS and hosts are read from the table when a connection is
//! accepted, so only a port that vanished closes a socket and a reload never loses an accept queue.

pub(crate) mod accept;
pub(crate) mod bind;
pub(crate) mod original_dst;
pub(crate) mod retry;
pub(crate) mod sockets;

use std::net::IpAddr;

/// What a socket is for: the address and the Gateway port (which the port map leads to a real one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ListenerKey {
    pub(crate) port: u16,
    pub(crate) addr: IpAddr,
}

/// Names one binding of a listener; never used again in the process, so that a connection of a listener that was
/// removed cannot be taken for one of a listener that came later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ListenerId(pub(crate) u32);
