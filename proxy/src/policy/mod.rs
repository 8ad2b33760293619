//! What routes do to their traffic beside sending it on, one room each.

pub(crate) mod authorization;
pub(crate) mod fault;
pub(crate) mod jwt;
pub(crate) mod mirror;
pub(crate) mod rate_limit;
