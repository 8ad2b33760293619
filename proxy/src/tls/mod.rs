//! TLS termination: from the terms in a route table to handshakes.
//!
//! [`TlsStore`] turns terms into configurations and keeps them from table to table; [`TlsAcceptor`] runs the
//! handshakes of one listener, choosing the server by SNI.

pub mod accept;
pub mod certificate;
mod client_auth;
mod config;
pub mod facts;
pub mod store;
mod suites;
#[cfg(test)]
mod tests;

pub use accept::{Accepted, HandshakeError, TlsAcceptor};
pub use store::{TlsContext, TlsStore};
