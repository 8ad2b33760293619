//! The body of an origin's response, and the connection's way back to its pool.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::BodyError;
use super::chunked::{Decoded, Decoder};
use super::client::{Connection, SendErrorKind, Sending, Upstream};
use super::serve::Upgraded;

/// Where a connection goes that may carry another exchange. Any `FnOnce(Connection<I>)` will do.
pub trait Reclaim<I> {
    fn reclaim(self, connection: Connection<I>);
}

impl<I, F: FnOnce(Connection<I>)> Reclaim<I> for F {
    fn reclaim(self, connection: Connection<I>) {
        self(connection);
    }
}

/// The body of a response. Polling it also sends what is left of the request. Dropping it before its end closes the
/// connection.
pub struct ResponseBody<I, B, R> {
    exchange: Option<Exchange<I, B, R>>,
    decoder: Decoder,
}

struct Exchange<I, B, R> {
    upstream: Box<Upstream<I>>,
    /// What is left of the request; mostly nothing is. Apart, because a response is moved about a lot.
    sending: Option<Box<Sending<B>>>,
    keep_alive: bool,
    switching: bool,
    reclaim: R,
}

impl<I, B, R> std::fmt::Debug for ResponseBody<I, B, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

impl<I, B, R> ResponseBody<I, B, R>
where
    I: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    R: Reclaim<I>,
{
    pub(super) fn new(
        upstream: Box<Upstream<I>>,
        sending: Sending<B>,
        decoder: Decoder,
        keep_alive: bool,
        switching: bool,
        reclaim: R,
    ) -> Self {
        let sending = (!sending.is_done()).then(|| Box::new(sending));
        let exchange = Exchange { upstream, sending, keep_alive, switching, reclaim };
        let mut body = Self { exchange: Some(exchange), decoder };
        body.finish_if_done();
        body
    }

    /// After a 101 response: the stream, now of the new protocol. `None` after any other.
    pub fn into_upgraded(mut self) -> Option<Upgraded<I>> {
        let exchange = self.exchange.take().filter(|exchange| exchange.switching)?;
        let upstream = *exchange.upstream;
        Some(Upgraded { io: upstream.io, read_ahead: upstream.input.into_buffer() })
    }

    /// At the end of the response the connection goes back or is closed. It goes back only if the request went out
    /// whole and nothing was received that nobody asked for.
    fn finish_if_done(&mut self) {
        if !self.decoder.is_done() || self.exchange.as_ref().is_none_or(|exchange| exchange.switching) {
            return;
        }
        if let Some(Exchange { mut upstream, sending, keep_alive, reclaim, .. }) = self.exchange.take()
            && keep_alive
            && sending.is_none_or(|sending| sending.is_done())
            && upstream.input.buffer.is_empty()
        {
            upstream.input.reset();
            reclaim.reclaim(Connection { parts: upstream });
        }
    }

    fn poll_decoded(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
        if exchange.switching {
            return Poll::Ready(None);
        }
        let Exchange { upstream, sending, .. } = exchange;
        if let Some(sending) = sending
            && !sending.is_over()
            && let Poll::Ready(Err(SendErrorKind::RequestBody(error))) = sending.poll(upstream, cx)
        {
            return Poll::Ready(Some(Err(BodyError::Request(error))));
        }
        loop {
            match self.decoder.decode(&mut upstream.input.buffer) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Decoded::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(violation) => return Poll::Ready(Some(Err(violation.into()))),
            }
            match upstream.input.poll_read(&mut upstream.io, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(Ok(_)) if self.decoder.end_of_stream() => return Poll::Ready(None),
                Poll::Ready(Ok(_)) => return Poll::Ready(Some(Err(BodyError::UnexpectedEof))),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }
}

impl<I, B, R> Body for ResponseBody<I, B, R>
where
    I: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    R: Reclaim<I> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_decoded(cx);
        match &polled {
            Poll::Ready(Some(Err(_))) => self.exchange = None,
            Poll::Ready(_) => self.finish_if_done(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none() && self.decoder.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
