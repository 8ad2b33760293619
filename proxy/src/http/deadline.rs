//! How long a request may take, and the timers that tell.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::context::Progress;
use super::local_reply::LocalReply;

/// A request's timeout, which ends with the end of the response.
#[derive(Debug)]
pub(crate) struct Deadline {
    timeout: Duration,
    /// What the client is told when it passes.
    pub(crate) reply: LocalReply,
    /// Known once the request is complete.
    at: Option<Instant>,
    /// For the time of the response's body, and only if there is a wait for it.
    timer: Option<Pin<Box<Sleep>>>,
    /// Of the request's body, whose end the time counts from; `None`: it counts from the head on.
    progress: Option<Rc<Progress>>,
}

impl Deadline {
    pub(crate) fn new(timeout: Duration, reply: LocalReply, progress: Option<Rc<Progress>>) -> Self {
        Self { timeout, reply, at: None, timer: None, progress }
    }

    /// When time is over; `None` while the request is still coming, and then the task is woken when it has come.
    pub(crate) fn at(&mut self, cx: &Context<'_>) -> Option<Instant> {
        if self.at.is_none() {
            if let Some(progress) = &self.progress
                && !progress.is_complete()
            {
                progress.wake_on_finish(cx.waker());
                return None;
            }
            self.at = Some(Instant::now() + self.timeout);
        }
        self.at
    }

    /// Ready when the time is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at(cx) else { return Poll::Pending };
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(at))).as_mut().poll(cx)
    }
}

pin_project! {
    /// A timer in place: it costs nothing until a wait is seen to be one, and no allocation then.
    #[derive(Debug, Default)]
    pub(crate) struct Alarm {
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Alarm {
    /// Ready at `at`, which must be the same at every call.
    pub(crate) fn poll(self: Pin<&mut Self>, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let mut sleep = self.project().sleep;
        if sleep.is_none() {
            sleep.set(Some(sleep_until(at)));
        }
        sleep.as_pin_mut().map_or(Poll::Pending, |sleep| sleep.poll(cx))
    }
}
