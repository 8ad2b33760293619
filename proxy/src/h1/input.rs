//! The read side of a connection: one buffer that is there only while bytes are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

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
        let before = self.buffer.len();
        let mut room = ReadBuf::uninit(self.buffer.spare_capacity_mut());
        let place = room.filled().as_ptr();
        let polled = Pin::new(io).poll_read(cx, &mut room);
        assert_eq!(room.filled().as_ptr(), place, "a transport read into memory of its own");
        let (count, full) = (room.filled().len(), room.remaining() == 0);
        match polled {
            Poll::Pending => {
                self.release();
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                #[allow(
                    unsafe_code,
                    reason = "what was read need not be copied, nor made into zeros before it is read"
                )]
                // SAFETY: `ReadBuf` keeps account of what is initialised behind the bytes that were there: `count` bytes
                // of the spare capacity, as this is still the memory that it was given.
                unsafe {
                    self.buffer.set_len(before + count);
                }
                if full {
                    self.ask = (self.ask * 2).min(MAX_READ);
                }
                Poll::Ready(Ok(count))
            }
        }
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
