//! Draining: telling the connections of a listener to finish, and knowing when they have.
//!
//! One [`DrainGroup`] a listener and worker. A connection asks it once for a wake-up; on the request path it costs
//! one flag.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::h1;

/// The connections of one listener on one worker.
#[derive(Debug, Default)]
pub(crate) struct DrainGroup {
    phase: Cell<Phase>,
    http1: h1::Drain,
    members: RefCell<Members>,
    empty: tokio::sync::Notify,
}

/// How far a drain has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    #[default]
    Open,
    /// Finish what is under way, then close.
    Draining,
    /// Time is up: close now.
    Cut,
}

/// Slots are reused so that the memory stays with the number of open connections.
#[derive(Debug, Default)]
struct Members {
    slots: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// Membership of one connection; leaves on drop.
#[derive(Debug)]
pub(crate) struct Member {
    group: Rc<DrainGroup>,
    slot: usize,
}

impl DrainGroup {
    /// Connections that are open.
    pub(crate) fn len(&self) -> usize {
        let members = self.members.borrow();
        members.slots.len() - members.free.len()
    }

    /// Enters a phase and wakes every connection to notice. Never goes back to an earlier one.
    pub(crate) fn enter(&self, phase: Phase) {
        if phase <= self.phase.get() {
            return;
        }
        self.phase.set(phase);
        self.http1.start();
        let wakers: Vec<Waker> = self.members.borrow_mut().slots.iter_mut().filter_map(Option::take).collect();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Resolves when no connection is left.
    pub(crate) async fn empty(&self) {
        while self.len() > 0 {
            self.empty.notified().await;
        }
    }

    pub(crate) fn join(self: &Rc<Self>) -> Member {
        let mut members = self.members.borrow_mut();
        let slot = members.free.pop().unwrap_or_else(|| {
            members.slots.push(None);
            members.slots.len() - 1
        });
        Member { group: Rc::clone(self), slot }
    }
}

impl Member {
    pub(crate) fn phase(&self) -> Phase {
        self.group.phase.get()
    }

    /// The signal as HTTP/1 connections watch it.
    pub(crate) fn http1(&self) -> &h1::Drain {
        &self.group.http1
    }

    /// Resolves when time is up.
    pub(crate) async fn cut(&self) {
        self.beyond(Phase::Draining).await;
    }

    /// Ready when the group has gone beyond `seen`; otherwise the task is woken when it does.
    pub(crate) fn poll_beyond(&self, seen: Phase, cx: &mut Context<'_>) -> Poll<Phase> {
        let phase = self.phase();
        if phase > seen {
            return Poll::Ready(phase);
        }
        let waker = &mut self.group.members.borrow_mut().slots[self.slot];
        match waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Resolves when the group has gone beyond `seen`.
    pub(crate) async fn beyond(&self, seen: Phase) -> Phase {
        std::future::poll_fn(|cx| self.poll_beyond(seen, cx)).await
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut members = self.group.members.borrow_mut();
        members.slots[self.slot] = None;
        members.free.push(self.slot);
        if members.slots.len() == members.free.len() {
            *members = Members::default();
            self.group.empty.notify_waiters();
        }
    }
}
