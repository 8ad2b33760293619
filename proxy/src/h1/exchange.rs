//! One request and its response on a downstream connection.
//!
//! Everything happens in the connection's own task. The service (later the response body) is polled first; when it has
//! to wait, the connection looks whether the wait is for the request body, and otherwise watches whether the client is
//! still there. Both cost no system call while nothing has arrived.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Method;
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::{BodyError, Feed, RequestBody};
use super::chunked::{Decoded, Decoder, Length};
use super::encode;
use super::input::Input;
use super::limits::BUFFER;
use super::serve::{Closed, Downstream};
use super::spare;
use crate::http::message::Response;

/// The request body on its way from the connection to the service.
pub(super) struct Upload {
    decoder: Decoder,
    feed: Option<Feed>,
    /// The client waits for `100 Continue`.
    expects_continue: bool,
    /// The body broke off; nothing behind it on this connection can be understood.
    failed: bool,
}

impl Upload {
    pub(super) fn none() -> Self {
        Self { decoder: Decoder::new(Length::Exact(0)), feed: None, expects_continue: false, failed: false }
    }

    /// The body and what feeds it. What has arrived with the head is there at the service's first poll.
    pub(super) fn start(length: Length, expects_continue: bool, input: &mut Input) -> (RequestBody, Self) {
        let mut decoder = Decoder::new(length);
        let remaining = decoder.remaining();
        let (body, feed) = RequestBody::fed(remaining);
        let mut failed = false;
        if !input.buffer.is_empty() {
            match decoder.decode(&mut input.buffer) {
                Ok(Decoded::More) => {}
                Ok(decoded) => feed.preload(frame(decoded).map(Ok), decoder.is_done()),
                Err(violation) => {
                    feed.preload(Some(Err(violation.into())), true);
                    failed = true;
                }
            }
        }
        // A client that sends its body at once does not wait.
        let expects_continue = expects_continue && input.buffer.is_empty() && decoder.remaining() == remaining;
        (body, Self { decoder, feed: Some(feed), expects_continue, failed })
    }

    /// The whole body was taken off the connection.
    pub(super) fn is_done(&self) -> bool {
        !self.failed && self.decoder.is_done()
    }

    fn is_wanted(&self) -> bool {
        !self.failed && self.feed.as_ref().is_some_and(Feed::is_wanted)
    }

    fn put(&mut self, frame: Option<Result<Frame<Bytes>, BodyError>>, cx: &Context<'_>) {
        self.failed |= matches!(frame, Some(Err(_)));
        if let Some(feed) = &self.feed {
            feed.put(frame, self.decoder.is_done(), cx);
        }
    }
}

fn frame(decoded: Decoded) -> Option<Frame<Bytes>> {
    match decoded {
        Decoded::Data(data) => Some(Frame::data(data)),
        Decoded::Trailers(trailers) => Some(Frame::trailers(trailers)),
        Decoded::End | Decoded::More => None,
    }
}

/// What came of looking at the connection while the service waits.
enum Pumped {
    /// The request body moved: poll the service again.
    Fed,
    /// There is nothing to do.
    Nothing,
    /// There is nobody left to serve.
    Gone(Closed),
}

/// One request's state.
pub(super) struct Exchange {
    pub(super) upload: Upload,
    keep_alive: bool,
}

impl Exchange {
    pub(super) fn new(upload: Upload, keep_alive: bool) -> Self {
        Self { upload, keep_alive }
    }

