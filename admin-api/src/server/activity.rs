//! What goes on on a connection, and whether its client keeps it open for nothing.
//!
//! hyper bounds the time for a request's head, but not the time before a client has said which HTTP it speaks, nor how
//! long it leaves an answer unread or an HTTP/2 connection unused.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

/// A client has this long from the connection to its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A connection without a request is closed after this time.
const IDLE: Duration = Duration::from_secs(90);
/// A client has this long to take the next part of an answer.
const STALL: Duration = Duration::from_mins(1);
/// Answers are handed out in parts of so many bytes, so that it shows when a client takes none.
const PART: usize = 64 * 1024;

/// The requests of one connection. Clones are of the same connection.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    next: u64,
    /// By number: since when the client is waited for to take its answer; none while it is being made.
    requests: HashMap<u64, Option<Instant>>,
    /// Since when there are no requests.
    idle: Instant,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { next: 0, requests: HashMap::new(), idle: Instant::now() })))
    }

    /// A request has come.
    pub(super) fn begin(&self) -> InFlight {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.requests.insert(number, None);
        InFlight { activity: self.clone(), number }
    }

    /// Returns when the client has had its time; says for what.
    pub(super) async fn over(&self) -> &'static str {
        loop {
            let now = Instant::now();
            let (deadline, why) = self.deadline();
            if deadline <= now {
                return why;
            }
            // Requests come and end meanwhile: a deadline may be later by then, or an earlier one may have come up.
            sleep_until(deadline.min(now + FIRST_REQUEST)).await;
        }
    }

    fn deadline(&self) -> (Instant, &'static str) {
        let state = self.lock();
        if state.requests.is_empty() {
            if state.next == 0 {
                return (state.idle + FIRST_REQUEST, "no request came");
            }
            return (state.idle + IDLE, "it was not used");
        }
        let oldest = state.requests.values().flatten().min();
        (oldest.map_or_else(Instant::now, |since| *since) + STALL, "an answer was not read")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request, until its answer has been handed out or dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    activity: Activity,
    number: u64,
}

impl InFlight {
    /// The answer's body, handed out in parts and watched.
    pub(super) fn answer(self, body: Body) -> Answer {
        self.waits_for_client(true);
        Answer { body, rest: Bytes::new(), request: self }
    }

    fn waits_for_client(&self, waits: bool) {
        self.activity.lock().requests.insert(self.number, waits.then(Instant::now));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.requests.remove(&self.number);
        if state.requests.is_empty() {
            state.idle = Instant::now();
        }
    }
}

/// See [`InFlight::answer`].
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    /// What is left of a frame that is larger than a part.
    rest: Bytes,
    request: InFlight,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => {
                    this.request.waits_for_client(false);
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Poll::Ready(end) => return Poll::Ready(end),
            }
        }
        this.request.waits_for_client(true);
        let part = this.rest.split_to(this.rest.len().min(PART));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
