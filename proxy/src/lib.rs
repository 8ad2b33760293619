//! How traffic moves: the data plane that gateway and sidecar share.
//!
//! A [`Proxy`] is handed compiled [`RouteTable`](route_model::table::RouteTable)s and serves them. It knows nothing
//! of resources' JSON, of the control plane or of any database.

mod admin_port;
mod control;
mod drain;
pub mod h1;
pub mod http;
mod limits;
mod listener;
mod mesh;
mod options;
mod policy;
mod process;
mod proxy;
mod proxy_protocol;
mod rt;
mod runtime_table;
mod table_builder;
mod tcp;
pub mod telemetry;
pub mod tls;
pub mod upstream;
mod worker;

pub use limits::Limits;
pub use listener::original_dst::original_destination;
pub use options::{AccessLogFormat, ListenAddr, Options, OwnTraffic, ProxyIdentity};
pub use proxy::{ApplyReport, BoundListener, BoundPorts, Issue, Proxy, StartError, reason};
pub use tls::identity::{self, Identity, IdentityError, Svid, Trust};
pub use upstream::own::{can_mark, set_mark};
