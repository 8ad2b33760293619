//! Lines: where a head ends, and what its header lines say.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::names::header_name;
use super::scan::{BLOCK, equal, find, is_value};
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
        let (blocks, rest) = bytes[self.at..].as_chunks::<BLOCK>();
        let mut at = self.at;
        for block in blocks {
            let mut found = equal(b'\n', block);
            while found != 0 {
                let line_feed = at + found.trailing_zeros() as usize;
                if let Some(end) = self.end_line(bytes, &mut start, line_feed, max_lines)? {
                    return Ok(Some(end));
                }
                found &= found - 1;
            }
            at += BLOCK;
        }
        for (offset, _) in rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            if let Some(end) = self.end_line(bytes, &mut start, at + offset, max_lines)? {
                return Ok(Some(end));
            }
        }
        self.at = bytes.len();
        Ok(None)
    }

    /// Takes note of the line from `start` to `line_feed`; the end of the head if it is empty.
    #[inline]
    fn end_line(
        &mut self,
        bytes: &[u8],
        start: &mut usize,
        line_feed: usize,
        max_lines: usize,
    ) -> Result<Option<usize>, Violation> {
        if line_feed == *start || bytes[line_feed - 1] != b'\r' {
            return Err(Violation::LineEnd);
        }
        if line_feed - 1 == *start {
            return Ok(Some(line_feed + 1));
        }
        if self.ends.len() >= max_lines {
            return Err(Violation::TooManyHeaders);
        }
        *start = line_feed + 1;
        self.ends.push(*start as u32);
        self.at = *start;
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
    let named = find(b':', line).and_then(|colon| Some((colon, header_name(&line[..colon])?)));
    let Some((colon, name)) = named else {
        let folded = matches!(line.first(), Some(b' ' | b'\t'));
        return Err(if folded { Violation::LineFolding } else { Violation::HeaderName });
    };
    let (mut from, mut to) = (colon + 1, line.len());
    while from < to && is_blank(line[from]) {
        from += 1;
    }
    while from < to && is_blank(line[to - 1]) {
        to -= 1;
    }
    let value = field_value(head.slice(start + from..start + to)).ok_or(Violation::HeaderValue)?;
    Ok((name, value))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A field value (RFC 9110 section 5.5), if these bytes are one.
pub(crate) fn field_value(bytes: Bytes) -> Option<HeaderValue> {
    if !is_value(&bytes) {
        return None;
    }
    #[allow(unsafe_code, reason = "HeaderValue would look at every byte again, one at a time")]
    // SAFETY: what a HeaderValue must not hold is what `is_value` refuses.
    let value = unsafe { HeaderValue::from_maybe_shared_unchecked(bytes) };
    Some(value)
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
