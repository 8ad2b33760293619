//! Response heads, as origins send them. What is not understood to the letter is an error, never a guess.

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HeaderValue};
use http::{Method, StatusCode, Version};

use super::chunked::Length;
use super::client::ProtocolError;
use super::fields::Lines;
use super::head::Framing;
use super::{ClientOptions, spare};
use crate::http::message::Response;

/// A response head and what it says about the bytes behind it.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) response: Response<()>,
    pub(super) length: Length,
    pub(super) keep_alive: bool,
}

/// Takes a head off the front of `buffer` once it is there whole.
pub(super) fn take(
    buffer: &mut BytesMut,
    lines: &mut Lines,
    options: &ClientOptions,
    method: &Method,
) -> Result<Option<ResponseHead>, ProtocolError> {
    const START: &[u8] = b"HTTP/1.";
    let known = buffer.len().min(START.len());
    if buffer[..known] != START[..known] {
        return Err(ProtocolError::StatusLine);
    }
    let found = lines.find_end(buffer, options.max_headers + 1).map_err(ProtocolError::Head)?;
    if found.unwrap_or(buffer.len()) > options.max_head_bytes {
        return Err(ProtocolError::HeadTooLarge);
    }
    let Some(end) = found else { return Ok(None) };
    let head = buffer.split_to(end).freeze();
    let parsed = parse(&head, lines, method);
    lines.clear();
    parsed.map(Some)
}

fn parse(head: &Bytes, lines: &Lines, method: &Method) -> Result<ResponseHead, ProtocolError> {
    let (version, status) = status_line(lines.first(head)).ok_or(ProtocolError::StatusLine)?;
    let mut headers = spare::headers();
    let mut framing = Framing::default();
    lines
        .parse(head, 1, |name, value| {
            framing.note_shared(&name, &value)?;
            // What is about this connection alone and has been taken note of is no use to anybody else.
            if name != CONNECTION || !is_persistence(&value) {
                headers.append(name, value);
            }
            Ok(())
        })
        .map_err(ProtocolError::Head)?;
    let declared = framing.length().map_err(ProtocolError::Head)?;
    let keep_alive = match version {
        Version::HTTP_11 => !framing.close,
        _ => !framing.close && framing.keep_alive,
    };
    if version != Version::HTTP_11 && declared == Length::Chunked {
        return Err(ProtocolError::ChunkedHttp10);
    }
    // RFC 9112 section 6.3, in its order.
    let bodiless = method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let length = if bodiless {
        Length::Exact(0)
    } else if framing.is_framed() {
        declared
    } else {
        Length::UntilClose
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(ResponseHead { response, length, keep_alive: keep_alive && length != Length::UntilClose })
}

/// `HTTP/1.x SP 3DIGIT [SP reason]`.
fn status_line(line: &[u8]) -> Option<(Version, StatusCode)> {
    let (version, rest) = match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b' ', rest @ ..] => (Version::HTTP_11, rest),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', b' ', rest @ ..] => (Version::HTTP_10, rest),
        _ => return None,
    };
    let (code, reason) = rest.split_at_checked(3)?;
    let reason_is_valid = match reason {
        [] => true,
        [b' ', reason @ ..] => reason.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)),
        _ => false,
    };
    let status = StatusCode::from_bytes(code).ok()?;
    (reason_is_valid && status.as_u16() < 600).then_some((version, status))
}

/// A Connection header that names no other header.
fn is_persistence(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"keep-alive") || value.as_bytes().eq_ignore_ascii_case(b"close")
}
