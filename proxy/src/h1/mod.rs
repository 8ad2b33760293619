//! HTTP/1.1 on both sides of the proxy: strict by construction, and cheap.
//!
//! One parser reads what clients send and what origins answer, and what it does not understand to the letter it
//! refuses; nothing malformed is repaired and passed on (RFC 9112 section 11.2: request smuggling lives on repairs).
//! [`serve`] runs one downstream connection, [`Connection::send`] one exchange on an upstream connection. Neither
//! spawns a task or opens a channel: bodies are polled by whoever wants them, on the connection's own task, so
//! backpressure is polling and a dropped future is a cancelled request.
//!
//! | room | holds |
//! |---|---|
//! | `serve`, `exchange` | a downstream connection: heads, the service, responses, drain, upgrade |
//! | `client`, `response` | an upstream connection: sending, the response and its body |
//! | `tunnel` | an upstream connection that carries bytes of another protocol |
//! | `head`, `fields`, `status` | request heads, header lines, response heads |
//! | `scan`, `names` | finding bytes and recognising names, many bytes at a time |
//! | `body`, `chunked` | request bodies; decoding what is framed by length, by chunks, by close |
//! | `encode`, `output`, `date` | writing heads and bodies |
//! | `input`, `spare`, `timer`, `drain` | read buffers, memory between requests, lazy timers, the drain signal |

mod body;
mod chunked;
mod client;
mod date;
mod drain;
mod encode;
mod exchange;
mod fields;
mod head;
mod input;
mod limits;
mod names;
mod output;
mod response;
mod scan;
mod serve;
mod spare;
mod status;
#[cfg(test)]
mod tests;
mod timer;
mod tunnel;

pub use body::{BodyError, Request, RequestBody};
pub use client::{Connection, ProtocolError, SendError, SendErrorKind};
pub use drain::Drain;
pub(crate) use fields::field_value;
pub use limits::{ClientOptions, Options};
pub use response::{Reclaim, ResponseBody};
pub use serve::{Closed, Outcome, Upgraded, serve};
pub use spare::recycle;
pub use tunnel::{Tunnel, TunnelError};

pub use crate::http::validate::Violation;
