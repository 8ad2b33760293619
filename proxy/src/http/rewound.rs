//! A stream of which some bytes were read already; they are read again first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug)]
pub(crate) struct Rewound<I> {
    start: BytesMut,
    io: I,
    read: u64,
    written: u64,
}

impl<I> Rewound<I> {
    pub(crate) fn new(start: BytesMut, io: I) -> Self {
        Self { start, io, read: 0, written: 0 }
    }

    /// Bytes read so far, the rewound ones included.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read
    }

    pub(crate) fn bytes_written(&self) -> u64 {
        self.written
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewound<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = if this.start.is_empty() {
            Pin::new(&mut this.io).poll_read(cx, buf)
        } else {
            let count = this.start.len().min(buf.remaining());
            buf.put_slice(&this.start[..count]);
            this.start.advance(count);
            if this.start.is_empty() {
                this.start = BytesMut::new();
            }
            Poll::Ready(Ok(()))
        };
        this.read += (buf.filled().len() - before) as u64;
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Rewound<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = polled {
            this.written += count as u64;
        }
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(count)) = polled {
            this.written += count as u64;
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_first_and_all_is_counted() {
        let (near, mut far) = tokio::io::duplex(64);
        far.write_all(b" world").await.unwrap();
        far.shutdown().await.unwrap();
        let mut rewound = Rewound::new(BytesMut::from("hello"), near);
        let mut text = String::new();
        rewound.read_to_string(&mut text).await.unwrap();
        rewound.write_all(b"bye").await.unwrap();
        assert_eq!((text.as_str(), rewound.bytes_read(), rewound.bytes_written()), ("hello world", 11, 3));
    }
}
