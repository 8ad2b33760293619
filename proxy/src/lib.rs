//! How traffic moves: the data plane that gateway and sidecar share.
//!
//! A [`Proxy`] is handed compiled [`RouteTable`](route_model::table::RouteTable)s and serves them. It knows nothing
//! of resources' JSON, of the control plane or of any database.

pub mod h1;
pub mod http;
mod limits;
mod options;
mod proxy;
pub mod telemetry;
pub mod tls;
pub mod upstream;

pub use limits::Limits;
pub use options::{AccessLogFormat, ListenAddr, Options, ProxyIdentity};
pub use proxy::{ApplyReport, BoundListener, BoundPorts, Issue, Proxy, StartError, reason};
