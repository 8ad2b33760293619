//! Replies that the proxy makes itself, in Envoy's words.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, StatusCode};
use route_model::request::headers::Headers;
use route_model::verdict::authorization::NOT_ALLOWED;

use super::headers::GRPC_STATUS;
use crate::http::message::Response;
use crate::telemetry::flags::ResponseFlags;

const X_ENVOY_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// Why the proxy answers in the upstream's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalReply {
    BadRequest,
    /// The authority does not belong to the TLS server of the connection (RFC 9110 section 15.5.20).
    Misdirected,
    /// By an authorization policy.
    Denied,
    NoRoute,
    NoCluster,
    NoHealthyUpstream,
    /// A ceiling of the cluster is reached.
    Overflow,
    /// No connection could be made.
    ConnectFailure,
    ConnectTimeout,
    /// The upstream was reached, but it could not be agreed with on TLS.
    TlsFailure,
    /// The cluster's terms of TLS have a fault, or none to ask the server for.
    TlsTerms,
    /// The upstream closed the connection before its response began.
    UpstreamClosed,
    /// The upstream reset the stream (HTTP/2).
    UpstreamReset,
    /// It did so with REFUSED_STREAM.
    UpstreamRefusedStream,
    /// The upstream broke the protocol.
    UpstreamProtocol,
    /// The client's body is longer than the route takes.
    PayloadTooLarge,
    /// The client's body was malformed.
    RequestBody,
    /// The client went away before its body was whole.
    RequestAborted,
    /// The client's body stopped coming.
    RequestTimeout,
    /// The route's timeout.
    Timeout,
    /// The time that a gRPC client gave in `grpc-timeout`.
    GrpcDeadline,
    /// One try took too long, and there is no other.
    TryTimeout,
}

impl LocalReply {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::RequestBody | Self::RequestAborted => StatusCode::BAD_REQUEST,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::UpstreamProtocol => StatusCode::BAD_GATEWAY,
            Self::Timeout | Self::GrpcDeadline | Self::TryTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::NoCluster
            | Self::NoHealthyUpstream
            | Self::Overflow
            | Self::ConnectFailure
            | Self::ConnectTimeout
            | Self::TlsFailure
            | Self::TlsTerms
            | Self::UpstreamClosed
            | Self::UpstreamReset
            | Self::UpstreamRefusedStream => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(crate) fn flags(self) -> ResponseFlags {
        match self {
            Self::BadRequest | Self::RequestBody => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
            Self::RequestAborted => ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
            Self::RequestTimeout => ResponseFlags::STREAM_IDLE_TIMEOUT,
            Self::Misdirected | Self::Denied | Self::PayloadTooLarge => ResponseFlags::NONE,
            Self::NoRoute => ResponseFlags::NO_ROUTE,
            Self::NoCluster => ResponseFlags::NO_CLUSTER,
            Self::NoHealthyUpstream => ResponseFlags::NO_HEALTHY_UPSTREAM,
            Self::Overflow => ResponseFlags::UPSTREAM_OVERFLOW,
            Self::ConnectFailure | Self::ConnectTimeout | Self::TlsFailure | Self::TlsTerms => {
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE
            }
            Self::UpstreamClosed => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            Self::UpstreamReset | Self::UpstreamRefusedStream => ResponseFlags::UPSTREAM_REMOTE_RESET,
            Self::UpstreamProtocol => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
            Self::Timeout | Self::GrpcDeadline | Self::TryTimeout => ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
        }
    }

