//! An upstream connection: one exchange at a time, and the judgement whether there may be another.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::UPGRADE;
use http_body::Body;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use super::chunked::Decoder;
use super::encode::{self, Encoder, LengthError};
use super::fields::Lines;
use super::input::Input;
use super::limits::MAX_INTERIM_RESPONSES;
use super::output::Output;
use super::response::{Reclaim, ResponseBody};
use super::status::{self, ResponseHead};
use super::{ClientOptions, Violation, spare};
use crate::http::message::{RequestParts, Response};

/// An idle upstream connection, ready for a request.
#[derive(Debug)]
pub struct Connection<I> {
    pub(super) parts: Box<Upstream<I>>,
}

/// What makes up a connection, moved about by pointer.
#[derive(Debug)]
pub(super) struct Upstream<I> {
    pub(super) io: I,
    pub(super) input: Input,
    pub(super) output: Output,
    lines: Lines,
    options: ClientOptions,
    exchanges: u64,
}

/// How an origin broke the protocol: 502, flag UPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    #[error("the status line is malformed")]
    StatusLine,
    #[error("the response head is malformed: {0}")]
    Head(Violation),
    #[error("the response head is too large")]
    HeadTooLarge,
    #[error("HTTP/1.0 has no chunked encoding")]
    ChunkedHttp10,
    #[error("the origin switched protocols unasked")]
    UnaskedUpgrade,
    #[error("the origin sent interim responses without end")]
    InterimResponses,
}

/// An exchange that came to no response. The connection is gone.
pub struct SendError<B> {
    pub kind: SendErrorKind,
    /// The transport took at least one byte of the request.
    pub written: bool,
    /// At least one byte of a response arrived.
    pub response_started: bool,
    /// The request body, if none of it was read: the request can be sent again as it was.
    pub body: Option<B>,
}

#[derive(Debug, Error)]
pub enum SendErrorKind {
    /// The origin closed the connection before its response was whole.
    #[error("the origin closed the connection")]
    Closed,
    #[error("the connection failed: {0}")]
    Io(io::Error),
    #[error("protocol error: {0}")]
    Protocol(ProtocolError),
    /// The request body failed, or had another length than it said.
    #[error("the request body failed: {0}")]
    RequestBody(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl<B> std::fmt::Debug for SendError<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendError")
            .field("kind", &self.kind)
            .field("written", &self.written)
            .field("response_started", &self.response_started)
            .field("body_is_whole", &self.body.is_some())
            .finish()
    }
}

impl<B> std::fmt::Display for SendError<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.kind.fmt(f)
    }
}

impl<B> std::error::Error for SendError<B> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.kind.source()
    }
}

