//! Request heads: the byte guard.
//!
//! RFC 9112 to the letter, narrowed where Envoy is narrower (methods, HTTP/1.0) and where leniency is how requests are
//! smuggled: nothing is repaired. Header values are slices of the read buffer.

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Uri, Version};
use route_model::request::hop::lists;
use route_model::request::path;

use super::chunked::Length;
use super::fields::Lines;
use super::scan::find;
use super::{Options, spare};
use crate::http::message::RequestParts;
use crate::http::validate::{self, Violation};

/// A request head and what it says about the bytes behind it.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) parts: Box<RequestParts>,
    pub(super) length: Length,
    pub(super) expects_continue: bool,
    pub(super) keep_alive: bool,
}

/// Takes a head off the front of `buffer` once it is there whole.
pub(super) fn take(
    buffer: &mut BytesMut,
    lines: &mut Lines,
    options: &Options,
) -> Result<Option<RequestHead>, Violation> {
    // RFC 9112 section 2.2: an empty line before the request line is ignored; one.
    if lines.len() == 0 && buffer.starts_with(b"\r\n") {
        let _ = buffer.split_to(2);
        lines.clear();
    }
    match buffer.first() {
        None => return Ok(None),
        Some(b'A'..=b'Z') => {}
        Some(b'\r') if buffer.len() == 1 => return Ok(None),
        Some(b'a'..=b'z') => return Err(Violation::Method),
        // Not HTTP/1 at all (say, a TLS handshake on a plaintext port): no use in waiting for more.
        Some(_) => return Err(Violation::RequestLine),
    }
    // One line is the request line.
    let found = lines.find_end(buffer, options.max_headers + 1)?;
    if found.unwrap_or(buffer.len()) > options.max_head_bytes {
        return Err(Violation::HeadTooLarge);
    }
    let Some(end) = found else { return Ok(None) };
    let head = buffer.split_to(end).freeze();
    let parsed = parse(&head, lines, options);
    lines.clear();
    parsed.map(Some)
}

fn parse(head: &Bytes, lines: &Lines, options: &Options) -> Result<RequestHead, Violation> {
    let line = lines.first(head);
    let first_space = find(b' ', line).ok_or(Violation::RequestLine)?;
    let second_space = find(b' ', &line[first_space + 1..]).ok_or(Violation::RequestLine)? + first_space + 1;
    version(&line[second_space + 1..])?;
    let method = validate::method(&line[..first_space])?;
    let target = target(head, first_space + 1, second_space, &method, options.tls)?;

    let mut parts = spare::head();
    let mut framing = Framing::default();
    lines.parse(head, 1, |name, value| {
        framing.note(&name, &value)?;
        parts.headers.append(name, value);
        Ok(())
    })?;
    match framing.hosts {
        0 => return Err(Violation::HostMissing),
        1 => {}
        _ => return Err(Violation::HostConflict),
    }
    if let Some(authority) = target.authority {
        parts.headers.insert(HOST, authority);
    }

    parts.method = method;
    parts.uri = target.uri;
    parts.version = Version::HTTP_11;
    let length = framing.length()?;
    let expects_continue = framing.expects_continue && length != Length::Exact(0);
    Ok(RequestHead { parts, length, expects_continue, keep_alive: !framing.close })
}

fn version(bytes: &[u8]) -> Result<(), Violation> {
    match bytes {
        b"HTTP/1.1" => Ok(()),
        b"HTTP/1.0" => Err(Violation::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(Violation::Version)
        }
        _ => Err(Violation::RequestLine),
    }
}

/// What the header lines say about framing and the connection.
#[derive(Debug, Default)]
pub(super) struct Framing {
    content_length: Option<u64>,
    chunked: bool,
    hosts: usize,
    expects_continue: bool,
    pub(super) close: bool,
    /// Said in so many words, which HTTP/1.0 has to.
    pub(super) keep_alive: bool,
}

