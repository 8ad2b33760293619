//! Putting heads and bodies on the wire. Framing headers are the codec's own: what the message carries of them is
//! replaced by what is really sent, so no combination of headers can produce invalid framing.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, StatusCode};
use http_body::SizeHint;
use route_model::request::headers::Headers;
use route_model::request::hop::lists;
use thiserror::Error;

use super::chunked::Length;
use super::date;
use super::output::Output;
use crate::http::message::{RequestParts, ResponseParts};
use crate::http::validate;

/// How the body of a message that is being sent is framed, and how much of it is left.
#[derive(Debug)]
pub(super) struct Encoder {
    length: Length,
    done: bool,
}

/// A body that is not as long as its head said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum LengthError {
    #[error("the body is shorter than its content-length")]
    Short,
    #[error("the body is longer than its content-length")]
    Long,
}

impl Encoder {
    fn new(length: Length) -> Self {
        Self { length, done: length == Length::Exact(0) }
    }

    /// Nothing is left to be sent.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Puts body bytes into `output`; `last` if it is known that none follow.
    pub(super) fn data(&mut self, data: Bytes, last: bool, output: &mut Output) -> Result<(), LengthError> {
        match &mut self.length {
            Length::Exact(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(LengthError::Long)?;
                self.done = *left == 0;
                if !data.is_empty() {
                    output.push(data, b"");
                }
                if last && *left > 0 { Err(LengthError::Short) } else { Ok(()) }
            }
            Length::Chunked => {
                self.done = last;
                if data.is_empty() {
                    // An empty chunk would be the end.
                    if last {
                        output.small().extend_from_slice(b"0\r\n\r\n");
                    }
                    return Ok(());
                }
                push_hex(data.len(), output.small());
                output.small().extend_from_slice(b"\r\n");
                output.push(data, if last { b"\r\n0\r\n\r\n" } else { b"\r\n" });
                Ok(())
            }
            Length::UntilClose => {
                self.done = last;
                output.push(data, b"");
                Ok(())
            }
        }
    }

    /// The body is over; with trailers, where the framing can carry them.
    pub(super) fn end(&mut self, trailers: Option<&HeaderMap>, output: &mut Output) -> Result<(), LengthError> {
        if self.done {
            return Ok(());
        }
        self.done = true;
        match self.length {
            Length::Exact(_) => Err(LengthError::Short),
            Length::UntilClose => Ok(()),
            Length::Chunked => {
                let out = output.small();
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| validate::trailer(name)) {
                    push_field(name, value, out);
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

/// Writes a response head. Of Connection only `close` is kept; `keep_alive` says whether the connection may go on, and
/// then whether it does.
pub(super) fn response_head(
    head: &ResponseParts,
    method: &Method,
    body: &SizeHint,
    keep_alive: &mut bool,
    output: &mut Output,
) -> Encoder {
    let out = output.small();
    push_status(head.status, out);
    let mut dated = false;
    for (name, value) in &head.headers {
        if !is_framing(name) && name != UPGRADE {
            dated |= name == DATE;
            push_field(name, value, out);
        } else if name == CONNECTION {
            *keep_alive &= !lists(value, "close");
        }
    }
    if !dated {
        out.extend_from_slice(b"date: ");
        date::append(out);
        out.extend_from_slice(b"\r\n");
    }
    let declared = || validate::content_length(&head.headers).ok().flatten();
    let (announced, length) = if *method == Method::HEAD {
        (declared().or(body.exact().filter(|&length| length > 0)), Length::Exact(0))
    } else if head.status == StatusCode::NOT_MODIFIED {
        (declared(), Length::Exact(0))
    } else if head.status == StatusCode::NO_CONTENT {
        (None, Length::Exact(0))
    } else {
        match body.exact().or_else(declared) {
            Some(length) => (Some(length), Length::Exact(length)),
            None => (None, Length::Chunked),
        }
    };
    push_framing(announced, length, out);
    if !*keep_alive {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Encoder::new(length)
}

/// Writes the head of a 101 response.
pub(super) fn switching_head(head: &ResponseParts, output: &mut Output) {
    let out = output.small();
    push_status(head.status, out);
    for (name, value) in head.headers.iter().filter(|(name, _)| !is_framing(name)) {
        push_field(name, value, out);
    }
    out.extend_from_slice(b"connection: upgrade\r\n\r\n");
}

fn push_status(status: StatusCode, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes a request head. Host comes first, and from the URI if there is no such header.
pub(super) fn request_head(head: &RequestParts, body: &SizeHint, output: &mut Output) -> Encoder {
    let out = output.small();
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    let authority = head.headers.get(HOST).map(HeaderValue::as_bytes);
    let authority = authority.or_else(|| Some(head.uri.authority()?.as_str().as_bytes()));
    out.extend_from_slice(authority.unwrap_or_default());
    out.extend_from_slice(b"\r\n");
    let (mut upgrade, mut announces) = (false, false);
    for (name, value) in &head.headers {
        if !is_framing(name) && name != HOST {
            upgrade |= name == UPGRADE;
            push_field(name, value, out);
        } else {
            announces |= name == CONTENT_LENGTH;
        }
    }
    if upgrade {
        out.extend_from_slice(b"connection: upgrade\r\n");
    }
    let length = body.exact().map_or(Length::Chunked, Length::Exact);
    let expects_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    let announced = match length {
        Length::Exact(0) => (expects_body || announces).then_some(0),
        Length::Exact(length) => Some(length),
        _ => None,
    };
    push_framing(announced, length, out);
    out.extend_from_slice(b"\r\n");
    Encoder::new(length)
}

/// Whether the sender of these headers waits for `100 Continue`.
pub(super) fn expects_continue(headers: &Headers) -> bool {
    headers.get_all(EXPECT).any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn push_framing(announced: Option<u64>, length: Length, out: &mut Vec<u8>) {
    if let Some(announced) = announced {
        out.extend_from_slice(b"content-length: ");
        out.extend_from_slice(itoa::Buffer::new().format(announced).as_bytes());
        out.extend_from_slice(b"\r\n");
    } else if length == Length::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
}

/// Fields that the codec writes itself. Judged by length first.
fn is_framing(name: &HeaderName) -> bool {
    match name.as_str().len() {
        10 => name == CONNECTION || name == "keep-alive",
        14 => name == CONTENT_LENGTH,
        16 => name == "proxy-connection",
        17 => name == TRANSFER_ENCODING,
        _ => false,
    }
}

fn push_field(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn push_hex(value: usize, out: &mut Vec<u8>) {
    let digits = (usize::BITS - value.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[value >> (digit * 4) & 15]);
    }
}
