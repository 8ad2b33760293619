//! Raw bytes in, raw bytes out.

mod client;
mod framing;
mod hazards;
mod properties;
mod serving;

use std::cell::RefCell;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::http::message::Response;

/// What reached the service.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Request { line: String, headers: Vec<String>, body: Result<String, String>, trailers: Vec<String> },
    Violation(Violation),
}

/// What a client observed, and what the service saw.
#[derive(Debug)]
struct Observed {
    output: String,
    seen: Vec<Seen>,
    closed: Closed,
}

fn options() -> Options {
    Options::default()
}

fn fields<'a>(headers: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> Vec<String> {
    headers.into_iter().map(|(name, value)| format!("{name}: {}", value.as_bytes().escape_ascii())).collect()
}

async fn record(request: Result<crate::h1::Request, Violation>, seen: &RefCell<Vec<Seen>>) -> (StatusCode, Bytes) {
    let request = match request {
        Ok(request) => request,
        Err(violation) => {
            seen.borrow_mut().push(Seen::Violation(violation));
            return (violation.status(), Bytes::new());
        }
    };
    let (head, body) = request.into_parts();
    let line = format!("{} {}", head.method, head.uri);
    let (body, trailers, status) = match body.collect().await {
        Ok(body) => {
            let trailers = body.trailers().map(fields).unwrap_or_default();
            (Ok(body.to_bytes().escape_ascii().to_string()), trailers, StatusCode::OK)
        }
        Err(error) => (Err(error.to_string()), Vec::new(), StatusCode::BAD_REQUEST),
    };
    let answer = Bytes::from(body.clone().unwrap_or_default());
    seen.borrow_mut().push(Seen::Request { line, headers: fields(&head.headers), body, trailers });
    (status, answer)
}

/// A response whose bytes are known in full: its Date is `x`.
fn response<B>(status: StatusCode, body: B) -> Response<B> {
    http::Response::builder().status(status).header("date", "x").body(body).expect("a valid response").into()
}

/// A client that sends `pieces` one after the other, then closes its side, to a service that answers with the request
/// body.
async fn talk_with(pieces: &[&[u8]], options: &Options) -> Observed {
    let (mut client, server) = duplex(1 << 20);
    let seen = RefCell::new(Vec::new());
    let drain = Drain::new();
    let serving = serve(server, BytesMut::new(), options, &drain, async |request| {
        let (status, body) = record(request, &seen).await;
        response(status, Full::new(body))
    });
    let talking = async {
        for piece in pieces {
            // The server may have closed already.
            let _ = client.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        let _ = client.shutdown().await;
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.expect("a duplex does not fail");
        output.escape_ascii().to_string().replace("\\r\\n", "\n")
    };
    let (outcome, output) = tokio::join!(serving, talking);
    let Outcome::Closed(closed) = outcome else { panic!("nobody switched protocols") };
    Observed { output, seen: seen.into_inner(), closed }
}

async fn talk(input: &[u8]) -> Observed {
    talk_with(&[input], &options()).await
}

fn request(line: &str, headers: &[&str], body: &str) -> Seen {
    let headers = headers.iter().map(|&header| header.to_owned()).collect();
    Seen::Request { line: line.to_owned(), headers, body: Ok(body.to_owned()), trailers: Vec::new() }
}

/// Reads until `end` has arrived.
async fn read_until(io: &mut DuplexStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        assert_ne!(io.read_buf(&mut read).await.expect("a duplex does not fail"), 0, "{}", read.escape_ascii());
    }
    String::from_utf8(read).expect("tests speak ASCII")
}

/// A body that yields what the test sends.
struct Channel(tokio::sync::mpsc::UnboundedReceiver<Result<Frame<Bytes>, BodyError>>);

impl Body for Channel {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(cx)
    }
}

fn channel() -> (tokio::sync::mpsc::UnboundedSender<Result<Frame<Bytes>, BodyError>>, Channel) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    (sender, Channel(receiver))
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}
