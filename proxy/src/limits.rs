//! Ceilings. Every one has a default that suits an edge; crossing one is answered, counted and logged, never fatal.

use std::time::Duration;

/// What one client, one connection and the whole process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Downstream connections of the process, over all listeners. Beyond it new ones are closed at once.
    pub max_connections: usize,
    /// TLS handshakes under way on one worker; further ones wait.
    pub max_handshakes: usize,
    /// From accept to the end of the TLS handshake. A PROXY header has as long before.
    pub handshake_timeout: Duration,
    /// From the first byte of a request (or accept) to the end of its head: 408 and close.
    pub header_timeout: Duration,
    /// A keep-alive connection without a request is closed after this time; Envoy: 1 h.
    pub idle_timeout: Duration,
    /// Without a byte of progress on a request or response body for this long the stream ends. `None`: no limit,
    /// as Istio's gateways do unless told otherwise.
    pub stream_idle_timeout: Option<Duration>,
    /// Bytes of an HTTP/1 request head: 431 beyond it; Envoy: 60 KiB.
    pub max_head_bytes: usize,
    /// Header fields of one message; Envoy: 100.
    pub max_headers: usize,
    /// HTTP/2: `SETTINGS_MAX_CONCURRENT_STREAMS`.
    pub h2_max_streams: u32,
    /// HTTP/2: `SETTINGS_MAX_HEADER_LIST_SIZE`.
    pub h2_max_header_list_bytes: u32,
    /// HTTP/2: flow-control window of a stream.
    pub h2_stream_window: u32,
    /// HTTP/2: flow-control window of a connection; at least four streams' worth, or one unread stream starves all.
    pub h2_connection_window: u32,
    /// HTTP/2: bytes buffered per stream towards a slow client.
    pub h2_send_buffer: usize,
    /// HTTP/2: a PING on connections with open streams after this silence …
    pub h2_keep_alive_interval: Duration,
    /// … and this long for the answer before the connection is closed.
    pub h2_keep_alive_timeout: Duration,
    /// HTTP/2: streams that a client reset before they were taken up (rapid reset, CVE-2023-44487).
    pub h2_max_pending_accept_resets: usize,
    /// HTTP/2: streams that a client made us reset (MadeYouReset, CVE-2025-8671).
    pub h2_max_local_error_resets: usize,
    /// Idle upstream connections that one worker keeps per endpoint.
    pub max_idle_per_endpoint: usize,
    /// Idle upstream connections that one worker keeps in all.
    pub max_idle: usize,
    /// Requests at once on one upstream HTTP/2 connection before another is opened.
    pub upstream_h2_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 65_536,
            max_handshakes: 256,
            handshake_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_hours(1),
            stream_idle_timeout: None,
            max_head_bytes: 60 * 1024,
            max_headers: 100,
            h2_max_streams: 100,
            h2_max_header_list_bytes: 60 * 1024,
            h2_stream_window: 64 * 1024,
            h2_connection_window: 1024 * 1024,
            h2_send_buffer: 64 * 1024,
            h2_keep_alive_interval: Duration::from_secs(20),
            h2_keep_alive_timeout: Duration::from_secs(20),
            h2_max_pending_accept_resets: 20,
            h2_max_local_error_resets: 200,
            max_idle_per_endpoint: 1024,
            max_idle: 8192,
            upstream_h2_streams: 100,
        }
    }
}
