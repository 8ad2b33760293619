//! Lines: where a head ends, and what its header lines say.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memchr;
use smallvec::SmallVec;

use crate::http::validate::Violation;

/// Finds the lines of a head while it arrives, looking at each byte once however it is split.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Ends of the complete lines, each just behind its CRLF.
    ends: SmallVec<[u32; 24]>,
    /// Where to look on.
    at: usize,
}

impl Lines {
    /// The length of the head, its empty last line included, once it is complete. Not more than `max_lines` are
    /// counted.
    pub(super) fn find_end(&mut self, bytes: &[u8], max_lines: usize) -> Result<Option<usize>, Violation> {
        let mut start = self.ends.last().map_or(0, |&end| end as usize);
        while let Some(offset) = memchr(b'\n', &bytes[self.at..]) {
            let line_feed = self.at + offset;
            if line_feed == start || bytes[line_feed - 1] != b'\r' {
                return Err(Violation::LineEnd);
            }
            if line_feed - 1 == start {
                return Ok(Some(line_feed + 1));
            }
            if self.ends.len() >= max_lines {
                return Err(Violation::TooManyHeaders);
            }
            start = line_feed + 1;
            self.ends.push(start as u32);
            self.at = start;
        }
        self.at = bytes.len();
        Ok(None)
    }

    /// Forgets the head that was found.
    pub(super) fn clear(&mut self) {
        self.ends.clear();
        self.at = 0;
    }

    /// The first line, without its CRLF.
    pub(super) fn first<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        self.ends.first().map_or(&[], |&end| &bytes[..end as usize - 2])
    }

    /// Calls `each` with every header line's name and value; the lines from `skip` on.
    pub(super) fn parse(
        &self,
        head: &Bytes,
        skip: usize,
        mut each: impl FnMut(HeaderName, HeaderValue) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let mut start = skip.checked_sub(1).and_then(|line| self.ends.get(line)).map_or(0, |&end| end as usize);
        for &end in self.ends.iter().skip(skip) {
            let (name, value) = field(head, start, end as usize - 2)?;
            each(name, value)?;
            start = end as usize;
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

/// `field-name ":" OWS field-value OWS`; the value stays in the buffer it was read into.
fn field(head: &Bytes, start: usize, end: usize) -> Result<(HeaderName, HeaderValue), Violation> {
    let line = &head[start..end];
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::LineFolding);
    }
    let colon = memchr(b':', line).ok_or(Violation::HeaderName)?;
    let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| Violation::HeaderName)?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = &line[colon + 1..];
    let leading = value.iter().take_while(|byte| blank(byte)).count();
    let trailing = value[leading..].iter().rev().take_while(|byte| blank(byte)).count();
    let value = head.slice(start + colon + 1 + leading..end - trailing);
    let value = HeaderValue::from_maybe_shared(value).map_err(|_| Violation::HeaderValue)?;
    Ok((name, value))
}

/// A whole trailer section (its final empty line included); fields that may not be trailers are dropped.
pub(super) fn trailers(section: &Bytes, lines: &Lines) -> Result<HeaderMap, Violation> {
    let mut trailers = HeaderMap::with_capacity(lines.len());
    lines
        .parse(section, 0, |name, value| {
            if crate::http::validate::trailer(&name) {
                trailers.append(name, value);
            }
            Ok(())
        })
        .map_err(|_| Violation::Trailers)?;
    Ok(trailers)
}
