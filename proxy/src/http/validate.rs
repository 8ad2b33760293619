//! The rules a request head must keep, whichever HTTP version brought it.
//!
//! The HTTP/1 codec applies them while it parses; heads from HTTP/2 pass through [`http2_request`], so that nothing
//! reaches an HTTP/1 origin over HTTP/2 that could not have come over HTTP/1.

use ::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, HOST,
    PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use ::http::{HeaderName, HeaderValue, Method, StatusCode};
use route_model::request::form;
use route_model::request::headers::Headers;
use thiserror::Error;

use crate::http::message::RequestParts;

/// How a client broke the protocol. The connection (HTTP/2: the stream) does not survive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Violation {
    #[error("the request line is malformed")]
    RequestLine,
    #[error("the method is not one that the proxy accepts")]
    Method,
    #[error("CONNECT is not supported")]
    Connect,
    #[error("HTTP/1.0 is not supported")]
    Http10,
    #[error("the protocol version is not HTTP/1.1")]
    Version,
    #[error("the request target is malformed")]
    Target,
    #[error("an https target came over a plaintext connection")]
    SchemeMismatch,
    #[error("a line ends in a bare carriage return or line feed")]
    LineEnd,
    #[error("a header name holds a byte that is no token character, or is empty")]
    HeaderName,
    #[error("a header value holds a control byte")]
    HeaderValue,
    #[error("a header is folded over several lines")]
    LineFolding,
    #[error("the Host header is missing")]
    HostMissing,
    #[error("there are several Host headers, or Host and :authority differ")]
    HostConflict,
    #[error("the Host is malformed")]
    HostMalformed,
    #[error("the Content-Length is repeated or not a plain number")]
    ContentLength,
    #[error("both Content-Length and Transfer-Encoding are present")]
    LengthAndEncoding,
    #[error("the Transfer-Encoding is not exactly chunked")]
    TransferEncoding,
    #[error("a header belongs to one HTTP/1 connection only")]
    ConnectionHeader,
    #[error("the head has too many headers")]
    TooManyHeaders,
    #[error("the head is too large")]
    HeadTooLarge,
    #[error("the head took too long to arrive")]
    HeaderTimeout,
    #[error("a chunk size is malformed or too large")]
    ChunkSize,
    #[error("a chunk extension is too long or malformed")]
    ChunkExtension,
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    #[error("the trailers are malformed or too large")]
    Trailers,
}

impl Violation {
    /// What the client is answered. 4xx; Envoy's choice in each case.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Http10 => StatusCode::UPGRADE_REQUIRED,
            Self::Connect | Self::SchemeMismatch => StatusCode::FORBIDDEN,
            Self::TooManyHeaders | Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeaderTimeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// One word for the access log's response code details.
    pub fn details(self) -> &'static str {
        match self {
            Self::RequestLine => "http1.request_line",
            Self::Method => "http1.method",
            Self::Connect => "connect_refused",
            Self::Http10 => "low_version",
            Self::Version => "http1.version",
            Self::Target => "invalid_path",
            Self::SchemeMismatch => "scheme_mismatch",
            Self::LineEnd => "http1.line_end",
            Self::HeaderName => "invalid_header_name",
            Self::HeaderValue => "invalid_header_value",
            Self::LineFolding => "http1.line_folding",
            Self::HostMissing => "missing_host_header",
            Self::HostConflict => "host_conflict",
            Self::HostMalformed => "invalid_host",
            Self::ContentLength => "content_length",
            Self::LengthAndEncoding => "http1.content_length_and_transfer_encoding",
            Self::TransferEncoding => "http1.transfer_encoding",
            Self::ConnectionHeader => "connection_header",
            Self::TooManyHeaders => "too_many_headers",
            Self::HeadTooLarge => "headers_too_large",
            Self::HeaderTimeout => "request_header_timeout",
            Self::ChunkSize => "http1.chunk_size",
            Self::ChunkExtension => "http1.chunk_extension",
            Self::ChunkEnd => "http1.chunk_end",
            Self::Trailers => "invalid_trailers",
        }
    }
}

