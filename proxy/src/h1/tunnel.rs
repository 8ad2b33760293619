//! Bytes through a proxy further on: a connection that CONNECT opened (RFC 9110 section 9.3.6), or the two bodies of a
//! POST that are sent as they come.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, StatusCode};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::ClientOptions;
use super::chunked::{Decoded, Decoder};
use super::client::ProtocolError;
use super::fields::Lines;
use super::input::Input;
use super::limits::MAX_INTERIM_RESPONSES;
use super::status;

/// What one chunk of a POST holds at most.
const MAX_CHUNK: usize = 64 * 1024;

/// A stream whose bytes come and go through a proxy.
#[derive(Debug)]
pub struct Tunnel<I> {
    io: I,
    input: Input,
    /// The body of the answer to a POST; `None`: what is received is what was meant.
    decoder: Option<Decoder>,
    /// Decoded, and not taken yet.
    decoded: Bytes,
    /// What is sent is the body of a POST.
    chunked: bool,
    /// Framed, and not written yet.
    framed: BytesMut,
    /// The body of the POST has its end.
    ended: bool,
}

/// Why there is no tunnel.
#[derive(Debug, Error)]
pub enum TunnelError {
    #[error("the proxy closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the proxy breaks the protocol: {0}")]
    Protocol(ProtocolError),
    #[error("the proxy answered {0}")]
    Refused(StatusCode),
}

impl<I: AsyncRead + AsyncWrite + Unpin> Tunnel<I> {
    /// Asks for a tunnel to `authority` (`host:port`) by a CONNECT or a POST. The caller bounds the time.
    ///
    /// # Errors
    /// The proxy answers a CONNECT with other than 2xx, a POST with other than 200, or not at all.
    pub async fn open(mut io: I, method: &Method, authority: &str) -> Result<Self, TunnelError> {
        let chunked = method == Method::POST;
        let head = if chunked {
            format!("POST / HTTP/1.1\r\nhost: {authority}\r\ntransfer-encoding: chunked\r\n\r\n")
        } else {
            format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n")
        };
        io.write_all(head.as_bytes()).await?;
        io.flush().await?;
        let (mut input, mut lines, options) = (Input::new(BytesMut::new()), Lines::default(), ClientOptions::default());
        let mut interims = 0;
        let answer = loop {
            let taken = if input.buffer.is_empty() {
                None
            } else {
                status::take(&mut input.buffer, &mut lines, &options, method).map_err(TunnelError::Protocol)?
            };
            match taken {
                None => {
                    if poll_fn(|cx| input.poll_read(&mut io, cx)).await? == 0 {
                        return Err(TunnelError::Closed);
                    }
                }
                Some(head) if head.response.status().is_informational() && interims < MAX_INTERIM_RESPONSES => {
                    interims += 1;
                }
                Some(head) => break head,
            }
        };
        let status = answer.response.status();
        let open = if chunked { status == StatusCode::OK } else { status.is_success() };
        if !open {
            return Err(TunnelError::Refused(status));
        }
        // What frames an answer to CONNECT means nothing (RFC 9110 section 9.3.6).
        let decoder = chunked.then(|| Decoder::new(answer.length));
        Ok(Self { io, input, decoder, decoded: Bytes::new(), chunked, framed: BytesMut::new(), ended: false })
    }

    /// What the tunnel runs on.
    pub fn io(&self) -> &I {
        &self.io
    }

