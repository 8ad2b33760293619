//! Bodies on their way through: nothing is copied or collected, and each side is polled only when the other has room.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::context::Exchange;
use super::headers::GRPC_STATUS;
use super::local_reply::LocalReply;
use crate::h1;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::metrics::Count;
use crate::upstream::connection::{Http1Body, Http2Body, http2_failure};

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Http1(#[from] h1::BodyError),
    #[error(transparent)]
    Http2(#[from] hyper::Error),
    #[error("the route's timeout passed")]
    Timeout,
    #[error("the request's body is longer than its route takes")]
    TooLarge,
    /// A mirror's that was too slow, or an earlier try's.
    #[error("the copy of the request body was given up")]
    CopyLost,
}

impl BodyError {
    /// How a request fares whose body could not be sent on.
    pub(crate) fn of_request(error: &(dyn std::error::Error + 'static)) -> LocalReply {
        match error.downcast_ref() {
            Some(Self::Http1(h1::BodyError::Timeout)) => LocalReply::RequestTimeout,
            Some(Self::TooLarge) => LocalReply::PayloadTooLarge,
            // Without an error of the body's own it was not as long as it said.
            Some(Self::Http1(h1::BodyError::Violation(_))) | None => LocalReply::RequestBody,
            Some(_) => LocalReply::RequestAborted,
        }
    }
}

/// The body of a request as it comes from the client.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Http1(h1::RequestBody),
    Http2(Incoming),
}

impl RequestBody {
    pub(crate) fn from_http2(body: Incoming) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::Http2(body) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Http1),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// The body of a response as it comes from upstream, or from the proxy itself.
#[derive(Debug)]
pub(crate) enum Source {
    Local(Bytes),
    Http1(Http1Body),
    Http2(Http2Body),
    /// What came before has to reach the client first.
    Broken(Option<BodyError>),
}

impl Body for Source {
    type Data = Bytes;
    type Error = BodyError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Local(data) if data.is_empty() => Poll::Ready(None),
            Self::Local(data) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Http1),
            Self::Http2(body) => Pin::new(&mut body.body).poll_frame(cx).map_err(BodyError::Http2),
            Self::Broken(error) => Poll::Ready(error.take().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(data) => data.is_empty(),
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.body.is_end_stream(),
            Self::Broken(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(data) => SizeHint::with_exact(data.len() as u64),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.body.size_hint(),
            Self::Broken(_) => SizeHint::default(),
        }
    }
}

/// The body of a response as it goes to the client. It owns the [`Exchange`], so that the request ends for telemetry
/// and for the endpoint's count when the body does, or when the client goes away.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    /// `None` for a response that says no more than that a tunnel begins.
    exchange: Option<Box<Exchange>>,
}

impl ResponseBody {
    pub(crate) fn new(source: Source, exchange: Box<Exchange>) -> Self {
        Self { source, exchange: Some(exchange) }
    }

    /// No body, and nothing that ends with it.
    pub(crate) fn detached() -> Self {
        Self { source: Source::Local(Bytes::new()), exchange: None }
    }

    pub(crate) fn exchange(&self) -> Option<&Exchange> {
        self.exchange.as_deref()
    }

    /// Notes why the response ends before its end.
    fn failed(&mut self, error: &BodyError) {
        let Some(exchange) = &mut self.exchange else { return };
        let of_request = exchange.progress.as_ref().and_then(|progress| progress.failed());
        let reply = match error {
            // The client's own body broke, which it is told by the connection's end.
            BodyError::Http1(h1::BodyError::Request(error)) => BodyError::of_request(&**error),
            BodyError::Http1(h1::BodyError::Violation(_)) => LocalReply::UpstreamProtocol,
            BodyError::Http1(_) => LocalReply::UpstreamClosed,
            BodyError::Http2(error) => of_request.unwrap_or_else(|| http2_failure(error)),
            BodyError::Timeout => exchange.deadline.as_ref().map_or(LocalReply::Timeout, |deadline| deadline.reply),
            // A request's body alone can be one of these.
            BodyError::CopyLost | BodyError::TooLarge => return,
        };
        exchange.flag(reply.flags());
        match reply {
            // That the client went away is noted at the end of the exchange.
            LocalReply::RequestAborted => return,
            // The answer had begun, so that nothing else can tell.
            LocalReply::PayloadTooLarge => exchange.flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR),
            LocalReply::RequestBody => exchange.worker().metrics.count(Count::ProtocolViolationsDownstream),
            LocalReply::UpstreamProtocol => exchange.worker().metrics.count(Count::ProtocolViolationsUpstream),
            _ => {}
        }
        exchange.details = Some(reply.late_details());
    }

    /// A stream of HTTP/2 that is reset loses what was not sent yet, head included: that goes first.
    fn broken(
        &mut self,
        polled: Poll<Option<Result<Frame<Bytes>, BodyError>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(Some(Err(error))) = polled else { return polled };
        if matches!(self.source, Source::Broken(_)) {
            return Poll::Ready(Some(Err(error)));
        }
        self.failed(&error);
        if self.exchange.as_ref().is_none_or(|exchange| exchange.version != Version::HTTP_2) {
            return Poll::Ready(Some(Err(error)));
        }
        self.source = Source::Broken(Some(error));
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What follows the part of the response that the client has when its time is over. A gRPC call ends with a status,
    /// which tells its client more than a stream that is reset: the upstream is reset in either case.
    fn out_of_time(&mut self, reply: LocalReply) -> Result<Frame<Bytes>, BodyError> {
        self.failed(&BodyError::Timeout);
        let Some(exchange) = &mut self.exchange else { return Err(BodyError::Timeout) };
        // Only HTTP/2 clients can do without the announcement of trailers, and none may get less than a given length.
        if !exchange.grpc || exchange.version != Version::HTTP_2 || self.source.size_hint().exact().is_some() {
            return Err(BodyError::Timeout);
        }
        let trailers = reply.grpc_trailers();
        exchange.note_grpc_status(trailers.get(GRPC_STATUS));
        exchange.deadline = None;
        self.source = Source::Local(Bytes::new());
        Ok(Frame::trailers(trailers.into()))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.source).poll_frame(cx);
        match (&polled, &mut this.exchange) {
            (Poll::Ready(Some(Ok(frame))), Some(exchange)) => match frame.data_ref() {
                Some(data) => exchange.sent += data.len() as u64,
                None => exchange.note_grpc_status(frame.trailers_ref().and_then(|trailers| trailers.get(GRPC_STATUS))),
            },
            (Poll::Ready(Some(Err(_))), _) => return this.broken(polled, cx),
            (Poll::Ready(None), Some(exchange)) => exchange.complete = true,
            (Poll::Pending, exchange) => {
                let deadline = exchange.as_mut().and_then(|exchange| exchange.deadline.as_mut());
                let Some(deadline) = deadline else { return Poll::Pending };
                std::task::ready!(deadline.poll(cx));
                let reply = deadline.reply;
                return Poll::Ready(Some(this.out_of_time(reply)));
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

/// A server that sees no more to send stops polling.
impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            // A reply of the proxy's own has no second half that could fail; that to a HEAD is never read.
            exchange.complete |= self.source.is_end_stream() || matches!(self.source, Source::Local(_));
        }
    }
}
