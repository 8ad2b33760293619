//! Clients: HTTP/1 by hand, so that every byte is seen; HTTP/2 by hyper.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// A keep-alive HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct Http1 {
    pub(crate) io: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

impl Http1 {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self { io: BufReader::new(TcpStream::connect(addr).await.expect("connects")) }
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Reply {
        self.ask(host, path).await;
        self.reply().await
    }

    /// Sends a GET request.
    pub(crate) async fn ask(&mut self, host: &str, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.io.get_mut().write_all(bytes.as_ref()).await.expect("writes");
    }

    /// The next response to a request that is not HEAD.
    pub(crate) async fn reply(&mut self) -> Reply {
        let mut reply = self.head().await.expect("a response");
        if reply.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(self.line().await.expect("a chunk").trim(), 16).expect("a size");
                if size == 0 {
                    break;
                }
                let start = reply.body.len();
                reply.body.resize(start + size + 2, 0);
                self.io.read_exact(&mut reply.body[start..]).await.expect("a chunk");
                reply.body.truncate(start + size);
            }
            reply.trailers = self.fields().await;
        } else if let Some(length) = reply.header("content-length") {
            reply.body.resize(length.parse().expect("a length"), 0);
            self.io.read_exact(&mut reply.body).await.expect("the body");
        }
        reply
    }

    /// The head of the next response; `None` if the connection ends first.
    pub(crate) async fn head(&mut self) -> Option<Reply> {
        let line = self.line().await?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        Some(Reply { status, headers: self.fields().await, body: Vec::new(), trailers: Vec::new() })
    }

    /// Whether the server has closed the connection.
    pub(crate) async fn is_closed(&mut self) -> bool {
        matches!(self.io.read(&mut [0]).await, Ok(0) | Err(_))
    }

    pub(crate) async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.io.read_line(&mut line).await.ok()?;
        (count > 0).then(|| line.trim_end().to_owned())
    }

    pub(crate) async fn fields(&mut self) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await.expect("the head goes on");
            let Some((name, value)) = line.split_once(':') else { return fields };
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

/// An HTTP/2 connection by prior knowledge.
pub(crate) async fn connect_http2(addr: SocketAddr) -> http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(addr).await.expect("connects");
    // A request does not wait until the server has acknowledged the frames before it.
    stream.set_nodelay(true).expect("an open connection");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection);
    sender
}
