//! A downstream connection from its first byte to its last.

use std::future::poll_fn;
use std::io;
use std::ops::AsyncFn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::{Request, RequestBody};
use super::chunked::Length;
use super::drain::Watch;
use super::encode;
use super::exchange::{Exchange, Upload};
use super::fields::Lines;
use super::head::{self, RequestHead};
use super::input::Input;
use super::output::Output;
use super::timer::Deadline;
use super::{Drain, Options};
use crate::http::message::Response;
use crate::http::validate::Violation;

/// How a connection's HTTP came to its end.
#[derive(Debug)]
pub enum Outcome<I> {
    /// There is nothing left to do.
    Closed(Closed),
    /// The service answered 101, the client has been told, and HTTP is over.
    Upgraded(Upgraded<I>),
}

/// A stream that speaks HTTP no longer.
#[derive(Debug)]
pub struct Upgraded<I> {
    pub io: I,
    /// What was read beyond the last head; it belongs to the new protocol.
    pub read_ahead: BytesMut,
}

/// Why a connection was closed.
#[derive(Debug)]
pub enum Closed {
    /// The client closed between two requests, or before the first.
    ByClient,
    /// No request for [`Options::idle_timeout`].
    Idle,
    /// The [`Drain`] started, and no request was under way.
    Drained,
    /// After a response, because either side asked for it, or because the request body was not read.
    AfterResponse,
    /// After the answer to a violation.
    Violation(Violation),
    /// The client went away while its request was being answered, or within a head.
    ClientGone,
    /// The client took no byte for [`Options::write_timeout`].
    WriteTimeout,
    /// The response body failed, or had another length than its head said: the client sees that it is incomplete.
    ResponseFailed,
    /// Reading or writing failed.
    Io(io::Error),
}

/// Serves one connection: calls `service` for every request, one after the other, until the connection ends.
///
/// `read_ahead` is what was already read from `io`. A request that breaks the protocol reaches the service as its
/// [`Violation`], so that it is logged, counted and answered in one place; the answer is the connection's last. Bodies
/// that break it later fail with [`BodyError::Violation`](super::BodyError::Violation).
///
/// The service's future is dropped when the client goes away. A response of status 101 ends HTTP: see
/// [`Outcome::Upgraded`].
pub async fn serve<I, S, B>(io: I, read_ahead: BytesMut, options: &Options, drain: &Drain, service: S) -> Outcome<I>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: AsyncFn(Result<Request, Violation>) -> Response<B>,
    B: Body<Data = Bytes>,
{
    let mut connection = Downstream {
        io,
        input: Input::new(read_ahead),
        output: Output::default(),
        lines: Lines::default(),
        reading: Deadline::default(),
        writing: Deadline::default(),
        drain: Watch::new(drain.clone()),
        options,
    };
    loop {
        let head = match poll_fn(|cx| connection.poll_head(cx)).await {
            Ok(head) => head,
            Err(closed) => return Outcome::Closed(closed),
        };
        // Boxed, because it is large and an idle connection has no use for it; made where it stays, because moving it
        // there costs more than anything else that is done with it here.
        let answering = Box::write(Box::new_uninit(), answer(&mut connection, head, &service));
        match Box::into_pin(answering).await {
            Ok(Answered::KeepAlive) => {}
            Ok(Answered::Switched) => {
                return Outcome::Upgraded(Upgraded { io: connection.io, read_ahead: connection.input.into_buffer() });
            }
            Err(closed) => return Outcome::Closed(closed),
        }
    }
}

/// What a connection does after a response.
enum Answered {
    /// Waits for the next request.
    KeepAlive,
    /// Speaks another protocol.
    Switched,
}

/// Has the service answer one request, and sends what it says.
async fn answer<I, S, B>(
    connection: &mut Downstream<'_, I>,
    head: Result<RequestHead, Violation>,
    service: &S,
) -> Result<Answered, Closed>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: AsyncFn(Result<Request, Violation>) -> Response<B>,
    B: Body<Data = Bytes>,
{
    let (request, method, mut exchange) = match head {
        Ok(head) => start(head, &mut connection.input),
        Err(violation) => (Err(violation), Method::GET, Exchange::new(Upload::none(), false)),
    };
    let violation = request.as_ref().err().copied();
    let response = {
        let mut call = pin!(service(request));
        poll_fn(|cx| exchange.poll_service(connection, call.as_mut(), cx)).await?
    };
    match response.status() {
        // A request whose body is still on its way cannot change the protocol under it.
        StatusCode::SWITCHING_PROTOCOLS if violation.is_none() && exchange.upload.is_done() => {
            encode::switching_head(&response.into_parts().0, &mut connection.output);
            poll_fn(|cx| connection.poll_flush(cx)).await?;
            return Ok(Answered::Switched);
        }
        status if status.is_informational() => return Err(Closed::ResponseFailed),
        _ => exchange.respond(connection, &method, response).await?,
    }
    if exchange.settle(connection).await {
        return Ok(Answered::KeepAlive);
    }
    connection.close().await;
    Err(violation.map_or(Closed::AfterResponse, Closed::Violation))
}

