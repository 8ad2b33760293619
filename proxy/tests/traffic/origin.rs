//! Origins: a small server that says what reached it, and sockets to be driven by hand.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::BufReader;
use tokio::net::TcpListener;

use crate::client::Http1;

/// An origin that answers every request with its name and what it saw.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    /// Connections that were made to it.
    pub(crate) connections: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// `name method path`, one `header: value` a line, then the body.
pub(crate) async fn echo(name: &'static str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let mut lines = vec![format!("{name} {} {target}\n", head.method)];
    lines.extend(head.uri.authority().map(|authority| format!(":authority: {authority}\n")));
    for (name, value) in &head.headers {
        lines.push(format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    let mut text = lines.concat();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    text.push_str(&String::from_utf8_lossy(&body));
    Ok(Response::builder().header("x-origin", name).body(Full::from(text)).expect("a response"))
}

impl Origin {
    pub(crate) async fn http1(name: &'static str) -> Self {
        Self::start(name, false).await
    }

    pub(crate) async fn http2(name: &'static str) -> Self {
        Self::start(name, true).await
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    async fn start(name: &'static str, http2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let io = TokioIo::new(stream);
                let service = service_fn(move |request| echo(name, request));
                tokio::spawn(async move {
                    if http2 {
                        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await;
                    } else {
                        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                    }
                });
            }
        });
        Self { addr, connections, server }
    }
}

/// What a scripted origin says where it does not matter.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An origin whose every byte the test writes itself.
#[derive(Debug)]
pub(crate) struct Scripted {
    listener: TcpListener,
    pub(crate) addr: SocketAddr,
}

impl Scripted {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        Self { listener, addr }
    }

    /// The next connection, read as a client reads: by head and body.
    pub(crate) async fn accept(&self) -> Http1 {
        let (stream, _) = tokio::time::timeout(Duration::from_secs(10), self.listener.accept())
            .await
            .expect("a connection in time")
            .expect("accepts");
        Http1 { io: BufReader::new(stream) }
    }

    /// The next connection, once the head of its first request is read.
    pub(crate) async fn accept_request(&self) -> Http1 {
        let mut upstream = self.accept().await;
        upstream.request().await;
        upstream
    }

    /// Whether nobody connects for a moment.
    pub(crate) async fn is_left_alone(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.listener.accept()).await.is_err()
    }
}

impl Http1 {
    /// The head of the next request: its first line and its fields.
    pub(crate) async fn request(&mut self) -> (String, Vec<(String, String)>) {
        let line = self.line().await.expect("a request");
        (line, self.fields().await)
    }
}
