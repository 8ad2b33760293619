//! From what a client sent to the facts that routing looks at.
//!
//! The data plane runs every head through here before it looks up a route, and [`explain`](crate::explain) does too, so
//! that both decide alike.

pub mod admission;
pub mod claims;
pub mod form;
pub mod headers;
pub mod hop;
pub mod path;
