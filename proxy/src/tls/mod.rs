//! TLS termination.

pub mod facts;
