//! Looking for bytes, sixteen at a time.
//!
//! Lines, names and values are short: this beats what is made for long haystacks, which has to be called.

/// As many bytes as are looked at together.
pub(super) const BLOCK: usize = 16;
pub(super) type Block = [u8; BLOCK];

/// Which bytes of a block are `byte`: the first is the lowest bit.
#[inline]
pub(super) fn equal(byte: u8, block: &Block) -> u32 {
    arch::equal(byte, block)
}

/// Where a byte first is.
#[inline]
pub(super) fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for (index, block) in blocks.iter().enumerate() {
        let found = equal(byte, block);
        if found != 0 {
            return Some(index * BLOCK + found.trailing_zeros() as usize);
        }
    }
    let at = rest.iter().position(|&found| found == byte)?;
    Some(blocks.len() * BLOCK + at)
}

/// Whether these bytes are a field value (RFC 9110 section 5.5): no control character but the tab.
#[inline]
pub(super) fn is_value(bytes: &[u8]) -> bool {
    // The last bytes are looked at together with some before them, for which a block is whole.
    if let Some(last) = bytes.last_chunk() {
        bytes.as_chunks().0.iter().all(arch::is_value) && arch::is_value(last)
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let (first, last): (&[u8; BLOCK / 2], &[u8; BLOCK / 2]) = (first, last);
        let mut block = [0; BLOCK];
        block[..BLOCK / 2].copy_from_slice(first);
        block[BLOCK / 2..].copy_from_slice(last);
        arch::is_value(&block)
    } else {
        bytes.iter().all(|&byte| is_value_byte(byte))
    }
}

#[allow(clippy::needless_bitwise_bool, reason = "a branch for each byte is what this is to avoid")]
fn is_value_byte(byte: u8) -> bool {
    (byte == b'\t') | ((byte >= b' ') & (byte != 0x7f))
}

#[cfg(not(target_arch = "x86_64"))]
use portable as arch;
#[cfg(target_arch = "x86_64")]
use sse2 as arch;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "an intrinsic is safe to call only where the compiler is told anew that there is SSE2")]
mod sse2 {
    use std::arch::x86_64::{
        _mm_andnot_si128, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };

    use std::ptr;

    use super::Block;

    #[inline]
    pub(super) fn equal(byte: u8, block: &Block) -> u32 {
        // SAFETY: every x86-64 has SSE2. A block's sixteen bytes need not be aligned to be loaded.
        unsafe {
            let bytes = _mm_loadu_si128(ptr::from_ref(block).cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte.cast_signed()))).cast_unsigned()
        }
    }

    #[inline]
    pub(super) fn is_value(block: &Block) -> bool {
        // SAFETY: as above.
        unsafe {
            let bytes = _mm_loadu_si128(ptr::from_ref(block).cast());
            let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
            let tab = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x09));
            let delete = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x7f));
            _mm_movemask_epi8(_mm_or_si128(_mm_andnot_si128(tab, control), delete)) == 0
        }
    }
}

/// What compilers make the best of for other machines.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    use super::{Block, is_value_byte};

    pub(super) fn equal(byte: u8, block: &Block) -> u32 {
        block.iter().rev().fold(0, |bits, &found| bits << 1 | u32::from(found == byte))
    }

    pub(super) fn is_value(block: &Block) -> bool {
        block.iter().fold(true, |all, &byte| all & is_value_byte(byte))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_byte_is_found_where_it_first_is(bytes in proptest::collection::vec(0x7eu8..=0x83, 0..70), byte in 0x7eu8..=0x83) {
            prop_assert_eq!(find(byte, &bytes), bytes.iter().position(|&found| found == byte));
        }

        #[test]
        fn values_are_what_http_takes_for_one(text in "[a-z]{0,40}", byte: u8, at in 0usize..40) {
            let mut bytes = text.into_bytes();
            bytes.insert(at.min(bytes.len()), byte);
            prop_assert_eq!(is_value(&bytes), HeaderValue::from_bytes(&bytes).is_ok());
        }

        #[test]
        fn all_machines_see_the_same(block: Block, other in 0x08u8..0x21, at in 0..BLOCK) {
            let mut block = block;
            block[at] = other;
            prop_assert_eq!(arch::equal(other, &block), portable::equal(other, &block));
            prop_assert_eq!(arch::is_value(&block), portable::is_value(&block));
            let plain = block.map(|byte| byte | 0x20);
            prop_assert_eq!(arch::is_value(&plain), portable::is_value(&plain));
        }
    }
}
