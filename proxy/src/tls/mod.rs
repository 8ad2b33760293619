//! TLS: from the terms in a route table to handshakes.
//!
//! [`TlsStore`] turns the terms of listeners into configurations and keeps them from table to table; [`TlsAcceptor`]
//! runs the handshakes of one listener, choosing the server by SNI. `upstream` does the same for connections to
//! upstreams. [`identity`] is TLS between the proxies of the mesh.

pub mod accept;
pub(crate) mod bonds;
pub mod certificate;
mod client_auth;
mod config;
mod curves;
pub mod facts;
pub mod identity;
pub(crate) mod mesh;
mod names;
mod origination;
pub mod store;
mod suites;
#[cfg(test)]
mod tests;
pub(crate) mod trust;
pub(crate) mod upstream;

pub use accept::{Accepted, HandshakeError, TlsAcceptor};
pub use identity::{Identity, Svid, Trust};
pub use store::{TlsContext, TlsStore};
