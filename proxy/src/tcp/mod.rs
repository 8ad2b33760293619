//! Connections that are not HTTP to this proxy: raw TCP, TLS that is passed through, and what is inside TLS that is
//! terminated. Each goes to one endpoint and is copied both ways until both ends are done.

mod hello;
mod relay;
mod serve;

pub(crate) use hello::{Hello, read_hello};
pub(crate) use relay::Buffers;
pub(crate) use serve::{Entrance, serve};