/// The authority a request is for: its Host header, else that of its URI (HTTP/2). Empty if Host is.
///
/// Host wins so that an authority rewrite is one `insert` for both versions; on arrival they never differ.
pub fn authority(head: &RequestParts) -> &str {
    match head.headers.get(HOST) {
        // Faster than asking the value for a text, which looks for more than what a text must not be.
        Some(host) => std::str::from_utf8(host.as_bytes()).unwrap_or_default(),
        None => head.uri.authority().map_or("", ::http::uri::Authority::as_str),
    }
}

/// Checks a head that arrived over HTTP/2 and makes it fit to be sent over HTTP/1: cookie crumbs are joined.
///
/// # Errors
/// The request is malformed in the sense of RFC 9113 section 8.1.1, or exceeds `max_headers` fields.
pub fn http2_request(head: &mut RequestParts, max_headers: usize) -> Result<(), Violation> {
    if head.method == Method::CONNECT {
        return Err(Violation::Connect);
    }
    join_cookies(&mut head.headers);
    if head.headers.len() > max_headers {
        return Err(Violation::TooManyHeaders);
    }
    for name in CONNECTION_HEADERS {
        if head.headers.contains_key(name) {
            return Err(Violation::ConnectionHeader);
        }
    }
    if head.headers.get_all(TE).any(|value| !value.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        return Err(Violation::ConnectionHeader);
    }
    content_length(&head.headers)?;
    let mut hosts = head.headers.get_all(HOST);
    match (head.uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) => return Err(Violation::HostConflict),
        (Some(authority), Some(host), None) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Err(Violation::HostConflict);
        }
        (Some(authority), _, None) => host(authority.as_str().as_bytes())?,
        (None, Some(value), None) => host(value.as_bytes())?,
        (None, None, None) => return Err(Violation::HostMissing),
    }
    let path = head.uri.path_and_query().map_or("", ::http::uri::PathAndQuery::as_str);
    let rooted = path.starts_with('/') || path == "*" && head.method == Method::OPTIONS;
    if !rooted || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Violation::Target);
    }
    Ok(())
}

/// RFC 9113 section 8.2.2: these must not appear in HTTP/2.
const CONNECTION_HEADERS: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// RFC 9113 section 8.2.3: HTTP/2 may split Cookie into several fields, HTTP/1 may not.
fn join_cookies(headers: &mut Headers) {
    let mut crumbs = headers.get_all(COOKIE);
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    // Valid values joined by valid bytes are a valid value.
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

/// The method of an HTTP/1 request line; CONNECT is refused.
pub(crate) fn method(bytes: &[u8]) -> Result<Method, Violation> {
    if form::is_method(bytes) {
        return Method::from_bytes(bytes).map_err(|_| Violation::Method);
    }
    Err(if bytes == b"CONNECT" { Violation::Connect } else { Violation::Method })
}

pub(crate) fn host(bytes: &[u8]) -> Result<(), Violation> {
    if form::is_host(bytes) { Ok(()) } else { Err(Violation::HostMalformed) }
}

/// The Content-Length, if there is one: a single line of digits only.
pub(crate) fn content_length(headers: &Headers) -> Result<Option<u64>, Violation> {
    let mut lines = headers.get_all(CONTENT_LENGTH);
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => digits(line.as_bytes()).map(Some).ok_or(Violation::ContentLength),
        (Some(_), Some(_)) => Err(Violation::ContentLength),
    }
}

