//! How resources travel from the control plane to the proxies.
//!
//! One bidirectional gRPC stream per proxy: the proxy says who it is and what it still holds ([`message::Hello`]),
//! the control plane answers with [`message::Delta`]s, the proxy acknowledges each complete revision
//! ([`message::Ack`]) or refuses it whole ([`message::Nack`]). A delta may come in several parts; the proxy switches
//! to the new revision when the last part is in, so half of a change is never in force anywhere.
//!
//! A server keeps one delta outstanding per proxy. Whatever happens meanwhile is merged into the next one, so a slow
//! proxy gets fewer and larger deltas instead of a queue.
//!
//! - [`client::Subscriber`] is the proxy's end. It reconnects by itself and resumes from what it holds.
//! - `server::PushServer` (feature `server`) is the control plane's end. It serves connections that somebody else
//!   accepted; sets and serialised deltas live in `server::Scope`, shared by all proxies of the same scope.
//! - [`client::sign`] is a call beside the stream: it has a proxy's certificate signed ([`sign::SignRequest`]), which
//!   [`credential::Credential`] then shows in place of the join token.
//! - [`transport`] connects the two: TLS with a pinned CA, or a pipe inside one process.

mod broken;
pub mod client;
pub mod credential;
pub mod declared;
pub mod digest;
pub mod message;
mod rpc;
pub mod sign;
pub mod transport;
pub mod workload;

#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "server")]
#[cfg(test)]
mod tests;

use std::time::Duration;

/// The generation of the resource model that this build understands. It rises when a kind or a field is added that
/// changes what a proxy does, so that a set kept on disk by an older build is not taken for complete, and so that an
/// older proxy is not sent what it does not know.
pub const MODEL_VERSION: u32 = 3;

/// Target size of one part of a delta, in bytes of resource bodies.
pub const PART_BYTES: usize = 1024 * 1024;

/// The largest resource body that travels, in bytes. Parts are cut between resources, so a message can hold one body
/// of this size beside almost [`PART_BYTES`] of others.
pub const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

/// The largest message either end decodes, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// The most issues that an acknowledgement carries; what is beyond is counted in a last issue.
pub const MAX_ISSUES: usize = 1_000;

/// The longest name of a node, a namespace, a label and so on, in bytes.
#[cfg(feature = "server")]
pub(crate) const MAX_NAME_BYTES: usize = 253;

/// How often either end pings an otherwise silent connection, and how long it waits for the answer.
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
