//! Bodies of requests on their way upstream: sent once, kept for another try, copied to mirrors.
//!
//! A body that may have to be sent again is kept as it passes, up to [`REPLAY_BYTES`]; a longer one is let go, and with
//! it the chance to repeat the request. A request without a body costs none of this.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::body::{BodyError, RequestBody};
use super::context::Progress;

/// How much of a body is kept for another try; Envoy's default is its connection buffer's limit, 1 MiB.
const REPLAY_BYTES: usize = 64 * 1024;

/// How far a mirror may lag behind the upstream before its copy is given up.
const TAP_BYTES: usize = 1024 * 1024;

/// The body of one request, from which every try gets its own [`OutgoingBody`].
pub(crate) enum Bodies {
    Empty,
    /// Sent by the first try; not kept, because nothing is retried or mirrored.
    Once(Option<OutgoingBody>),
    Kept(Rc<RefCell<Kept>>),
}

/// A body as one try sends it; tells [`Progress`] how far it has come.
#[derive(Debug)]
pub(crate) enum OutgoingBody {
    Empty,
    Once(Counted),
    Kept {
        shared: Rc<RefCell<Kept>>,
        /// How many frames this try has sent.
        at: usize,
        /// Which try this is; an earlier one that lingers gets nothing any more.
        try_number: u32,
    },
    /// The copy for a mirror.
    Copy(Rc<RefCell<Tap>>),
}

/// A body as it comes from the client, counted.
#[derive(Debug)]
pub(crate) struct Counted {
    body: RequestBody,
    progress: Option<Rc<Progress>>,
}

/// A body that several tries may send, or that mirrors get too.
#[derive(Debug)]
pub(crate) struct Kept {
    source: Counted,
    /// What has passed so far; empty once it was too much.
    frames: Vec<KeptFrame>,
    bytes: usize,
    /// Too much has passed to keep it: the try under way is the last.
    overflowed: bool,
    taps: Vec<Rc<RefCell<Tap>>>,
    /// The try under way.
    try_number: u32,
}

#[derive(Clone, Debug)]
enum KeptFrame {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// What a mirror has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    frames: VecDeque<KeptFrame>,
    bytes: usize,
    length: Option<u64>,
    ended: bool,
    /// The client's body broke off, or the mirror was too slow.
    failed: bool,
    waker: Option<Waker>,
}

impl Bodies {
    /// `repeatable`: the body is kept for further tries, or [tapped](Self::tap).
    pub(crate) fn new(body: RequestBody, progress: Option<Rc<Progress>>, repeatable: bool) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        let source = Counted { body, progress };
        if !repeatable {
            return Self::Once(Some(OutgoingBody::Once(source)));
        }
        Self::Kept(Rc::new(RefCell::new(Kept {
            source,
            frames: Vec::new(),
            bytes: 0,
            overflowed: false,
            taps: Vec::new(),
            try_number: 0,
        })))
    }

    /// Bounds how many bytes may come. `false`: the client said that there are more.
    pub(crate) fn keep_to(&self, most: Option<u64>) -> bool {
        let Some(most) = most else { return true };
        let keep = |source: &Counted| {
            if let Some(progress) = &source.progress {
                progress.limit(most);
            }
            source.body.size_hint().exact().is_none_or(|length| length <= most)
        };
        match self {
            Self::Once(Some(OutgoingBody::Once(source))) => keep(source),
            Self::Kept(shared) => keep(&shared.borrow().source),
            Self::Empty | Self::Once(_) => true,
        }
    }

    /// Whether [`next`](Self::next) has another one.
    pub(crate) fn can_repeat(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(body) => body.is_some(),
            Self::Kept(shared) => !shared.borrow().overflowed,
        }
    }

    /// The body for the next try; `None` if it cannot be sent again.
    pub(crate) fn next(&mut self) -> Option<OutgoingBody> {
        match self {
            Self::Empty => Some(OutgoingBody::Empty),
            Self::Once(body) => body.take(),
            Self::Kept(shared) => {
                let mut kept = shared.borrow_mut();
                kept.try_number += 1;
                let try_number = kept.try_number;
                (!kept.overflowed).then(|| OutgoingBody::Kept { shared: Rc::clone(shared), at: 0, try_number })
            }
        }
    }

    /// Takes back the body of a try that did not touch it.
    pub(crate) fn put_back(&mut self, body: OutgoingBody) {
        if let Self::Once(place) = self {
            *place = Some(body);
        }
    }

    /// A copy of the body for a mirror. Only before the first try.
    pub(crate) fn tap(&self) -> OutgoingBody {
        match self {
            Self::Empty | Self::Once(_) => OutgoingBody::Empty,
            Self::Kept(shared) => {
                let mut shared = shared.borrow_mut();
                let tap = Tap { length: shared.source.body.size_hint().exact(), ..Tap::default() };
                let tap = Rc::new(RefCell::new(tap));
                shared.taps.push(Rc::clone(&tap));
                OutgoingBody::Copy(tap)
            }
        }
    }
}

impl Counted {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(progress) = &self.progress {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        progress.add(data.len() as u64);
                        if progress.is_too_much() {
                            progress.fail(&BodyError::TooLarge);
                            return Poll::Ready(Some(Err(BodyError::TooLarge)));
                        }
                    }
                    if self.body.is_end_stream() {
                        progress.finish();
                    }
                }
                Poll::Ready(None) => progress.finish(),
                Poll::Ready(Some(Err(error))) => progress.fail(error),
                Poll::Pending => {}
            }
        }
        polled
    }
}

