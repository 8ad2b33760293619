//! Header operations and the `%…%` formatters in their values.

use http::{HeaderMap, HeaderName};

/// One evaluation of header operations: all removes, then all sets, then all adds (Envoy's order, whatever the order
/// in the resource). Values are formatted from the message as it was before the evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderOps {
    pub remove: Box<[HeaderName]>,
    pub set: Box<[(HeaderName, ValueTemplate)]>,
    pub add: Box<[(HeaderName, ValueTemplate)]>,
}

impl HeaderOps {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// A header value with formatters, parsed when the resource is compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueTemplate {
    pub(crate) parts: Box<[TemplatePart]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TemplatePart {
    Literal(Box<[u8]>),
    Command(Command),
}

/// Envoy's command operators that Fairway knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `%REQ(name?alternative):max%`.
    RequestHeader { name: HeaderName, alternative: Option<HeaderName>, max: Option<usize> },
    /// `%REQ(:path)%`, `:method`, `:authority`, `:scheme`.
    RequestPseudo { which: PseudoHeader, max: Option<usize> },
    /// `%RESP(name?alternative):max%`.
    ResponseHeader { name: HeaderName, alternative: Option<HeaderName>, max: Option<usize> },
    /// Any other operator: a fact that the proxy knows.
    Fact(Fact),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PseudoHeader {
    Method,
    Scheme,
    Authority,
    Path,
}

/// Facts about a request that only the proxy knows; the names are Envoy's operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamRemotePort,
    DownstreamDirectRemoteAddress,
    DownstreamDirectRemoteAddressWithoutPort,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    DownstreamLocalPort,
    DownstreamTlsVersion,
    DownstreamTlsCipher,
    DownstreamPeerSubject,
    DownstreamPeerUriSan,
    RequestedServerName,
    Protocol,
    ResponseCode,
    ResponseFlags,
    RouteName,
    VirtualClusterName,
    UpstreamHost,
    UpstreamCluster,
    /// `%START_TIME%` in its default format, ISO 8601 with milliseconds, UTC.
    StartTime,
    /// `%START_TIME(%s)%`: Unix seconds.
    StartTimeSeconds,
    BytesReceived,
    BytesSent,
    Duration,
    Hostname,
    RequestId,
}

/// What a template is formatted from. The proxy implements it over its request context.
pub trait FormatContext {
    fn method(&self) -> &str;
    fn scheme(&self) -> &str;
    fn authority(&self) -> &str;
    /// Path and query as the client sent them (normalised), before any rewrite.
    fn path_and_query(&self) -> &str;
    fn request_headers(&self) -> &HeaderMap;
    /// `None` while there is no response yet.
    fn response_headers(&self) -> Option<&HeaderMap>;
    /// Appends the fact's text; appends nothing where it is not known.
    fn append_fact(&self, fact: Fact, out: &mut Vec<u8>);
}
