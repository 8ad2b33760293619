//! How traffic moves: the data plane that gateway and sidecar share.
//!
//! A [`Proxy`] is handed compiled [`RouteTable`](route_model::table::RouteTable)s and serves them. It knows nothing
//! of resources' JSON, of the control plane or of any database.

mod limits;
mod options;
mod proxy;
mod upstream;

pub use limits::Limits;
pub use options::{AccessLogFormat, ListenAddr, Options, ProxyIdentity};
pub use proxy::{ApplyReport, BoundListener, BoundPorts, Issue, Proxy, StartError, reason};
