//! Origins that fail, each in its own way.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// An origin that does the same on every connection.
pub(super) struct Faulty {
    pub(super) addr: SocketAddr,
    server: JoinHandle<()>,
}

impl Faulty {
    pub(super) async fn start<F, S>(serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // What is said in two parts comes at once, without the proxy's acknowledgement of the first.
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream));
            }
        });
        Self { addr, server }
    }

    /// Says this after the head of a request, and then resets the connection.
    pub(super) async fn saying(answer: &'static [u8]) -> Self {
        Self::start(move |mut stream| async move {
            if request(&mut stream).await {
                let _ = stream.write_all(answer).await;
                reset(stream);
            }
        })
        .await
    }

    /// Says this after the head of a request, and then nothing until the other side is gone.
    pub(super) async fn stalling(answer: &'static [u8]) -> Self {
        Self::start(move |mut stream| async move {
            if request(&mut stream).await {
                let _ = stream.write_all(answer).await;
                gone(stream).await;
            }
        })
        .await
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An address where nobody listens, for as long as the socket is kept.
pub(super) fn refusing() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("binds");
    let addr = socket.local_addr().ok().and_then(|addr| addr.as_socket()).expect("an address");
    (addr, socket)
}

/// An address that answers no one who connects, because its queue is full, for as long as the sockets are kept.
pub(super) async fn deaf() -> (SocketAddr, Socket, Vec<TcpStream>) {
    let (addr, socket) = refusing();
    socket.listen(0).expect("listens");
    let mut queued = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
        queued.push(stream.expect("connects"));
    }
    (addr, socket, queued)
}

/// Reads the head of a request; `false`: there is none.
pub(super) async fn request(stream: &mut TcpStream) -> bool {
    request_head(stream).await.is_some()
}

/// The head of a request, with what came along of its body.
pub(super) async fn request_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            return None;
        }
    }
    Some(String::from_utf8(head).expect("text"))
}

/// Waits until the other side closes.
pub(super) async fn gone(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
    reset(stream);
}

/// Closes with a reset instead of an orderly end.
pub(super) fn reset(stream: TcpStream) {
    // Who is gone already cannot be told.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// A connection of HTTP/2 that takes no offence at streams that come and go, however many.
pub(super) async fn connected(stream: TcpStream) -> Option<h2::server::Connection<TcpStream, Bytes>> {
    let mut builder = h2::server::Builder::new();
    builder.max_pending_accept_reset_streams(100_000).max_concurrent_reset_streams(100_000);
    builder.handshake(stream).await.ok()
}
