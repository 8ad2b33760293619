//! Memory that outlives a message, kept per thread: an idle connection holds none, a busy one allocates none.

use std::cell::RefCell;

use bytes::BytesMut;
use http::HeaderMap;

use super::limits::BUFFER;

/// Bounds what a thread keeps of each sort.
const KEPT: usize = 32;
/// A header table larger than this is not worth keeping.
const MAX_TABLE: usize = 128;

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static OUTPUTS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static TABLES: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// How many kept buffers are looked at for one that nobody uses any more.
const TRIED: usize = 4;

/// An empty buffer of at least [`BUFFER`] bytes.
pub(super) fn buffer() -> BytesMut {
    BUFFERS
        .with_borrow_mut(|buffers| {
            let from = buffers.len().saturating_sub(TRIED);
            let free = (from..buffers.len()).rev().find(|&at| buffers[at].try_reclaim(BUFFER))?;
            Some(buffers.swap_remove(free))
        })
        .filter(|buffer| buffer.capacity() <= 2 * BUFFER)
        .unwrap_or_else(|| BytesMut::with_capacity(BUFFER))
}

/// Takes back a buffer. Parts of it (header values, body frames) may still be in use elsewhere: it is handed out again
/// once they are not.
pub(super) fn keep_buffer(mut buffer: BytesMut) {
    if buffer.capacity() > 2 * BUFFER {
        return;
    }
    buffer.clear();
    BUFFERS.with_borrow_mut(|buffers| {
        if buffers.len() == KEPT {
            buffers.swap_remove(0);
        }
        buffers.push(buffer);
    });
}

/// An empty buffer to write into.
pub(super) fn output() -> Vec<u8> {
    OUTPUTS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER))
}

/// Takes back a write buffer, unless it grew.
pub(super) fn keep_output(mut output: Vec<u8>) {
    if (1..=4 * BUFFER).contains(&output.capacity()) {
        output.clear();
        OUTPUTS.with_borrow_mut(|outputs| {
            if outputs.len() < KEPT {
                outputs.push(output);
            }
        });
    }
}

/// An empty header table.
pub(super) fn headers() -> HeaderMap {
    TABLES.with_borrow_mut(Vec::pop).unwrap_or_else(|| HeaderMap::with_capacity(24))
}

/// Gives the memory of a header table back for the next message; optional, cheaper than dropping it.
pub fn recycle(mut headers: HeaderMap) {
    let capacity = headers.capacity();
    if capacity == 0 || capacity > MAX_TABLE {
        return;
    }
    headers.clear();
    TABLES.with_borrow_mut(|tables| {
        if tables.len() < KEPT {
            tables.push(headers);
        }
    });
}