impl Framing {
    /// Takes note of a request's header line. Judged by the length of its name first: most lines are none of these.
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Violation> {
        match name.as_str().len() {
            4 if name == HOST => {
                validate::host(value.as_bytes())?;
                self.hosts += 1;
                Ok(())
            }
            6 if name == EXPECT => {
                self.expects_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
                Ok(())
            }
            _ => self.note_shared(name, value),
        }
    }

    /// Takes note of what requests and responses have in common.
    pub(super) fn note_shared(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Violation> {
        match name.as_str().len() {
            10 if name == CONNECTION => match value.as_bytes() {
                // As nearly everybody writes it.
                b"keep-alive" => self.keep_alive = true,
                b"close" => self.close = true,
                _ => {
                    self.close |= lists(value, "close");
                    self.keep_alive |= lists(value, "keep-alive");
                }
            },
            14 if name == CONTENT_LENGTH => {
                if self.content_length.is_some() {
                    return Err(Violation::ContentLength);
                }
                self.content_length = Some(validate::digits(value.as_bytes()).ok_or(Violation::ContentLength)?);
            }
            17 if name == TRANSFER_ENCODING => {
                if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 section 6.3 for requests.
    pub(super) fn length(&self) -> Result<Length, Violation> {
        match (self.chunked, self.content_length) {
            (true, Some(_)) => Err(Violation::LengthAndEncoding),
            (true, None) => Ok(Length::Chunked),
            (false, length) => Ok(Length::Exact(length.unwrap_or(0))),
        }
    }

    /// Whether any line framed a body.
    pub(super) fn is_framed(&self) -> bool {
        self.chunked || self.content_length.is_some()
    }
}

struct Target {
    uri: Uri,
    /// Of the absolute form: it replaces Host (RFC 9112 section 3.2.2).
    authority: Option<HeaderValue>,
}

fn target(head: &Bytes, start: usize, end: usize, method: &Method, tls: bool) -> Result<Target, Violation> {
    let bytes = &head[start..end];
    match bytes {
        [b'/', ..] => Ok(Target { uri: origin_form(head.slice(start..end))?, authority: None }),
        [b'*'] if method == Method::OPTIONS => Ok(Target { uri: Uri::from_static("*"), authority: None }),
        _ => absolute_form(head, start, end, tls),
    }
}

fn absolute_form(head: &Bytes, start: usize, end: usize, tls: bool) -> Result<Target, Violation> {
    let bytes = &head[start..end];
    let scheme = find(b':', bytes).ok_or(Violation::Target)?;
    if !bytes[scheme..].starts_with(b"://") {
        return Err(Violation::Target);
    }
    if bytes[..scheme].eq_ignore_ascii_case(b"https") {
        if !tls {
            return Err(Violation::SchemeMismatch);
        }
    } else if !bytes[..scheme].eq_ignore_ascii_case(b"http") {
        return Err(Violation::Target);
    }
    let from = scheme + 3;
    let authority_end =
        bytes[from..].iter().position(|byte| b"/?#\\".contains(byte)).map_or(bytes.len(), |at| from + at);
    let authority = head.slice(start + from..start + authority_end);
    if authority.is_empty() {
        return Err(Violation::Target);
    }
    validate::host(&authority).map_err(|_| Violation::Target)?;
    let authority = HeaderValue::from_maybe_shared(authority).map_err(|_| Violation::Target)?;
    let path = head.slice(start + authority_end..end);
    let uri = if path.starts_with(b"/") {
        origin_form(path)?
    } else {
        let mut rooted = Vec::with_capacity(path.len() + 1);
        rooted.push(b'/');
        rooted.extend_from_slice(&path);
        origin_form(rooted.into())?
    };
    Ok(Target { uri, authority: Some(authority) })
}

/// A path with query. What `Uri` refuses although Envoy does not is escaped; a fragment is cut off.
fn origin_form(bytes: Bytes) -> Result<Uri, Violation> {
    let escaped = path::escape(&bytes).map_err(|_| Violation::Target)?;
    Uri::from_maybe_shared(escaped.map_or(bytes, Bytes::from)).map_err(|_| Violation::Target)
}
