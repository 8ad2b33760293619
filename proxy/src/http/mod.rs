//! HTTP between client and upstream: what becomes of a request and its response on the way.

pub mod facts;
pub mod headers;
pub mod normalise;
pub mod validate;
