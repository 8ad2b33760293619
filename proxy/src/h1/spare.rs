//! Memory that outlives a message, kept per thread: an idle connection holds none, a busy one allocates none.

use std::cell::RefCell;

use bytes::BytesMut;
use http::Uri;
use route_model::request::headers::Headers;

use super::limits::BUFFER;
use crate::http::message::RequestParts;

/// What a thread keeps of each sort; as many as it has requests under way, in bursts.
const KEPT: usize = 256;
/// A header table larger than this is not worth keeping.
const MAX_TABLE: usize = 128;

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static OUTPUTS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static TABLES: RefCell<Vec<Headers>> = const { RefCell::new(Vec::new()) };
    #[allow(clippy::vec_box, reason = "it is the boxes that are kept")]
    static HEADS: RefCell<Vec<Box<RequestParts>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of at least [`BUFFER`] bytes.
pub(super) fn buffer() -> BytesMut {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(BUFFER))
}

/// Takes a buffer back, unless parts of it (header values, body frames) are still in use elsewhere.
pub(super) fn keep_buffer(buffer: &mut BytesMut) {
    if !buffer.try_reclaim(BUFFER) {
        return;
    }
    let buffer = std::mem::take(buffer);
    if buffer.capacity() <= 2 * BUFFER {
        BUFFERS.with_borrow_mut(|buffers| {
            if buffers.len() < KEPT {
                buffers.push(buffer);
            }
        });
    }
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
pub(super) fn headers() -> Headers {
    TABLES.with_borrow_mut(Vec::pop).unwrap_or_else(|| Headers::with_capacity(24))
}

/// A request head without headers; what else is in it is to be overwritten.
pub(super) fn head() -> Box<RequestParts> {
    HEADS
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Box::new(RequestParts { headers: Headers::with_capacity(24), ..RequestParts::default() }))
}

/// Gives the memory of a request's head back for the next one; optional, cheaper than dropping it.
pub fn recycle(mut head: Box<RequestParts>) {
    if !(1..=MAX_TABLE).contains(&head.headers.capacity()) {
        return;
    }
    head.headers.clear();
    head.extensions.clear();
    // Holds on to the buffer that it was read into.
    head.uri = Uri::default();
    HEADS.with_borrow_mut(|heads| {
        if heads.len() < KEPT {
            heads.push(head);
        }
    });
}

/// The same for a header table alone.
pub(super) fn recycle_table(mut headers: Headers) {
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
