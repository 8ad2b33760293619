//! The body of a request as the service sees it, and the connection's end of it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use crate::http::message::RequestParts;
use crate::http::validate::Violation;

/// Why a body ended before its end.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The peer broke the framing. For a request body: 400, flag DPE.
    #[error("the body is malformed: {0}")]
    Violation(#[from] Violation),
    #[error("the connection ended within the body")]
    UnexpectedEof,
    #[error("no byte of the body arrived in time")]
    Timeout,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The connection's side was dropped before the body was read.
    #[error("the connection is gone")]
    Disconnected,
    /// Upstream only: the body of the request, still being sent, failed or had the wrong length.
    #[error("the request body failed: {0}")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A request. Its head lives in memory that serves one request after the other and is moved about by pointer; see
/// [`recycle`](super::recycle).
#[derive(Debug)]
pub struct Request {
    pub head: Box<RequestParts>,
    pub body: RequestBody,
}

impl Request {
    pub fn into_parts(self) -> (Box<RequestParts>, RequestBody) {
        (self.head, self.body)
    }

    pub fn into_body(self) -> RequestBody {
        self.body
    }
}

/// The body of a request. Polling it is what makes the connection read on, so an unpolled body is backpressure; it may
/// be dropped at any time.
///
/// With `Expect: 100-continue` the first poll that finds nothing sends `100 Continue`. Forwarded to an origin that is
/// asked the same, the body is first polled when the origin's own `100` arrives: so the client is told what the origin
/// said, as Envoy does under Istio.
#[derive(Debug)]
pub struct RequestBody {
    shared: Option<Rc<RefCell<Shared>>>,
}

#[derive(Debug, Default)]
struct Shared {
    ready: Option<Result<Frame<Bytes>, BodyError>>,
    /// Nothing follows `ready`.
    finished: bool,
    /// The service polled and found nothing.
    wanted: bool,
    /// Bytes not yet handed to the service.
    remaining: Option<u64>,
    consumer: Option<Waker>,
    driver: Option<Waker>,
}

impl RequestBody {
    /// A body without bytes.
    pub fn empty() -> Self {
        Self { shared: None }
    }

    /// A body and the end that feeds it.
    pub(super) fn fed(remaining: Option<u64>) -> (Self, Feed) {
        let shared = Rc::new(RefCell::new(Shared { remaining, ..Shared::default() }));
        (Self { shared: Some(shared.clone()) }, Feed { shared })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(shared) = &self.shared else { return Poll::Ready(None) };
        let mut shared = shared.borrow_mut();
        if let Some(frame) = shared.ready.take() {
            if let (Some(remaining), Ok(frame)) = (&mut shared.remaining, &frame) {
                *remaining -= frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            return Poll::Ready(Some(frame));
        }
        if shared.finished {
            return Poll::Ready(None);
        }
        shared.wanted = true;
        if !shared.consumer.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            shared.consumer = Some(cx.waker().clone());
        }
        if let Some(driver) = shared.driver.take() {
            driver.wake();
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| {
            let shared = shared.borrow();
            shared.finished && shared.ready.is_none()
        })
    }

    fn size_hint(&self) -> SizeHint {
        match &self.shared {
            None => SizeHint::with_exact(0),
            Some(shared) => shared.borrow().remaining.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// The connection's end of a [`RequestBody`].
#[derive(Debug)]
pub(super) struct Feed {
    shared: Rc<RefCell<Shared>>,
}

impl Feed {
    /// Whether the service waits for more.
    pub(super) fn is_wanted(&self) -> bool {
        self.shared.borrow().wanted
    }

    /// Hands over what is there before the service has been called.
    pub(super) fn preload(&self, frame: Option<Result<Frame<Bytes>, BodyError>>, finished: bool) {
        let mut shared = self.shared.borrow_mut();
        shared.finished = finished || !matches!(frame, Some(Ok(_)));
        shared.ready = frame;
    }

    /// Hands over the next frame (`None`: there is none) and whether it is the last.
    pub(super) fn put(&self, frame: Option<Result<Frame<Bytes>, BodyError>>, finished: bool, cx: &Context<'_>) {
        self.preload(frame, finished);
        let mut shared = self.shared.borrow_mut();
        shared.wanted = false;
        // The connection polls the service again after feeding it; only a waiter elsewhere has to be woken.
        if let Some(consumer) = shared.consumer.take()
            && !consumer.will_wake(cx.waker())
        {
            drop(shared);
            consumer.wake();
        }
    }

    /// The connection goes to sleep: wake it when the body is polled.
    pub(super) fn sleep(&self, cx: &Context<'_>) {
        let mut shared = self.shared.borrow_mut();
        if !shared.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            shared.driver = Some(cx.waker().clone());
        }
    }

    /// The connection is awake, and polls the service itself.
    pub(super) fn awake(&self) {
        self.shared.borrow_mut().driver = None;
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        if !shared.finished && shared.ready.is_none() {
            shared.ready = Some(Err(BodyError::Disconnected));
            shared.finished = true;
        }
        if let Some(consumer) = shared.consumer.take() {
            drop(shared);
            consumer.wake();
        }
    }
}