    /// `%RESPONSE_CODE_DETAILS%`.
    pub(crate) fn details(self) -> &'static str {
        match self {
            Self::BadRequest => "path_normalization_failed",
            Self::Misdirected => "misdirected_request",
            Self::Denied => NOT_ALLOWED,
            Self::NoRoute => "route_not_found",
            Self::NoCluster => "cluster_not_found",
            Self::NoHealthyUpstream => "no_healthy_upstream",
            Self::Overflow => "upstream_reset_before_response_started{overflow}",
            Self::ConnectFailure => "upstream_reset_before_response_started{remote_connection_failure}",
            Self::ConnectTimeout => "upstream_reset_before_response_started{connection_timeout}",
            Self::TlsFailure | Self::TlsTerms => {
                "upstream_reset_before_response_started{remote_connection_failure|TLS_error}"
            }
            Self::UpstreamClosed => "upstream_reset_before_response_started{connection_termination}",
            Self::UpstreamReset => "upstream_reset_before_response_started{remote_reset}",
            Self::UpstreamProtocol => "upstream_reset_before_response_started{protocol_error}",
            Self::PayloadTooLarge => "request_payload_too_large",
            Self::RequestBody => "request_body_failed",
            Self::RequestAborted => "downstream_remote_disconnect",
            Self::RequestTimeout => "stream_idle_timeout",
            Self::UpstreamRefusedStream => "upstream_reset_before_response_started{remote_refused_stream_reset}",
            Self::Timeout => "response_timeout",
            Self::GrpcDeadline => "max_duration_timeout",
            Self::TryTimeout => "upstream_per_try_timeout",
        }
    }

    /// The same where the response had begun.
    pub(crate) fn late_details(self) -> &'static str {
        match self {
            Self::UpstreamClosed => "upstream_reset_after_response_started{connection_termination}",
            Self::UpstreamReset | Self::UpstreamRefusedStream => "upstream_reset_after_response_started{remote_reset}",
            Self::UpstreamProtocol => "upstream_reset_after_response_started{protocol_error}",
            other => other.details(),
        }
    }

    /// Empty where Envoy sends no body.
    pub(crate) fn body(self) -> &'static str {
        match self {
            Self::NoRoute | Self::NoCluster | Self::Misdirected => "",
            Self::Denied => "RBAC: access denied",
            Self::PayloadTooLarge => "Payload Too Large",
            Self::BadRequest | Self::RequestBody | Self::RequestAborted => "Bad Request",
            Self::RequestTimeout => "stream timeout",
            Self::NoHealthyUpstream => "no healthy upstream",
            Self::Overflow => "upstream connect error or disconnect/reset before headers. reset reason: overflow",
            Self::ConnectFailure => {
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
            }
            Self::ConnectTimeout => {
                "upstream connect error or disconnect/reset before headers. reset reason: connection timeout"
            }
            // What exactly is for the operator to know; the access log has it.
            Self::TlsFailure | Self::TlsTerms => {
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
                 transport failure reason: TLS_error"
            }
            Self::UpstreamClosed => {
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
            }
            Self::UpstreamReset => {
                "upstream connect error or disconnect/reset before headers. reset reason: remote reset"
            }
            Self::UpstreamProtocol => {
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error"
            }
            Self::UpstreamRefusedStream => {
                "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset"
            }
            Self::Timeout | Self::GrpcDeadline | Self::TryTimeout => "upstream request timeout",
        }
    }

    pub(crate) fn response(self) -> Response<Bytes> {
        let mut response = text_response(self.status(), Bytes::from_static(self.body().as_bytes()));
        if self == Self::Overflow {
            // Tells a proxy in front of this one not to try again.
            response.headers_mut().insert(X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
        }
        if self == Self::GrpcDeadline {
            // DEADLINE_EXCEEDED: what the client's own clock is about to say.
            response.headers_mut().insert(GRPC_STATUS, HeaderValue::from_static("4"));
        }
        response
    }

    /// The same for a gRPC client that already has the head of a response.
    pub(crate) fn grpc_trailers(self) -> Headers {
        let (mut head, _) = grpc_response(self.response()).into_parts();
        head.headers.remove(CONTENT_TYPE);
        head.headers
    }
}

/// Whether a request speaks gRPC: `application/grpc` or `application/grpc+…`.
pub(crate) fn is_grpc(headers: &Headers) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let Some(rest) = value.as_bytes().strip_prefix(b"application/grpc") else { return false };
    matches!(rest.first(), None | Some(b'+' | b';'))
}

/// A reply with a text body, or none.
pub(crate) fn text_response(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    if !body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    // These two never have a length (RFC 9110 section 8.6).
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = body;
    }
    response
}

/// What a reply becomes for a client that speaks gRPC: an error in headers alone ("trailers only") whose message is the
/// reply's body. Other headers stay, as in Envoy, and so does a gRPC status that the reply already has.
pub(crate) fn grpc_response(response: Response<Bytes>) -> Response<Bytes> {
    let (mut head, body) = response.into_parts();
    let status = grpc_status(head.status);
    head.status = StatusCode::OK;
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if !head.headers.contains_key(GRPC_STATUS) {
        head.headers.append(GRPC_STATUS, HeaderValue::from_static(status));
    }
    if !body.is_empty()
        && let Ok(message) = HeaderValue::from_maybe_shared(grpc_message(body))
    {
        head.headers.insert(HeaderName::from_static("grpc-message"), message);
    }
    Response::from_parts(head, Bytes::new())
}

/// A text as `grpc-message` carries it: percent-encoded outside of printable ASCII.
fn grpc_message(text: Bytes) -> Bytes {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
    if text.iter().all(|byte| plain(*byte)) {
        return text;
    }
    let mut encoded = Vec::with_capacity(text.len() + 16);
    for &byte in &text {
        if plain(byte) {
            encoded.push(byte);
        } else {
            encoded.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0x0f)]]);
        }
    }
    encoded.into()
}

/// The gRPC code for an HTTP status, by gRPC's own table (`doc/http-grpc-status-mapping.md`).
fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        // What gRPC itself says to a message that is too long.
        413 => "8",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_clients_get_a_status_in_headers() {
        let mut headers = Headers::new();
        for (content_type, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(is_grpc(&headers), grpc, "{content_type}");
        }
        let response = grpc_response(LocalReply::NoHealthyUpstream.response());
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers().get("grpc-status").unwrap(), "14");
        assert_eq!(response.headers().get("grpc-message").unwrap(), "no healthy upstream");
        assert!(!response.headers().contains_key(CONTENT_LENGTH) && response.body().is_empty());
        let response = grpc_response(text_response(StatusCode::FORBIDDEN, Bytes::from_static("né: 5 %\n".as_bytes())));
        assert_eq!(response.headers().get("grpc-status").unwrap(), "7");
        assert_eq!(response.headers().get("grpc-message").unwrap(), "n%C3%A9: 5 %25%0A");
    }

    #[test]
    fn plain_clients_get_a_status_and_a_text() {
        let response = LocalReply::NoHealthyUpstream.response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers().get(CONTENT_LENGTH).unwrap(), "19");
        assert_eq!(&response.body()[..], b"no healthy upstream");
        let response = LocalReply::NoRoute.response();
        assert_eq!(
            (response.headers().get(CONTENT_LENGTH).unwrap().as_bytes(), response.headers().get(CONTENT_TYPE)),
            (&b"0"[..], None)
        );
    }
}
