//! What is decided about a request beside its route, from its head and given facts.

pub mod authentication;
pub mod authorization;
pub mod cors;
pub mod limits;
