//! What a proxy tells about its traffic: response flags, metrics and the access log.
//!
//! Workers only write, each to cells of its own; whoever reads (a scrape, the log's writer) does so on another thread.

pub mod access_log;
pub(crate) mod authorization;
pub mod cells;
pub(crate) mod certificate;
pub mod connections;
pub mod exposition;
pub mod flags;
pub(crate) mod keys;
mod labels;
pub mod log_line;
pub mod metrics;
pub(crate) mod rate_limits;
pub(crate) mod refusals;
pub mod registry;
pub mod requests;
pub mod source;
pub mod stat_prefixes;