impl<B> SendError<B> {
    /// The connection looks to have been closed by the origin while it was idle: no answer at all, and the request can
    /// be repeated. Whether it *may* be is the caller's judgement (a reused connection, an idempotent method).
    pub fn is_stale(&self) -> bool {
        !self.response_started
            && self.body.is_some()
            && matches!(self.kind, SendErrorKind::Closed | SendErrorKind::Io(_))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Connection<I> {
    /// A connection just established.
    pub fn new(io: I, options: ClientOptions) -> Self {
        let parts = Upstream {
            io,
            input: Input::new(BytesMut::new()),
            output: Output::default(),
            lines: Lines::default(),
            options,
            exchanges: 0,
        };
        Self { parts: Box::new(parts) }
    }

    /// Exchanges that went through this connection.
    pub fn exchanges(&self) -> u64 {
        self.parts.exchanges
    }

    /// What the connection runs on.
    pub fn io(&self) -> &I {
        &self.parts.io
    }

    /// Whether an idle connection can still be used: the origin has neither closed it nor sent what nobody asked for,
    /// as far as the runtime has seen. No system call is made while nothing happened.
    pub fn is_quiet(&mut self) -> bool {
        let Upstream { io, input, .. } = &mut *self.parts;
        input.poll_read(io, &mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Sends a request and waits for the head of the response; interim responses are swallowed.
    ///
    /// The request body is sent while the response is awaited and, should that come first, while its body is polled.
    /// `reclaim` gets the connection back once both are through and another exchange may follow. With
    /// `Expect: 100-continue` the body is first polled when the origin says so, or after
    /// [`ClientOptions::continue_timeout`].
    ///
    /// Framing headers of `head` are ignored: the body's own [size](Body::size_hint) decides. An Upgrade header makes
    /// this an upgrade request; the origin's 101 is a response whose body is
    /// [`into_upgraded`](ResponseBody::into_upgraded).
    ///
    /// # Errors
    /// See [`SendErrorKind`]. Dropping the future closes the connection.
    pub async fn send<B, R>(
        self,
        head: &RequestParts,
        body: B,
        reclaim: R,
    ) -> Result<Response<ResponseBody<I, B, R>>, SendError<B>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        R: Reclaim<I>,
    {
        let mut upstream = self.parts;
        upstream.exchanges += 1;
        let mut sending = Sending::start(&mut upstream, head, body);
        let before = upstream.output.total();
        let mut interims = 0;
        let received = poll_fn(|cx| {
            loop {
                match upstream.poll_head(&mut sending, head, cx) {
                    Poll::Ready(Ok(head)) if head.response.status().is_informational() => {
                        if head.response.status() == StatusCode::SWITCHING_PROTOCOLS {
                            return Poll::Ready(Ok(head));
                        }
                        interims += 1;
                        if interims > MAX_INTERIM_RESPONSES {
                            return Poll::Ready(Err(SendErrorKind::Protocol(ProtocolError::InterimResponses)));
                        }
                        if head.response.status() == StatusCode::CONTINUE {
                            sending.proceed();
                        }
                        spare::recycle_table(head.response.into_parts().0.headers);
                    }
                    other => return other,
                }
            }
        })
        .await;
        let result = received.and_then(|received| {
            let switching = received.response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if switching && !(head.headers.contains_key(UPGRADE) && sending.is_done()) {
                return Err(SendErrorKind::Protocol(ProtocolError::UnaskedUpgrade));
            }
            Ok(received)
        });
        match result {
            Ok(ResponseHead { response, length, keep_alive }) => {
                let decoder = Decoder::new(length);
                let (head, ()) = response.into_parts();
                let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
                let body = ResponseBody::new(upstream, sending, decoder, keep_alive, switching, reclaim);
                Ok(Response::from_parts(head, body))
            }
            Err(kind) => Err(SendError {
                written: upstream.output.total() > before,
                response_started: interims > 0 || !upstream.input.buffer.is_empty(),
                body: sending.into_untouched(),
                kind,
            }),
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Upstream<I> {
    fn poll_head<B>(
        &mut self,
        sending: &mut Sending<B>,
        head: &RequestParts,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, SendErrorKind>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut write_error = None;
        if let Poll::Ready(Err(error)) = sending.poll(self, cx) {
            match error {
                // An origin that answers early and closes makes writing fail; its answer counts.
                SendErrorKind::Io(error) => write_error = Some(error),
                other => return Poll::Ready(Err(other)),
            }
        }
        loop {
            if !self.input.buffer.is_empty() {
                let taken = status::take(&mut self.input.buffer, &mut self.lines, &self.options, &head.method);
                if let Some(head) = taken.map_err(SendErrorKind::Protocol)? {
                    return Poll::Ready(Ok(head));
                }
            }
            let error = match self.input.poll_read(&mut self.io, cx) {
                Poll::Ready(Ok(count)) if count > 0 => continue,
                Poll::Ready(Ok(_)) => SendErrorKind::Closed,
                Poll::Ready(Err(error)) => SendErrorKind::Io(error),
                Poll::Pending => match write_error.take() {
                    None => return Poll::Pending,
                    Some(error) => SendErrorKind::Io(error),
                },
            };
            return Poll::Ready(Err(error));
        }
    }
}

/// The request on its way out.
#[derive(Debug)]
pub(super) struct Sending<B> {
    body: Option<B>,
    encoder: Encoder,
    /// Set while the origin is asked whether it wants the body at all.
    asking: Option<Pin<Box<Sleep>>>,
    touched: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sending,
    Done,
    Failed,
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn start<I>(upstream: &mut Upstream<I>, head: &RequestParts, body: B) -> Self {
        let encoder = encode::request_head(head, &body.size_hint(), &mut upstream.output);
        let asks = !encoder.is_done() && encode::expects_continue(&head.headers);
        let asking = asks.then(|| Box::pin(sleep(upstream.options.continue_timeout)));
        Self { body: Some(body), encoder, asking, touched: false, state: State::Sending }
    }

    /// The origin wants the body.
    fn proceed(&mut self) {
        self.asking = None;
    }

    /// Everything was written.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Nothing more can be written.
    pub(super) fn is_over(&self) -> bool {
        self.state != State::Sending
    }

    fn into_untouched(self) -> Option<B> {
        self.body.filter(|_| !self.touched)
    }

    /// Writes as much as both the request body and the transport allow. Ready when the request is out or has failed.
    pub(super) fn poll<I>(
        &mut self,
        upstream: &mut Upstream<I>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendErrorKind>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        if self.is_over() {
            return Poll::Ready(Ok(()));
        }
        let result = self.poll_steps(upstream, cx);
        if let Poll::Ready(result) = &result {
            self.state = if result.is_ok() { State::Done } else { State::Failed };
        }
        result
    }

    fn poll_steps<I>(&mut self, upstream: &mut Upstream<I>, cx: &mut Context<'_>) -> Poll<Result<(), SendErrorKind>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let starved = self.poll_body(&mut upstream.output, cx)?;
            match upstream.output.poll_flush(&mut upstream.io, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(SendErrorKind::Io(error))),
                Poll::Ready(Ok(())) if self.encoder.is_done() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if starved => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
            }
        }
    }

    /// Moves body frames into the output while there is room; `true` if the body has none just now.
    fn poll_body(&mut self, output: &mut Output, cx: &mut Context<'_>) -> Result<bool, SendErrorKind> {
        if let Some(asking) = &mut self.asking {
            if asking.as_mut().poll(cx).is_pending() {
                return Ok(true);
            }
            self.asking = None;
        }
        let Some(body) = &mut self.body else { return Ok(true) };
        let wrong_length = |error: LengthError| SendErrorKind::RequestBody(error.into());
        while !self.encoder.is_done() && output.has_room() {
            let frame = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(frame) => frame,
            };
            self.touched = true;
            match frame {
                None => self.encoder.end(None, output).map_err(wrong_length)?,
                Some(Err(error)) => return Err(SendErrorKind::RequestBody(error.into())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.encoder.data(data, body.is_end_stream(), output).map_err(wrong_length)?,
                    Err(frame) => self.encoder.end(frame.trailers_ref(), output).map_err(wrong_length)?,
                },
            }
        }
        Ok(false)
    }
}
