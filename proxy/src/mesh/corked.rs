//! A connection of HTTP/2 that sends together what its streams write in one turn of their task.
//!
//! h2 flushes after every DATA frame of more than a few hundred bytes, be there ten more to come: a TLS record, a system
//! call and a wake-up of the peer each. Its last flush of a turn follows another one, with nothing written between; that
//! one counts. Where there was only one, what is held goes out with the next turn, which is asked for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes held at most: what one TLS record takes.
const MOST: usize = 16 * 1024;

/// A write of more bytes is worth a system call of its own, and is not copied.
const LARGE: usize = 4 * 1024;

/// For tasks that read, or flush, whenever they are polled, as h2's do.
#[derive(Debug)]
pub(super) struct Corked<I> {
    io: I,
    held: Vec<u8>,
    /// How many of the bytes held are out already.
    sent: usize,
    /// Something was written since the last flush.
    written: bool,
}

impl<I> Corked<I> {
    pub(super) fn new(io: I) -> Self {
        Self { io, held: Vec::new(), sent: 0, written: false }
    }
}

impl<I: AsyncWrite + Unpin> Corked<I> {
    /// Sends what is held. Between turns nothing is kept for it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        self.held = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        // Who waits for the peer has no more to say, and the peer may wait for what was said.
        if polled.is_pending() && !this.held.is_empty() {
            ready!(this.poll_send(cx))?;
            ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Corked<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if count > LARGE || this.held.len() + count > MOST {
            ready!(this.poll_send(cx))?;
        }
        this.written = true;
        if count > LARGE {
            return Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        }
        if this.held.capacity() == 0 {
            this.held.reserve_exact(MOST);
        }
        for buf in bufs {
            this.held.extend_from_slice(buf);
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.written) && !this.held.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Notes how many bytes each write brought.
    #[derive(Debug, Default)]
    struct Writes(Vec<usize>);

    impl AsyncWrite for Writes {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.get_mut().0.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_written_in_one_turn_is_sent_together() {
        let mut corked = Corked::new(Writes::default());
        for _ in 0..3 {
            corked.write_all(&[0; 1000]).await.unwrap();
            corked.flush().await.unwrap();
        }
        assert_eq!(corked.io.0, [0; 0]);
        corked.flush().await.unwrap();
        assert_eq!(corked.io.0, [3000]);
        // No more than a record takes is held, and what is large is not held at all.
        for size in [4000; 5].into_iter().chain([5000]) {
            corked.write_all(&vec![0; size]).await.unwrap();
        }
        assert_eq!(corked.io.0, [3000, 16_000, 4000, 5000]);
    }

    #[tokio::test]
    async fn a_flush_asks_for_the_turn_that_sends() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut corked = Corked::new(near);
        tokio::spawn(async move {
            corked.write_all(b"hello").await.unwrap();
            let mut turns = 0;
            poll_fn(|cx| {
                turns += 1;
                ready!(Pin::new(&mut corked).poll_flush(cx)).unwrap();
                if turns == 2 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            std::future::pending::<()>().await;
        });
        let mut text = [0; 5];
        far.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"hello");
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_has_asked() {
        let (near, mut far) = tokio::io::duplex(64);
        let asking = tokio::spawn(async move {
            let (mut corked, mut answer) = (Corked::new(near), [0; 4]);
            corked.write_all(b"ping").await.unwrap();
            corked.flush().await.unwrap();
            corked.read_exact(&mut answer).await.unwrap();
            corked.write_all(b"bye").await.unwrap();
            corked.shutdown().await.unwrap();
            answer
        });
        let mut asked = [0; 4];
        far.read_exact(&mut asked).await.unwrap();
        far.write_all(b"pong").await.unwrap();
        let mut rest = String::new();
        far.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&asked, &asking.await.unwrap(), rest.as_str()), (b"ping", b"pong", "bye"));
    }

    proptest! {
        #[test]
        fn everything_arrives_in_order(
            writes in prop::collection::vec((1..9000_usize, any::<bool>()), 1..20),
            room in 1..6000_usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (near, mut far) = tokio::io::duplex(room);
                let bytes = |count: usize| (0..count).map(|i| (i % 251) as u8).collect::<Vec<_>>();
                let expected: Vec<u8> = writes.iter().flat_map(|(count, _)| bytes(*count)).collect();
                let writing = tokio::spawn(async move {
                    let mut corked = Corked::new(near);
                    for (count, flush) in writes {
                        corked.write_all(&bytes(count)).await.unwrap();
                        if flush {
                            corked.flush().await.unwrap();
                        }
                    }
                    corked.shutdown().await.unwrap();
                });
                let mut found = Vec::new();
                far.read_to_end(&mut found).await.unwrap();
                writing.await.unwrap();
                assert!(found == expected);
            });
        }
    }
}
