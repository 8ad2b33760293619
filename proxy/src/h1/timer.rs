//! A deadline that costs nothing while things move.
//!
//! Most requests finish long before any timeout. So a deadline is only armed when its wait is seen to be a wait, and
//! the timer behind it is left where it is when the deadline moves later: it fires at most once per timeout, finds
//! that the deadline moved, and is set anew.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Debug, Default)]
pub(super) struct Deadline {
    at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// The wait is over; the next one starts afresh.
    pub(super) fn clear(&mut self) {
        self.at = None;
    }

    /// Ready once the wait has lasted `timeout`, counted from the first call after [`clear`](Self::clear).
    pub(super) fn poll(&mut self, timeout: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let at = *self.at.get_or_insert_with(|| Instant::now() + timeout);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}
