//! Taking bodies off the wire: by length, by chunks, or until the connection closes.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use memchr::memchr;

use super::fields::{self, Lines};
use super::limits::{MAX_CHUNK_EXTENSIONS, MAX_CHUNK_LINE, MAX_TRAILER_BYTES, MAX_TRAILERS};
use crate::http::validate::Violation;

/// How a message says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Exact(u64),
    Chunked,
    /// Responses only.
    UntilClose,
}

/// What the received bytes hold next.
#[derive(Debug, PartialEq)]
pub(super) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is complete; what follows in the buffer is another message.
    End,
    /// Nothing more can be told before more has been read.
    More,
}

/// Takes one body off the front of a read buffer.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
}

#[derive(Debug)]
enum State {
    Exact(u64),
    UntilClose,
    Chunked { step: Step, extensions: usize },
    Done,
}

#[derive(Debug)]
enum Step {
    Size,
    Data(u64),
    DataEnd,
    Trailers(Box<Lines>),
}

impl Decoder {
    pub(super) fn new(length: Length) -> Self {
        let state = match length {
            Length::Exact(0) => State::Done,
            Length::Exact(length) => State::Exact(length),
            Length::Chunked => State::Chunked { step: Step::Size, extensions: 0 },
            Length::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The bytes still to come, where that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Exact(left) => Some(left),
            State::Done => Some(0),
            State::Chunked { .. } | State::UntilClose => None,
        }
    }

    /// The stream ended: whether the body may end here.
    pub(super) fn end_of_stream(&mut self) -> bool {
        if matches!(self.state, State::UntilClose) {
            self.state = State::Done;
        }
        self.is_done()
    }

    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Violation> {
        match &mut self.state {
            State::Done => Ok(Decoded::End),
            _ if buffer.is_empty() => Ok(Decoded::More),
            State::UntilClose => Ok(Decoded::Data(buffer.split().freeze())),
            State::Exact(left) => {
                let data = split_up_to(buffer, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    self.state = State::Done;
                }
                Ok(Decoded::Data(data))
            }
            State::Chunked { step, extensions } => {
                let decoded = decode_chunked(step, extensions, buffer)?;
                // After the last data, see at once whether the end has arrived too: it saves a poll.
                if matches!(decoded, Decoded::End | Decoded::Trailers(_))
                    || matches!(decoded, Decoded::Data(_)) && matches!(step, Step::DataEnd) && take_plain_end(buffer)
                {
                    self.state = State::Done;
                }
                Ok(decoded)
            }
        }
    }
}

fn split_up_to(buffer: &mut BytesMut, limit: u64) -> Bytes {
    if buffer.len() as u64 <= limit {
        return buffer.split().freeze();
    }
    buffer.split_to(limit as usize).freeze()
}

/// The end of the last data chunk and a last chunk without extensions or trailers, if they are there.
fn take_plain_end(buffer: &mut BytesMut) -> bool {
    const END: &[u8] = b"\r\n0\r\n\r\n";
    let ends = buffer.starts_with(END);
    if ends {
        let _ = buffer.split_to(END.len());
    }
    ends
}

fn decode_chunked(step: &mut Step, extensions: &mut usize, buffer: &mut BytesMut) -> Result<Decoded, Violation> {
    loop {
        match step {
            Step::Size => {
                let Some(size) = take_size(buffer, extensions)? else { return Ok(Decoded::More) };
                *step = if size == 0 { Step::Trailers(Box::default()) } else { Step::Data(size) };
            }
            Step::Data(left) => {
                if buffer.is_empty() {
                    return Ok(Decoded::More);
                }
                let data = split_up_to(buffer, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *step = Step::DataEnd;
                }
                return Ok(Decoded::Data(data));
            }
            Step::DataEnd => match &buffer[..buffer.len().min(2)] {
                b"\r\n" => {
                    let _ = buffer.split_to(2);
                    *step = Step::Size;
                }
                b"" | b"\r" => return Ok(Decoded::More),
                _ => return Err(Violation::ChunkEnd),
            },
            Step::Trailers(lines) => {
                let found = lines.find_end(buffer, MAX_TRAILERS).map_err(|_| Violation::Trailers)?;
                if found.unwrap_or(buffer.len()) > MAX_TRAILER_BYTES {
                    return Err(Violation::Trailers);
                }
                let Some(end) = found else { return Ok(Decoded::More) };
                let section = buffer.split_to(end).freeze();
                let trailers = fields::trailers(&section, lines)?;
                return Ok(if trailers.is_empty() { Decoded::End } else { Decoded::Trailers(trailers) });
            }
        }
    }
}

/// `1*16HEXDIG [chunk-ext] CRLF`. RFC 9112 section 7.1.1 lets extensions be ignored; no blank before them, because
/// parsers differ over it.
fn take_size(buffer: &mut BytesMut, extensions: &mut usize) -> Result<Option<u64>, Violation> {
    let digits = buffer.iter().take(17).take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits > 16 || digits == 0 && !buffer.is_empty() {
        return Err(Violation::ChunkSize);
    }
    let Some(line_feed) = memchr(b'\n', &buffer[..buffer.len().min(MAX_CHUNK_LINE)]) else {
        return if buffer.len() >= MAX_CHUNK_LINE { Err(Violation::ChunkExtension) } else { Ok(None) };
    };
    if line_feed <= digits || buffer[line_feed - 1] != b'\r' {
        return Err(Violation::ChunkSize);
    }
    let extension = &buffer[digits..line_feed - 1];
    match extension {
        [] => {}
        [b';', rest @ ..] if rest.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)) => {
            *extensions += extension.len();
            if *extensions > MAX_CHUNK_EXTENSIONS {
                return Err(Violation::ChunkExtension);
            }
        }
        [b';', ..] => return Err(Violation::ChunkExtension),
        _ => return Err(Violation::ChunkSize),
    }
    let size = buffer[..digits].iter().fold(0, |size: u64, digit| size << 4 | u64::from(hex(*digit)));
    let _ = buffer.split_to(line_feed + 1);
    Ok(Some(size))
}

/// The value of a byte that is known to be a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