    pub(super) fn poll_service<I, F>(
        &mut self,
        connection: &mut Downstream<'_, I>,
        mut call: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<F::Output, Closed>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        F: Future,
    {
        self.awake();
        loop {
            if let Poll::Ready(response) = call.as_mut().poll(cx) {
                return Poll::Ready(Ok(response));
            }
            match self.pump(connection, cx) {
                Pumped::Fed => {}
                Pumped::Nothing => return self.sleep(cx),
                Pumped::Gone(closed) => return Poll::Ready(Err(closed)),
            }
        }
    }

    /// Sends the response; the request body may still be on its way meanwhile.
    pub(super) async fn respond<I, B>(
        &mut self,
        connection: &mut Downstream<'_, I>,
        method: &Method,
        response: Response<B>,
    ) -> Result<(), Closed>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        B: Body<Data = Bytes>,
    {
        let (head, body) = response.into_parts();
        self.keep_alive &= !connection.drain.is_draining() && self.may_discard(connection.options.discard_bytes);
        // Whoever waits for `100 Continue` now has the final answer instead.
        self.upload.expects_continue = false;
        let mut encoder =
            encode::response_head(&head, method, &body.size_hint(), &mut self.keep_alive, &mut connection.output);
        spare::recycle_table(head.headers);
        let mut body = pin!(body);
        poll_fn(|cx| {
            self.awake();
            loop {
                let mut starved = false;
                while !encoder.is_done() && connection.output.has_room() {
                    let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
                        starved = true;
                        break;
                    };
                    let output = &mut connection.output;
                    let encoded = match frame {
                        None => encoder.end(None, output),
                        Some(Err(_)) => {
                            // What came before is the client's, as far as it takes it at once.
                            let _ = connection.poll_flush(cx);
                            return Poll::Ready(Err(Closed::ResponseFailed));
                        }
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) => encoder.data(data, body.is_end_stream(), output),
                            Err(frame) => encoder.end(frame.trailers_ref(), output),
                        },
                    };
                    if encoded.is_err() {
                        return Poll::Ready(Err(Closed::ResponseFailed));
                    }
                }
                match connection.poll_flush(cx) {
                    Poll::Ready(Ok(())) if encoder.is_done() => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(())) if !starved => continue,
                    Poll::Ready(Err(closed)) => return Poll::Ready(Err(closed)),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                match self.pump(connection, cx) {
                    Pumped::Fed => {}
                    Pumped::Nothing => return self.sleep(cx),
                    Pumped::Gone(closed) => return Poll::Ready(Err(closed)),
                }
            }
        })
        .await
    }

    /// After the response: reads what is left of the request body, within bounds. Whether the connection goes on.
    pub(super) async fn settle<I>(&mut self, connection: &mut Downstream<'_, I>) -> bool
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        self.upload.feed = None;
        connection.reading.clear();
        if !self.keep_alive {
            return false;
        }
        let mut left = connection.options.discard_bytes;
        let upload = &mut self.upload;
        let drained = poll_fn(|cx| {
            loop {
                match upload.decoder.decode(&mut connection.input.buffer) {
                    Ok(Decoded::Data(data)) if data.len() as u64 <= left => left -= data.len() as u64,
                    Ok(Decoded::Data(_)) | Err(_) => return Poll::Ready(false),
                    Ok(Decoded::End | Decoded::Trailers(_)) => return Poll::Ready(true),
                    Ok(Decoded::More) => match connection.input.poll_read(&mut connection.io, cx) {
                        Poll::Ready(Ok(count)) if count > 0 => {}
                        Poll::Ready(_) => return Poll::Ready(false),
                        Poll::Pending => {
                            return connection.reading.poll(connection.options.discard_time, cx).map(|()| false);
                        }
                    },
                }
            }
        })
        .await;
        connection.reading.clear();
        connection.input.reset();
        drained
    }

    /// Whether what may be left of the request body can be read and forgotten.
    fn may_discard(&self, limit: u64) -> bool {
        let upload = &self.upload;
        upload.is_done()
            || !upload.failed && !upload.expects_continue && upload.decoder.remaining().is_none_or(|left| left <= limit)
    }

    fn awake(&self) {
        if let Some(feed) = &self.upload.feed {
            feed.awake();
        }
    }

    fn sleep<T>(&self, cx: &Context<'_>) -> Poll<T> {
        if let Some(feed) = &self.upload.feed {
            feed.sleep(cx);
        }
        Poll::Pending
    }

    fn pump<I>(&mut self, connection: &mut Downstream<'_, I>, cx: &mut Context<'_>) -> Pumped
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        if self.upload.is_wanted() {
            return self.feed(connection, cx);
        }
        // While a body is on its way, reading on without need would undo its backpressure.
        if !self.upload.is_done() {
            return Pumped::Nothing;
        }
        while connection.input.buffer.len() < BUFFER {
            match connection.input.poll_read(&mut connection.io, cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Pumped::Gone(Closed::ClientGone),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Pumped::Gone(Closed::Io(error)),
            }
        }
        Pumped::Nothing
    }

    /// Gets the service the next piece of the request body.
    fn feed<I>(&mut self, connection: &mut Downstream<'_, I>, cx: &mut Context<'_>) -> Pumped
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        if self.upload.expects_continue {
            self.upload.expects_continue = false;
            connection.output.small().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if let Poll::Ready(Err(closed)) = connection.poll_flush(cx) {
            return Pumped::Gone(closed);
        }
        loop {
            match self.upload.decoder.decode(&mut connection.input.buffer) {
                Ok(Decoded::More) => {}
                Ok(decoded) => {
                    connection.reading.clear();
                    self.upload.put(frame(decoded).map(Ok), cx);
                    return Pumped::Fed;
                }
                Err(violation) => {
                    self.upload.put(Some(Err(violation.into())), cx);
                    return Pumped::Fed;
                }
            }
            let error = match connection.input.poll_read(&mut connection.io, cx) {
                Poll::Ready(Ok(count)) if count > 0 => continue,
                Poll::Ready(Ok(_)) => BodyError::UnexpectedEof,
                Poll::Ready(Err(error)) => BodyError::Io(error),
                Poll::Pending => match connection.options.body_timeout {
                    Some(timeout) if connection.reading.poll(timeout, cx).is_ready() => BodyError::Timeout,
                    _ => return Pumped::Nothing,
                },
            };
            self.upload.put(Some(Err(error)), cx);
            return Pumped::Fed;
        }
    }
}