type Started = (Result<Request, Violation>, Method, Exchange);

/// The request for the service and the connection's view of it.
fn start(head: RequestHead, input: &mut Input) -> Started {
    let method = head.parts.method.clone();
    let (body, upload) = match head.length {
        Length::Exact(0) => (RequestBody::empty(), Upload::none()),
        length => Upload::start(length, head.expects_continue, input),
    };
    (Ok(Request { head: head.parts, body }), method, Exchange::new(upload, head.keep_alive))
}

/// The parts of a connection that outlive an exchange.
pub(super) struct Downstream<'o, I> {
    pub(super) io: I,
    pub(super) input: Input,
    pub(super) output: Output,
    lines: Lines,
    pub(super) reading: Deadline,
    pub(super) writing: Deadline,
    pub(super) drain: Watch,
    pub(super) options: &'o Options,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Downstream<'_, I> {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Result<RequestHead, Violation>, Closed>> {
        loop {
            let idle = self.input.buffer.is_empty();
            if !idle {
                match head::take(&mut self.input.buffer, &mut self.lines, self.options) {
                    Ok(Some(head)) => {
                        self.reading.clear();
                        return Poll::Ready(Ok(Ok(head)));
                    }
                    Ok(None) => {}
                    Err(violation) => return Poll::Ready(Ok(Err(violation))),
                }
            }
            match self.input.poll_read(&mut self.io, cx) {
                Poll::Ready(Ok(0)) => {
                    let closed = if idle { Closed::ByClient } else { Closed::ClientGone };
                    return Poll::Ready(Err(closed));
                }
                Poll::Ready(Ok(_)) => {
                    if idle {
                        // The head's time starts with its first byte.
                        self.reading.clear();
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Closed::Io(error))),
                // A request that has arrived is answered also when the drain has started.
                Poll::Pending if idle => {
                    if self.drain.poll(cx).is_ready() {
                        return Poll::Ready(Err(Closed::Drained));
                    }
                    ready!(self.reading.poll(self.options.idle_timeout, cx));
                    return Poll::Ready(Err(Closed::Idle));
                }
                Poll::Pending => {
                    ready!(self.reading.poll(self.options.header_timeout, cx));
                    return Poll::Ready(Ok(Err(Violation::HeaderTimeout)));
                }
            }
        }
    }

    /// Writes what is in the output, within the write timeout.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let before = self.output.total();
        match self.output.poll_flush(&mut self.io, cx) {
            Poll::Ready(result) => {
                self.writing.clear();
                Poll::Ready(result.map_err(Closed::Io))
            }
            Poll::Pending => {
                if self.output.total() > before {
                    self.writing.clear();
                }
                ready!(self.writing.poll(self.options.write_timeout, cx));
                Poll::Ready(Err(Closed::WriteTimeout))
            }
        }
    }

    /// Ends the connection so that the client gets the last response even if it is still sending: what it sends is
    /// read for a while, because closing on unread bytes would reset the connection.
    async fn close(&mut self) {
        self.reading.clear();
        self.input.reset();
        let mut left = self.options.discard_bytes;
        let mut shut = false;
        poll_fn(|cx| {
            loop {
                let moved = if shut {
                    self.input.buffer.clear();
                    self.input.poll_read(&mut self.io, cx).map_ok(|count| count as u64)
                } else {
                    Pin::new(&mut self.io).poll_shutdown(cx).map_ok(|()| 0)
                };
                match moved {
                    Poll::Ready(Ok(0)) if !shut => shut = true,
                    Poll::Ready(Ok(count)) if (1..=left).contains(&count) => left -= count,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.reading.poll(self.options.discard_time, cx),
                }
            }
        })
        .await;
    }
}
