//! An origin server: answers with what it is and what it got, or with pages.
//!
//! A request may ask it to misbehave: with `x-wait: MILLISECONDS` it takes its time, and with `x-fail-before: N` it answers
//! 503 to every attempt (`x-envoy-attempt-count`) before that one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A server on loopback that speaks HTTP/1.1 and HTTP/2. Dropping it closes the port and its connections.
#[derive(Debug)]
pub struct Origin {
    pub address: SocketAddr,
    requests: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Answers every request with a JSON document: its name, and the method, target, headers and body it got.
    pub async fn start(name: &str) -> Self {
        Self::bind(name, "127.0.0.1:0".parse().expect("an address")).await
    }

    pub async fn bind(name: &str, address: SocketAddr) -> Self {
        Self::listen(Answer::Echo(name.to_owned()), bound(address).await, None)
    }

    /// The same on a socket that listens somewhere, behind TLS if there are terms.
    pub fn on(name: &str, listener: std::net::TcpListener, tls: Option<rustls::ServerConfig>) -> Self {
        listener.set_nonblocking(true).expect("a socket that does not block");
        let listener = TcpListener::from_std(listener).expect("a listener");
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        Self::listen(Answer::Echo(name.to_owned()), listener, acceptor)
    }

    /// The same behind TLS.
    pub async fn secure(name: &str, tls: rustls::ServerConfig) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        Self::listen(Answer::Echo(name.to_owned()), bound(LOOPBACK).await, Some(acceptor))
    }

    /// Answers with these pages: path, media type, body; behind TLS if there are terms. Anything else is 404.
    pub async fn pages(pages: &[(&str, &str, &[u8])], tls: Option<rustls::ServerConfig>) -> Self {
        let page = |&(path, media_type, body): &(&str, &str, &[u8])| {
            (path.to_owned(), (media_type.to_owned(), Bytes::copy_from_slice(body)))
        };
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        Self::listen(Answer::Pages(pages.iter().map(page).collect()), bound(LOOPBACK).await, acceptor)
    }

    fn listen(answer: Answer, listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().expect("its address");
        let requests = Arc::new(AtomicU64::new(0));
        let (answer, counter) = (Arc::new(answer), requests.clone());
        let task = tokio::spawn(async move {
            // The connections end with the set, and so with the origin.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (answer, counter, tls) = (answer.clone(), counter.clone(), tls.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        counter.fetch_add(1, Ordering::Relaxed);
                        self::answer(answer.clone(), request)
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    match tls {
                        None => drop(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            drop(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, requests, task }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many requests it got.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn bound(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).await.expect("a port")
}

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What an origin answers.
#[derive(Debug)]
enum Answer {
    /// The origin's name, and what it got.
    Echo(String),
    /// Media types and bodies, by path.
    Pages(HashMap<String, (String, Bytes)>),
}

async fn answer(answer: Arc<Answer>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    match &*answer {
        Answer::Echo(name) => echo(name, request).await,
        Answer::Pages(pages) => {
            let response = match pages.get(request.uri().path()) {
                Some((media_type, body)) => {
                    Response::builder().header("content-type", media_type).body(Full::from(body.clone()))
                }
                None => Response::builder().status(404).body(Full::default()),
            };
            Ok(response.expect("a response"))
        }
    }
}

async fn echo(name: &str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let number = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(wait) = number("x-wait") {
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    let fails = number("x-fail-before").is_some_and(|before| number("x-envoy-attempt-count").unwrap_or(1) < before);
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let answer = json!({
        "origin": name,
        "method": head.method.as_str(),
        "target": head.uri.path_and_query().map_or("", |target| target.as_str()),
        "authority": head.uri.authority().map(ToString::to_string),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    let response = Response::builder().status(if fails { 503 } else { 200 });
    let response = response.header("content-type", "application/json").header("x-origin", name);
    Ok(response.body(Full::from(answer.to_string())).expect("a response"))
}