/// A plain decimal number.
pub(crate) fn digits(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether a field may travel as a trailer. RFC 9110 section 6.5.1: nothing that decides framing, routing,
/// authentication or how the content is read, for whoever merges trailers into the head; nor what the proxy itself
/// vouches for.
pub(crate) fn trailer(name: &HeaderName) -> bool {
    const REFUSED: [HeaderName; 15] = [
        AUTHORIZATION,
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        COOKIE,
        HOST,
        PROXY_AUTHORIZATION,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        HeaderName::from_static("keep-alive"),
    ];
    let text = name.as_str();
    !REFUSED.contains(name)
        && !["x-forwarded-", "x-envoy-", "proxy-", "if-"].iter().any(|prefix| text.starts_with(prefix))
        && !matches!(
            text,
            "forwarded" | "expect" | "max-forwards" | "range" | "cache-control" | "location" | "www-authenticate"
        )
}

#[cfg(test)]
mod tests {
    use ::http::Request;

    use super::*;

    #[test]
    fn methods() {
        assert_eq!(method(b"PURGE").map(|method| method.to_string()), Ok("PURGE".to_owned()));
        assert_eq!(method(b"FOO"), Err(Violation::Method));
        assert_eq!(method(b"CONNECT"), Err(Violation::Connect));
    }

    #[test]
    fn content_lengths() {
        for (lines, expected) in [
            (&[][..], Ok(None)),
            (&["0"], Ok(Some(0))),
            (&["007"], Ok(Some(7))),
            (&["18446744073709551615"], Ok(Some(u64::MAX))),
            (&["18446744073709551616"], Err(Violation::ContentLength)),
            (&[""], Err(Violation::ContentLength)),
            (&["+5"], Err(Violation::ContentLength)),
            (&["-5"], Err(Violation::ContentLength)),
            (&["5,5"], Err(Violation::ContentLength)),
            (&["5 5"], Err(Violation::ContentLength)),
            (&["0x5"], Err(Violation::ContentLength)),
            (&["5", "5"], Err(Violation::ContentLength)),
            (&["5", "6"], Err(Violation::ContentLength)),
        ] {
            let headers = lines.iter().map(|line| (CONTENT_LENGTH, HeaderValue::from_static(line))).collect();
            assert_eq!(content_length(&headers), expected, "{lines:?}");
        }
    }

    #[test]
    fn heads_from_http2() {
        let check = |uri: &str, headers: &[(&'static str, &'static str)]| {
            let mut request = Request::builder().uri(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let mut head = RequestParts::from(request.body(()).unwrap().into_parts().0);
            http2_request(&mut head, 4).map(|()| head)
        };
        assert_eq!(authority(&check("https://a.test/x?y", &[]).unwrap()), "a.test");
        assert_eq!(authority(&check("https://a.test/", &[("host", "A.test")]).unwrap()), "A.test");
        let joined = check("https://a/", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]).unwrap();
        assert_eq!(joined.headers.get_all(COOKIE).collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
        for (uri, headers, expected) in [
            ("https://a/", &[("host", "b")][..], Violation::HostConflict),
            ("https://a/", &[("host", "a"), ("host", "a")], Violation::HostConflict),
            ("/", &[], Violation::HostMissing),
            ("/", &[("host", "a b")], Violation::HostMalformed),
            ("https://u@a/", &[], Violation::HostMalformed),
            ("https://a/", &[("connection", "close")], Violation::ConnectionHeader),
            ("https://a/", &[("keep-alive", "5")], Violation::ConnectionHeader),
            ("https://a/", &[("proxy-connection", "x")], Violation::ConnectionHeader),
            ("https://a/", &[("transfer-encoding", "chunked")], Violation::ConnectionHeader),
            ("https://a/", &[("upgrade", "websocket")], Violation::ConnectionHeader),
            ("https://a/", &[("te", "gzip")], Violation::ConnectionHeader),
            ("https://a/", &[("te", "trailers"), ("te", "deflate")], Violation::ConnectionHeader),
            ("https://a/", &[("content-length", "1"), ("content-length", "1")], Violation::ContentLength),
            ("https://a/\u{e9}", &[], Violation::Target),
            ("https://a/", &[("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", "")], Violation::TooManyHeaders),
        ] {
            assert_eq!(check(uri, headers).map(|_| ()), Err(expected), "{uri} {headers:?}");
        }
        assert!(check("https://a/", &[("te", "trailers")]).is_ok());
    }

    #[test]
    fn trailers() {
        for carried in ["grpc-status", "server-timing", "digest", "x-checksum"] {
            assert!(trailer(&HeaderName::from_static(carried)), "{carried}");
        }
        for dropped in
            ["content-length", "transfer-encoding", "host", "authorization", "x-forwarded-for", "te", "trailer"]
        {
            assert!(!trailer(&HeaderName::from_static(dropped)), "{dropped}");
        }
    }
}
