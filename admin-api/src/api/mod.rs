//! The REST API: resources in Kubernetes' style, and Fairway's own calls beside them.
//!
//! One set of handlers serves every kind: a [`Target`](path::Target) names a kind by the URL, [`admission`] turns what
//! a client sent into what is stored, [`writes`] checks it against everything else and commits it, and [`call`] shows
//! it with its derived [`status`].

mod admission;
mod age;
mod apply;
mod body;
mod call;
mod compilation;
mod discovery;
mod error;
mod events;
mod explorer;
mod fairway;
mod generate_name;
mod namespaces;
mod negotiate;
mod openapi;
mod patch;
mod path;
mod protobuf;
mod query;
mod resources;
mod reviews;
mod router;
mod secrets;
mod selector;
mod state;
mod status;
mod status_book;
mod table;
mod watch;
mod writes;

pub(crate) use self::body::{MAX_OBJECT, read as read_body};
pub use self::error::ApiError;
pub use self::fairway::Problem;
pub use self::namespaces::ensure_initial as ensure_initial_namespaces;
pub use self::router::router;
pub use self::state::ApiState;
pub(crate) use self::status::Keys;
pub use self::status::{Acks, ProxyAck, ProxyIssue, Reach};