impl KeptFrame {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Some(Self::Data(data.clone())),
            (_, Some(trailers)) => Some(Self::Trailers(trailers.clone())),
            (None, None) => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }

    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl Kept {
    fn poll_frame(&mut self, at: &mut usize, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.frames.get(*at) {
            *at += 1;
            return Poll::Ready(Some(Ok(frame.clone().into_frame())));
        }
        let polled = self.source.poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(frame) = KeptFrame::of(frame) {
                    self.taps.iter().for_each(|tap| tap.borrow_mut().push(frame.clone()));
                    self.keep(frame);
                    *at += 1;
                }
                if self.source.body.is_end_stream() {
                    self.end(false);
                }
            }
            Poll::Ready(Some(Err(_))) => self.end(true),
            Poll::Ready(None) => self.end(false),
            Poll::Pending => {}
        }
        polled
    }

    fn keep(&mut self, frame: KeptFrame) {
        self.bytes += frame.len();
        if self.overflowed || self.bytes > REPLAY_BYTES {
            self.overflowed = true;
            self.frames = Vec::new();
        } else {
            self.frames.push(frame);
        }
    }

    fn end(&mut self, failed: bool) {
        for tap in self.taps.drain(..) {
            tap.borrow_mut().end(failed);
        }
    }

    /// Bytes that this try has still to send, where that is known.
    fn left(&self, at: usize) -> Option<u64> {
        let kept: usize = self.frames.iter().skip(at).map(KeptFrame::len).sum();
        Some(self.source.body.size_hint().exact()? + kept as u64)
    }
}

/// The client went away, or no try will read on.
impl Drop for Kept {
    fn drop(&mut self) {
        self.end(true);
    }
}

impl Tap {
    fn push(&mut self, frame: KeptFrame) {
        self.bytes += frame.len();
        if self.bytes > TAP_BYTES {
            self.frames.clear();
            return self.end(true);
        }
        self.frames.push_back(frame);
        self.wake();
    }

    fn end(&mut self, failed: bool) {
        self.ended = true;
        self.failed |= failed;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.failed {
            return Poll::Ready(Some(Err(BodyError::CopyLost)));
        }
        match self.frames.pop_front() {
            Some(frame) => {
                self.bytes -= frame.len();
                Poll::Ready(Some(Ok(frame.into_frame())))
            }
            None if self.ended => Poll::Ready(None),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = BodyError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Once(body) => body.poll_frame(cx),
            Self::Kept { shared, at, try_number } => {
                let mut shared = shared.borrow_mut();
                if shared.try_number == *try_number {
                    shared.poll_frame(at, cx)
                } else {
                    Poll::Ready(Some(Err(BodyError::CopyLost)))
                }
            }
            Self::Copy(tap) => tap.borrow_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(body) => body.body.is_end_stream(),
            Self::Kept { shared, at, .. } => {
                let shared = shared.borrow();
                *at >= shared.frames.len() && shared.source.body.is_end_stream()
            }
            Self::Copy(tap) => {
                let tap = tap.borrow();
                tap.ended && !tap.failed && tap.frames.is_empty()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let exact = match self {
            Self::Empty => Some(0),
            Self::Once(body) => body.body.size_hint().exact(),
            Self::Kept { shared, at, .. } => shared.borrow().left(*at),
            // Asked once, before the first frame is taken.
            Self::Copy(tap) => tap.borrow().length,
        };
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's body of one frame after the other, all there.
    fn kept(frames: &[&'static [u8]]) -> Rc<RefCell<Kept>> {
        let frames = frames.iter().map(|data| KeptFrame::Data(Bytes::from_static(data))).collect();
        let source = Counted { body: RequestBody::Empty, progress: None };
        Rc::new(RefCell::new(Kept { source, frames, bytes: 0, overflowed: false, taps: Vec::new(), try_number: 0 }))
    }

    fn read(body: &mut OutgoingBody) -> Vec<u8> {
        let mut all = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *body).poll_frame(&mut cx) {
            all.extend_from_slice(frame.data_ref().unwrap());
        }
        all
    }

    #[test]
    fn every_try_sends_the_whole_body() {
        let mut bodies = Bodies::Kept(kept(&[b"one ", b"two"]));
        for _ in 0..3 {
            let mut body = bodies.next().unwrap();
            assert_eq!(body.size_hint().exact(), Some(7));
            assert_eq!(read(&mut body), b"one two");
            assert!(body.is_end_stream());
        }
    }

    #[test]
    fn a_long_body_is_let_go() {
        let shared = kept(&[]);
        shared.borrow_mut().keep(KeptFrame::Data(vec![0; REPLAY_BYTES].into()));
        let mut bodies = Bodies::Kept(Rc::clone(&shared));
        assert!(bodies.next().is_some());
        shared.borrow_mut().keep(KeptFrame::Data(Bytes::from_static(b"x")));
        assert!(bodies.next().is_none() && shared.borrow().frames.is_empty());
    }

    #[test]
    fn a_mirror_that_lags_too_far_loses_its_copy() {
        let tap = Rc::new(RefCell::new(Tap::default()));
        let mut copy = OutgoingBody::Copy(Rc::clone(&tap));
        tap.borrow_mut().push(KeptFrame::Data(Bytes::from_static(b"early")));
        assert_eq!(read(&mut copy), b"early");
        tap.borrow_mut().push(KeptFrame::Data(vec![0; TAP_BYTES + 1].into()));
        let mut cx = Context::from_waker(Waker::noop());
        let polled = Pin::new(&mut copy).poll_frame(&mut cx);
        assert!(matches!(polled, Poll::Ready(Some(Err(BodyError::CopyLost)))));
    }
}
