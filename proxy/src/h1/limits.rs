//! What one connection may use.

use std::time::Duration;

/// The terms of a downstream connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// The connection is encrypted: an `https://` target is welcome.
    pub tls: bool,
    /// Bytes of a request head, request line included; more is 431.
    pub max_head_bytes: usize,
    /// Header fields of a request; more is 431.
    pub max_headers: usize,
    /// From the first byte of a head to its last; later is 408.
    pub header_timeout: Duration,
    /// Without a request for this long the connection is closed.
    pub idle_timeout: Duration,
    /// While the service waits for the request body: without a byte of it for this long the body fails with
    /// [`BodyError::Timeout`](super::BodyError::Timeout). `None`: no limit.
    pub body_timeout: Option<Duration>,
    /// The client takes no byte of a response for this long: the connection is closed.
    pub write_timeout: Duration,
    /// What is left of a request body that nobody wanted is read up to this many bytes, so that the connection can go
    /// on; it is closed if there is more.
    pub discard_bytes: u64,
    /// … and for this long at most.
    pub discard_time: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: false,
            max_head_bytes: 60 * 1024,
            max_headers: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_hours(1),
            body_timeout: None,
            write_timeout: Duration::from_mins(1),
            discard_bytes: 64 * 1024,
            discard_time: Duration::from_secs(1),
        }
    }
}

/// The terms of an upstream connection.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// Bytes of a response head; more is a [`ProtocolError`](super::ProtocolError).
    pub max_head_bytes: usize,
    /// Header fields of a response.
    pub max_headers: usize,
    /// How long a request with `Expect: 100-continue` waits for the origin's word before its body is sent anyway
    /// (RFC 9110 section 10.1.1: not indefinitely).
    pub continue_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { max_head_bytes: 60 * 1024, max_headers: 100, continue_timeout: Duration::from_secs(1) }
    }
}

/// Interim responses before the final one; an origin that sends more is broken.
pub(super) const MAX_INTERIM_RESPONSES: usize = 16;
/// Bytes of one chunk's size line.
pub(super) const MAX_CHUNK_LINE: usize = 1024;
/// Bytes of chunk extensions in one body.
pub(super) const MAX_CHUNK_EXTENSIONS: usize = 16 * 1024;
/// Bytes of a trailer section.
pub(super) const MAX_TRAILER_BYTES: usize = 8 * 1024;
/// Fields of a trailer section.
pub(super) const MAX_TRAILERS: usize = 32;
/// A read buffer, and what is read ahead of a request that is being served.
pub(super) const BUFFER: usize = 8 * 1024;
/// What one read may ask for while a large body passes.
pub(super) const MAX_READ: usize = 64 * 1024;
/// Output is gathered to this size before it is written.
pub(super) const GATHER: usize = 16 * 1024;
/// Body frames up to this size are copied behind the head, so that one plain write does.
pub(super) const COPY: usize = 4 * 1024;
