//! Lines: where a head ends, and what its header lines say.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
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
        let (words, rest) = bytes[self.at..].as_chunks::<8>();
        let mut at = self.at;
        for word in words {
            let mut marks = marks(b'\n', *word);
            while marks != 0 {
                let line_feed = at + marks.trailing_zeros() as usize / 8;
                if let Some(end) = self.end_line(bytes, &mut start, line_feed, max_lines)? {
                    return Ok(Some(end));
                }
                marks &= marks - 1;
            }
            at += 8;
        }
        for &byte in rest {
            if byte == b'\n'
                && let Some(end) = self.end_line(bytes, &mut start, at, max_lines)?
            {
                return Ok(Some(end));
            }
            at += 1;
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
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::LineFolding);
    }
    let colon = find(b':', line).ok_or(Violation::HeaderName)?;
    let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| Violation::HeaderName)?;
    let (mut from, mut to) = (start + colon + 1, end);
    while from < to && is_blank(head[from]) {
        from += 1;
    }
    while from < to && is_blank(head[to - 1]) {
        to -= 1;
    }
    let value = field_value(head.slice(from..to)).ok_or(Violation::HeaderValue)?;
    Ok((name, value))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A field value (RFC 9110 section 5.5), if these bytes are one: no control character but the tab.
pub(crate) fn field_value(bytes: Bytes) -> Option<HeaderValue> {
    if !is_value(&bytes) {
        return None;
    }
    #[allow(unsafe_code, reason = "HeaderValue would look at every byte again, one at a time")]
    // SAFETY: what a HeaderValue must not hold is what `is_value` refuses.
    let value = unsafe { HeaderValue::from_maybe_shared_unchecked(bytes) };
    Some(value)
}

fn is_value(bytes: &[u8]) -> bool {
    // The last bytes are looked at together with some before them, for which an array is whole.
    if let Some(last) = bytes.last_chunk::<16>() {
        bytes.as_chunks::<16>().0.iter().all(are_value_bytes) && are_value_bytes(last)
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        are_value_bytes(first) && are_value_bytes(last)
    } else {
        bytes.iter().all(|&byte| is_value_byte(byte))
    }
}

/// All at once, without a branch.
fn are_value_bytes<const N: usize>(bytes: &[u8; N]) -> bool {
    bytes.iter().fold(true, |all, &byte| all & is_value_byte(byte))
}

#[allow(clippy::needless_bitwise_bool, reason = "a branch for each byte is what this is to avoid")]
fn is_value_byte(byte: u8) -> bool {
    (byte == b'\t') | ((byte >= b' ') & (byte != 0x7f))
}

/// Of each byte of a word the lowest and the highest bit.
const LOW: u64 = u64::from_le_bytes([0x01; 8]);
const HIGH: u64 = u64::from_le_bytes([0x80; 8]);

/// Where a byte first is. Lines and names are short: eight bytes at a time, without a call, beat what is made for long
/// haystacks.
#[inline]
pub(super) fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let marks = marks(byte, *word);
        if marks != 0 {
            return Some(index * 8 + marks.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|&found| found == byte)?;
    Some(words.len() * 8 + at)
}

/// The highest bits of those bytes of a word that are `byte`.
#[inline]
fn marks(byte: u8, word: [u8; 8]) -> u64 {
    // A byte of `differs` is zero where the word has the byte; adding overflows into the highest bit of all others, and
    // never beyond it.
    let differs = u64::from_le_bytes(word) ^ (LOW * u64::from(byte));
    !(((differs & !HIGH) + !HIGH) | differs) & HIGH
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{find, is_value};
    use http::HeaderValue;

    proptest! {
        #[test]
        fn a_byte_is_found_where_it_first_is(bytes in proptest::collection::vec(0x7eu8..=0x83, 0..40), byte in 0x7eu8..=0x83) {
            prop_assert_eq!(find(byte, &bytes), bytes.iter().position(|&found| found == byte));
        }

        #[test]
        fn values_are_what_http_takes_for_one(text in "[a-z]{0,20}", byte: u8, at in 0usize..20) {
            let mut bytes = text.into_bytes();
            bytes.insert(at.min(bytes.len()), byte);
            prop_assert_eq!(is_value(&bytes), HeaderValue::from_bytes(&bytes).is_ok());
        }
    }
}