    fn poll_decoded(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let (Some(decoder), true) = (&mut self.decoder, self.decoded.is_empty()) {
            let invalid = |violation| io::Error::new(io::ErrorKind::InvalidData, violation);
            match decoder.decode(&mut self.input.buffer).map_err(invalid)? {
                Decoded::Data(data) => self.decoded = data,
                Decoded::Trailers(_) | Decoded::End => break,
                Decoded::More => {
                    if ready!(self.input.poll_read(&mut self.io, cx))? == 0 {
                        let whole = decoder.end_of_stream();
                        return Poll::Ready(if whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is framed.
    fn poll_framed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.framed.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.framed))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.framed.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn fill(from: &[u8], buf: &mut ReadBuf<'_>) -> usize {
    let count = from.len().min(buf.remaining());
    buf.put_slice(&from[..count]);
    count
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.decoder.is_some() {
            ready!(this.poll_decoded(cx))?;
            let count = fill(&this.decoded, buf);
            this.decoded.advance(count);
            return Poll::Ready(Ok(()));
        }
        // What came with the answer.
        if !this.input.buffer.is_empty() {
            let count = fill(&this.input.buffer, buf);
            this.input.buffer.advance(count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.chunked {
            return Pin::new(&mut this.io).poll_write(cx, buf);
        }
        ready!(this.poll_framed(cx))?;
        let data = &buf[..buf.len().min(MAX_CHUNK)];
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.framed.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        this.framed.extend_from_slice(data);
        this.framed.extend_from_slice(b"\r\n");
        // What does not go out now goes before the next chunk, or with the flush.
        if let Poll::Ready(Err(error)) = this.poll_framed(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_framed(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.chunked {
            return Pin::new(&mut this.io).poll_shutdown(cx);
        }
        // The end of the body; the connection stays open for the answer's.
        if !this.ended {
            this.ended = true;
            this.framed.extend_from_slice(b"0\r\n\r\n");
        }
        ready!(this.poll_framed(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    /// The tunnel that is made of this answer, or why none is.
    async fn opened(method: &Method, answer: &str) -> Result<(Tunnel<tokio::io::DuplexStream>, String), String> {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(answer.as_bytes()).await.unwrap();
        far.shutdown().await.unwrap();
        let tunnel = Tunnel::open(near, method, "db.test:5432").await.map_err(|error| error.to_string())?;
        let mut head = vec![0; 1024];
        let count = far.read(&mut head).await.unwrap();
        Ok((tunnel, String::from_utf8_lossy(&head[..count]).into_owned()))
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_by_name_and_carries_what_comes_behind_the_answer() {
        for answer in [
            "HTTP/1.1 200 Connection established\r\n\r\nhello",
            "HTTP/1.0 200 OK\r\nproxy-agent: x\r\n\r\nhello",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nhello",
        ] {
            let (mut tunnel, head) = opened(&Method::CONNECT, answer).await.unwrap();
            assert_eq!(head, "CONNECT db.test:5432 HTTP/1.1\r\nhost: db.test:5432\r\n\r\n");
            let mut text = String::new();
            tunnel.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "hello", "{answer}");
        }
        for answer in [
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\n\r\nhello",
        ] {
            let (mut tunnel, head) = opened(&Method::POST, answer).await.unwrap();
            assert_eq!(head, "POST / HTTP/1.1\r\nhost: db.test:5432\r\ntransfer-encoding: chunked\r\n\r\n");
            let mut text = String::new();
            tunnel.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "hello", "{answer}");
        }
    }

    #[tokio::test]
    async fn what_is_no_tunnel_is_told() {
        for (method, answer, why) in [
            (
                Method::CONNECT,
                "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                "the proxy answered 407 Proxy Authentication Required",
            ),
            (Method::CONNECT, "HTTP/1.1 301 Moved\r\n\r\n", "the proxy answered 301 Moved Permanently"),
            (Method::POST, "HTTP/1.1 204 No Content\r\n\r\n", "the proxy answered 204 No Content"),
            (Method::CONNECT, "HTTP/1.1 200 OK\r\n", "the proxy closed the connection"),
            (Method::CONNECT, "", "the proxy closed the connection"),
            (Method::CONNECT, "SSH-2.0-x\r\n", "the proxy breaks the protocol: the status line is malformed"),
        ] {
            assert_eq!(opened(&method, answer).await.map(|_| ()), Err(why.to_owned()), "{answer}");
        }
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello";
        let (mut tunnel, _) = opened(&Method::POST, cut).await.unwrap();
        let error = tunnel.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_one_chunked_body(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..8),
            room in 1usize..400,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let sent = runtime.block_on(async {
                let (near, mut far) = duplex(room);
                let opening = Tunnel::open(near, &Method::POST, "a:1");
                let answering = async {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(far.read_u8().await.unwrap());
                    }
                    far.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    far
                };
                let (tunnel, mut far) = tokio::join!(opening, answering);
                let mut tunnel = tunnel.unwrap();
                let writing = async {
                    for part in &parts {
                        tunnel.write_all(part).await.unwrap();
                    }
                    tunnel.shutdown().await.unwrap();
                    drop(tunnel);
                };
                let mut received = Vec::new();
                let ((), read) = tokio::join!(writing, far.read_to_end(&mut received));
                read.unwrap();
                received
            });
            let mut decoder = Decoder::new(super::super::chunked::Length::Chunked);
            let (mut buffer, mut body) = (BytesMut::from(&sent[..]), Vec::new());
            loop {
                match decoder.decode(&mut buffer).unwrap() {
                    Decoded::Data(data) => body.extend_from_slice(&data),
                    Decoded::End => break,
                    other => panic!("{other:?}"),
                }
            }
            prop_assert_eq!(body, parts.concat());
            prop_assert!(buffer.is_empty());
        }
    }
}
