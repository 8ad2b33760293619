//! The signal that connections of one worker are to come to an end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Shared by the connections of a listener or a worker. Once [started](Drain::start), a connection finishes the
/// exchange it is in, says `Connection: close`, and closes; an idle one closes at once.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    draining: Cell<bool>,
    waiting: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cannot be undone.
    pub fn start(&self) {
        self.state.draining.set(true);
        for waker in self.state.waiting.borrow_mut().iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }

    pub fn is_draining(&self) -> bool {
        self.state.draining.get()
    }

    /// Resolves when the drain starts.
    pub async fn started(&self) {
        let mut watch = Watch::new(self.clone());
        poll_fn(|cx| watch.poll(cx)).await;
    }
}

/// One waiter's place in a [`Drain`]. It costs one registration in its life as long as its task stays the same.
#[derive(Debug)]
pub(super) struct Watch {
    drain: Drain,
    place: Option<usize>,
}

impl Watch {
    pub(super) fn new(drain: Drain) -> Self {
        Self { drain, place: None }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_draining()
    }

    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.drain.is_draining() {
            return Poll::Ready(());
        }
        let state = &self.drain.state;
        let mut waiting = state.waiting.borrow_mut();
        let place = *self.place.get_or_insert_with(|| {
            state.free.borrow_mut().pop().unwrap_or_else(|| {
                waiting.push(None);
                waiting.len() - 1
            })
        });
        match &mut waiting[place] {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.drain.state.waiting.borrow_mut()[place] = None;
            self.drain.state.free.borrow_mut().push(place);
        }
    }
}
