//! The body of a stream's answer: messages that are serialised already, and the status at the end.
//!
//! Written by hand, so that what was serialised once for all proxies of a scope goes out as it is: a codec would copy it
//! into a buffer that each stream keeps.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::sync::mpsc;
use tonic::Status;

/// What is sent: pieces of messages, then why the stream ends; without a reason it ends well.
pub(super) type Sender = mpsc::Sender<Result<Bytes, Status>>;

#[derive(Debug)]
pub(super) struct Messages {
    pieces: mpsc::Receiver<Result<Bytes, Status>>,
    ended: bool,
}

impl Messages {
    /// Little room: a proxy that reads slowly makes its session wait, and nothing else.
    pub(super) fn channel() -> (Sender, Self) {
        let (sender, pieces) = mpsc::channel(2);
        (sender, Self { pieces, ended: false })
    }

    pub(super) fn into_response(self) -> http::Response<tonic::body::Body> {
        let mut response = http::Response::new(tonic::body::Body::new(self));
        let grpc = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
        response
    }
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let status = match std::task::ready!(self.pieces.poll_recv(cx)) {
            Some(Ok(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.ended = true;
        let mut trailers = HeaderMap::new();
        let added = status.add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
    }
}
