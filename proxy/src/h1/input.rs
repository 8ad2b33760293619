//! The read side of a connection: one buffer that is there only while bytes are.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::limits::{BUFFER, MAX_READ};
use super::spare;

/// Received bytes that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) buffer: BytesMut,
    /// What the next read asks for; grows while a large body passes.
    ask: usize,
}

impl Input {
    pub(super) fn new(read_ahead: BytesMut) -> Self {
        Self { buffer: read_ahead, ask: BUFFER }
    }

    /// Reads once; the number of bytes added, 0 at the end of the stream. Holds no memory while it waits for the first
    /// byte of a message.
    pub(super) fn poll_read<I: AsyncRead + Unpin>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() == 0 {
            self.buffer = spare::buffer();
        }
        if self.buffer.capacity() - self.buffer.len() < self.ask / 2 {
            self.buffer.reserve(self.ask);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let read = pin!(io.read_buf(&mut self.buffer)).poll(cx);
        match &read {
            Poll::Pending if self.buffer.is_empty() => self.release(),
            Poll::Ready(Ok(count)) if *count == room => self.ask = (self.ask * 2).min(MAX_READ),
            _ => {}
        }
        Poll::Ready(ready!(read))
    }

    /// Gives an empty buffer back, unless parts of it are still in use: then it is better kept for the next message.
    fn release(&mut self) {
        if self.buffer.is_empty() {
            spare::keep_buffer(&mut self.buffer);
        }
    }

    /// What was read and not taken.
    pub(super) fn into_buffer(mut self) -> BytesMut {
        std::mem::take(&mut self.buffer)
    }

    /// The next message starts with small reads again.
    pub(super) fn reset(&mut self) {
        self.ask = BUFFER;
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.release();
    }
}
