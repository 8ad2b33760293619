//! Copying between two streams, both ways, until both are done.
//!
//! A buffer is held only while bytes are on their way: idle connections cost no more than their sockets.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use crate::drain::{Member, Phase};

/// Bytes that are moved at once: large, so that bulk transfers are a matter of few system calls.
const BUFFER: usize = 128 * 1024;

/// Buffers that a worker keeps for the next connection that has something to say.
const SPARE: usize = 16;

/// The buffers of one worker that are not in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers(Rc<RefCell<Vec<Box<[u8]>>>>);

impl Buffers {
    fn take(&self) -> Box<[u8]> {
        self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER].into())
    }

    fn put(&self, buffer: Box<[u8]>) {
        let mut spare = self.0.borrow_mut();
        if spare.len() < SPARE {
            spare.push(buffer);
        }
    }
}

/// How long two ends may be tied together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lifetime {
    /// Without a byte either way.
    pub(super) idle: Option<Duration>,
    pub(super) until: Option<Instant>,
}

/// Why two ends are not tied together any more.
#[derive(Debug)]
pub(super) enum End {
    /// Both have said all they had to say.
    Done,
    Idle,
    TooOld,
    /// The listener's drain time is over.
    Drained,
    Client(io::Error),
    Upstream(io::Error),
}

/// Copies until both ends are done. `moved` is told of bytes from the client, then of bytes to it.
pub(super) async fn relay<C, U>(
    client: &mut C,
    upstream: &mut U,
    lifetime: Lifetime,
    buffers: &Buffers,
    member: &Member,
    mut moved: impl FnMut(u64, u64),
) -> End
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Half::new(buffers), Half::new(buffers));
    let mut active = Instant::now();
    let deadline = |active: Instant| {
        let idle = lifetime.idle.and_then(|idle| active.checked_add(idle));
        [idle, lifetime.until].into_iter().flatten().min()
    };
    let mut alarm = pin!(deadline(active).map(sleep_until));
    poll_fn(|cx| {
        let ended_up = up.poll(cx, client, upstream);
        let ended_down = down.poll(cx, upstream, client);
        let (sent, received) = (std::mem::take(&mut down.moved), std::mem::take(&mut up.moved));
        if sent > 0 || received > 0 {
            moved(received, sent);
            active = Instant::now();
        }
        match (ended_up, ended_down) {
            (Poll::Ready(Err(Broken::From(error))), _) | (_, Poll::Ready(Err(Broken::To(error)))) => {
                return Poll::Ready(End::Client(error));
            }
            (Poll::Ready(Err(Broken::To(error))), _) | (_, Poll::Ready(Err(Broken::From(error)))) => {
                return Poll::Ready(End::Upstream(error));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Done),
            _ => {}
        }
        if member.poll_beyond(Phase::Draining, cx).is_ready() {
            return Poll::Ready(End::Drained);
        }
        while let Some(mut alarm) = alarm.as_mut().as_pin_mut() {
            ready!(alarm.as_mut().poll(cx));
            // Bytes that moved in the meantime do not touch the timer; it is set anew when it has run out.
            let (Some(due), now) = (deadline(active), Instant::now()) else { break };
            if due <= now {
                let old = lifetime.until.is_some_and(|until| until <= now);
                return Poll::Ready(if old { End::TooOld } else { End::Idle });
            }
            alarm.as_mut().reset(due);
        }
        Poll::Pending
    })
    .await
}

/// Which end failed one direction.
#[derive(Debug)]
enum Broken {
    From(io::Error),
    To(io::Error),
}

/// One direction.
struct Half<'a> {
    buffers: &'a Buffers,
    /// Held while there are bytes in it.
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    /// Written since the last flush.
    unflushed: bool,
    stage: Stage,
    /// Bytes written since somebody looked.
    moved: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Copying,
    /// Nothing more comes; the other end is yet to be told.
    Ending,
    Ended,
}

impl<'a> Half<'a> {
    fn new(buffers: &'a Buffers) -> Self {
        Self { buffers, buffer: None, start: 0, end: 0, unflushed: false, stage: Stage::Copying, moved: 0 }
    }

    fn poll<F, T>(&mut self, cx: &mut Context<'_>, from: &mut F, to: &mut T) -> Poll<Result<(), Broken>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        loop {
            while let Some(buffer) = &self.buffer
                && self.start < self.end
            {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &buffer[self.start..self.end]));
                match written.map_err(Broken::To)? {
                    0 => return Poll::Ready(Err(Broken::To(io::ErrorKind::WriteZero.into()))),
                    count => {
                        self.start += count;
                        self.moved += count as u64;
                        self.unflushed = true;
                    }
                }
            }
            match self.stage {
                Stage::Ended => return Poll::Ready(Ok(())),
                Stage::Ending => {
                    self.release();
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::To)?;
                    self.stage = Stage::Ended;
                }
                Stage::Copying => {
                    let mut buffer = self.buffer.take().unwrap_or_else(|| self.buffers.take());
                    let mut read = ReadBuf::new(&mut buffer);
                    let polled = Pin::new(&mut *from).poll_read(cx, &mut read);
                    let count = read.filled().len();
                    (self.start, self.end) = (0, count);
                    self.buffer = Some(buffer);
                    match polled {
                        Poll::Ready(Ok(())) if count == 0 => self.stage = Stage::Ending,
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::From(error))),
                        Poll::Pending => {
                            self.release();
                            if self.unflushed {
                                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::To)?;
                                self.unflushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
    }

    fn release(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.buffers.put(buffer);
        }
    }
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::drain::DrainGroup;

    #[tokio::test]
    async fn what_one_end_closes_the_other_can_still_answer() {
        let (mut client, mut client_side) = duplex(7);
        let (mut origin, mut origin_side) = duplex(5);
        let (buffers, group) = (Buffers::default(), Rc::<DrainGroup>::default());
        let member = group.join();
        let asking = async {
            client.write_all(b"a longer question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answering = async {
            let mut question = String::new();
            origin.read_to_string(&mut question).await.unwrap();
            origin.write_all(format!("{question}?").as_bytes()).await.unwrap();
            origin.shutdown().await.unwrap();
        };
        let (mut received, mut sent) = (0, 0);
        let count = |from: u64, to: u64| {
            received += from;
            sent += to;
        };
        let relaying = relay(&mut client_side, &mut origin_side, Lifetime::default(), &buffers, &member, count);
        let (answer, (), end) = tokio::join!(asking, answering, relaying);
        assert!(matches!(end, End::Done), "{end:?}");
        assert_eq!((answer.as_str(), received, sent), ("a longer question?", 17, 18));
        assert!(!buffers.0.borrow().is_empty(), "buffers come back");
    }
}
