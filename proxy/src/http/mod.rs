//! HTTP between client and upstream: what becomes of a request and its response on the way.

pub(crate) mod attempts;
pub(crate) mod body;
pub(crate) mod context;
pub(crate) mod deadline;
pub mod facts;
pub(crate) mod forward;
pub mod headers;
pub(crate) mod local_reply;
pub mod message;
pub(crate) mod outgoing;
pub(crate) mod request;
pub(crate) mod rewound;
pub(crate) mod serve;
pub(crate) mod upgrade;
pub mod validate;
