//! The write side of a connection: small pieces gathered, large ones passed through, one write for both.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::limits::{COPY, GATHER};
use super::spare;

/// What is to be written next: `small`, then `large`, then `tail`.
#[derive(Debug, Default)]
pub(super) struct Output {
    small: Vec<u8>,
    written: usize,
    large: Bytes,
    tail: &'static [u8],
    /// Bytes the transport took since the connection began.
    total: u64,
    unflushed: bool,
}

impl Output {
    /// Whether more should be put in before it is written.
    pub(super) fn has_room(&self) -> bool {
        self.large.is_empty() && self.tail.is_empty() && self.small.len() < GATHER
    }

    pub(super) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty() && self.tail.is_empty()
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// For heads and chunk sizes. Only while [`has_room`](Self::has_room).
    pub(super) fn small(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.large.is_empty() && self.tail.is_empty());
        if self.small.capacity() == 0 {
            self.small = spare::output();
        }
        &mut self.small
    }

    /// Body bytes and what follows them. Only while [`has_room`](Self::has_room).
    pub(super) fn push(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPY {
            let small = self.small();
            small.extend_from_slice(&data);
            small.extend_from_slice(tail);
        } else {
            self.large = data;
            self.tail = tail;
        }
    }

    /// Writes until nothing is left; then holds no memory.
    pub(super) fn poll_flush<I: AsyncWrite + Unpin>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let count = if self.large.is_empty() && self.tail.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.small[self.written..]))?
            } else {
                ready!(self.poll_write_large(io, cx))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
            spare::keep_output(std::mem::take(&mut self.small));
        }
        Poll::Ready(Ok(()))
    }

    /// Writes once of more than what is gathered.
    fn poll_write_large<I: AsyncWrite + Unpin>(&self, io: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let slices = [IoSlice::new(&self.small[self.written..]), IoSlice::new(&self.large), IoSlice::new(self.tail)];
        let first = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(0);
        let last = slices.iter().rposition(|slice| !slice.is_empty()).unwrap_or(0);
        if first == last || !io.is_write_vectored() {
            Pin::new(io).poll_write(cx, &slices[first])
        } else {
            Pin::new(io).poll_write_vectored(cx, &slices[first..=last])
        }
    }

    fn advance(&mut self, mut count: usize) {
        self.total += count as u64;
        self.unflushed = true;
        let small = count.min(self.small.len() - self.written);
        self.written += small;
        count -= small;
        if self.written == self.small.len() {
            self.small.clear();
            self.written = 0;
        }
        if count == 0 {
            return;
        }
        let large = count.min(self.large.len());
        self.large.advance(large);
        self.tail = &self.tail[count - large..];
    }
}
