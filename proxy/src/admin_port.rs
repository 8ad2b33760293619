//! The proxy's own ports, on the control runtime: metrics and health for machines, a view inside for operators.
//!
//! Both are plain HTTP/1.1, one request a connection. Neither ever shows a private key.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{Either, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use crate::options::ListenAddr;
use crate::proxy::{Core, StartError};
use crate::telemetry::{certificate, exposition};

mod dump;
#[cfg(test)]
mod tests;

/// Connections of one port at once; further ones wait.
const MAX_CONNECTIONS: usize = 32;

/// From accept to the end of the response.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The size of the pieces that metrics are sent in, in bytes.
const CHUNK: usize = 64 * 1024;

/// Which of the two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// `/metrics`, `/healthz`, `/readyz`.
    Metrics,
    /// `/config_dump`, `/clusters`, `/listeners`, `/server_info`, `POST /drain`.
    Admin,
}

impl Port {
    fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Admin => "proxy admin",
        }
    }

    fn paths(self) -> &'static str {
        match self {
            Self::Metrics => "/metrics\n/healthz\n/readyz\n",
            Self::Admin => "/config_dump\n/clusters\n/listeners\n/rate_limits\n/server_info\n/drain (POST)\n",
        }
    }
}

/// Binds a port. A default address that is taken gives way to a free port; one that was asked for is an error.
pub(crate) fn bind(port: Port, address: ListenAddr) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Listen { what: port.name(), addr: address.addr, source };
    let listener = match TcpListener::bind(address.addr) {
        Ok(listener) => listener,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !address.explicit => {
            let listener = TcpListener::bind((address.addr.ip(), 0)).map_err(failed)?;
            let instead = listener.local_addr().map_err(failed)?;
            tracing::warn!(wanted = %address.addr, %instead, "the {} port is taken, using a free one", port.name());
            listener
        }
        Err(error) => return Err(failed(error)),
    };
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Serves a port for as long as the proxy lives.
pub(crate) fn serve(handle: &Handle, port: Port, listener: TcpListener, core: Weak<Core>) {
    handle.spawn(async move {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "cannot serve the {} port", port.name()),
        };
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let core = core.clone();
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(TIME_LIMIT, connection(port, stream, core)).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the {} port", port.name());
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
}

async fn connection(port: Port, stream: TcpStream, core: Weak<Core>) {
    let local = stream.local_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let core = core.clone();
        async move { Ok::<_, Infallible>(answer(port, local, &request, core.upgrade()).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the {} port ended early", port.name());
    }
}

type Reply = Response<Either<Full<Bytes>, Chunks>>;

async fn answer<B>(port: Port, local: IpAddr, request: &Request<B>, core: Option<Arc<Core>>) -> Reply {
    let Some(core) = core else { return text(StatusCode::SERVICE_UNAVAILABLE, "ending\n") };
    let path = request.uri().path();
    let is_drain = port == Port::Admin && path == "/drain";
    let allowed = if is_drain { "POST" } else { "GET, HEAD" };
    let fits = if is_drain { request.method() == Method::POST } else { request.method().is_safe() };
    if port == Port::Admin && !is_local_request(local, request.headers()) {
        return text(StatusCode::FORBIDDEN, "this port answers programs on this host, not web pages\n");
    }
    if !fits {
        let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}\n"));
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return reply;
    }
    match (port, path) {
        (Port::Metrics, "/metrics") => metrics(core),
        (Port::Metrics, "/healthz") => text(StatusCode::OK, "ok\n"),
        (Port::Metrics, "/readyz") => match core.not_ready() {
            None => text(StatusCode::OK, "ok\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        (Port::Admin, "/config_dump") => blocking(core, |core| dump::table(&core.in_force().table)).await,
        (Port::Admin, "/clusters") => blocking(core, |core| dump::clusters(&core.in_force())).await,
        (Port::Admin, "/listeners") => blocking(core, |core| dump::listeners(&core.bound())).await,
        (Port::Admin, "/rate_limits") => blocking(core, |core| core.process.metrics.rate_limits()).await,
        (Port::Admin, "/server_info") => json_reply(&server_info(&core)),
        (Port::Admin, "/drain") => {
            tracing::info!("draining, as asked on the proxy admin port");
            tokio::spawn(async move { core.drain().await });
            json_reply(&json!({ "state": "draining" }))
        }
        (_, "/") => text(StatusCode::OK, port.paths()),
        _ => text(StatusCode::NOT_FOUND, format!("there is no {path}; there are:\n{}", port.paths())),
    }
}

/// Whether a request comes from a program rather than from a web page that a browser on this host has open: pages send
/// an Origin with what they post, and reach a loopback address under a name of theirs (DNS rebinding).
fn is_local_request(local: IpAddr, headers: &HeaderMap) -> bool {
    if headers.contains_key(ORIGIN) {
        return false;
    }
    if !local.to_canonical().is_loopback() {
        return true;
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn server_info(core: &Core) -> Value {
    let options = &core.process.options;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": core.state().as_str(),
        "uptime_seconds": core.uptime().as_secs(),
        "revision": core.in_force().table.revision,
        "node_id": options.identity.node_id,
        "workload": options.identity.workload,
        "namespace": options.identity.namespace,
        "spiffe_id": options.mesh_identity.current().map(|current| current.spiffe_id().to_string()),
        "hostname": core.process.hostname,
        "workers": options.workers,
        "connections": core.process.connections(),
        "drain_time_seconds": options.drain_time.as_secs(),
    })
}

/// Makes a large document away from the runtime's one thread.
async fn blocking(core: Arc<Core>, make: impl FnOnce(&Core) -> Value + Send + 'static) -> Reply {
    match tokio::task::spawn_blocking(move || pretty(&make(&core))).await {
        Ok(body) => reply(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// The metrics in pieces, made as fast as they are read: a scrape of many series is never in memory whole.
fn metrics(core: Arc<Core>) -> Reply {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut out = ChunkWriter { sender, buffer: String::with_capacity(CHUNK) };
        let (metrics, identity) = (&core.process.metrics, &core.process.options.mesh_identity);
        let rendered = metrics.render(&mut out).and_then(|()| certificate::render(identity, &mut out));
        // An error says that the reader has gone.
        let _ = rendered.and_then(|()| out.flush());
    });
    let mut reply = Response::new(Either::Right(Chunks(receiver)));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(exposition::CONTENT_TYPE));
    reply
}

struct ChunkWriter {
    sender: mpsc::Sender<Bytes>,
    buffer: String,
}

impl ChunkWriter {
    fn flush(&mut self) -> fmt::Result {
        let chunk = std::mem::replace(&mut self.buffer, String::with_capacity(CHUNK));
        self.sender.blocking_send(chunk.into()).map_err(|_| fmt::Error)
    }
}

impl fmt::Write for ChunkWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.buffer.push_str(text);
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }
}

/// A body of pieces that another thread makes.
struct Chunks(mpsc::Receiver<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn json_reply(value: &Value) -> Reply {
    reply(StatusCode::OK, "application/json", pretty(value))
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, "text/plain; charset=utf-8", body)
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Either::Left(Full::new(body.into())));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
