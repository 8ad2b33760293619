//! Traffic never pays for a change: constant load of every kind through 200 edits, and not one request fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use e2e::resources::to;
use e2e::{Origin, Resources, Start, eventually};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

const EDITS: usize = 200;

/// What the load saw.
#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    served: AtomicU64,
    failed: std::sync::Mutex<Vec<String>>,
}

impl Tally {
    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn served(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&self, what: impl Into<String>) {
        self.failed.lock().unwrap().push(what.into());
    }
}

/// A certificate and its key.
type Pair = rcgen::CertifiedKey<rcgen::KeyPair>;

/// The certificate in force after an edit: every third one changes it.
fn certificate(pairs: &[Pair; 2], edit: usize) -> &Pair {
    &pairs[edit / 3 % 2]
}

fn resources(origin: &Origin, websocket: u16, pairs: &[Pair; 2], edit: usize) -> Resources {
    // Every edit changes the routes; every second one the extra listener.
    let ports: &[u16] = if edit.is_multiple_of(2) { &[8080, 8081] } else { &[8080] };
    let rules = format!(
        "- {{match: [{{uri: {{prefix: /edit-{edit}}}}}], directResponse: {{status: 418}}}}\n\
         - {{match: [{{uri: {{prefix: /websocket}}}}], {}}}\n\
         - {{{}, headers: {{response: {{set: {{x-edit: '{edit}'}}}}}}}}\n",
        to("websocket"),
        to("echo"),
    );
    let Pair { cert, signing_key } = certificate(pairs, edit);
    Resources::edge(ports)
        .tls_secret("pair", &cert.pem(), &signing_key.serialize_pem())
        .https_gateway("secure", 8443, "pair")
        .service("echo", origin.port())
        .service("websocket", websocket)
        .routes("edge", &rules)
        .routes("secure", &rules)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_and_no_stream_is_cut_through_200_edits() {
    let origin = Origin::start("echo").await;
    let (websocket, _websocket_task) = websocket_echo().await;
    let pairs = [(); 2].map(|()| rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap());
    let fairway = Start::serve(&[8080, 8081, 8443]).run().await;
    let api = fairway.api();
    api.apply(&resources(&origin, websocket, &pairs, 0)).await;
    let address = fairway.listener(8080).await;
    let plain = format!("http://{address}");
    let secure = format!("https://{}", fairway.listener(8443).await);

    let tally = Arc::new(Tally::default());
    let mut load: Vec<JoinHandle<()>> = Vec::new();
    for base in [&plain, &plain, &plain, &secure] {
        load.push(tokio::spawn(requests(keep_alive().http1_only(), base.clone(), tally.clone())));
    }
    load.push(tokio::spawn(requests(keep_alive(), secure.clone(), tally.clone())));
    for base in [&plain, &plain, &secure] {
        load.push(tokio::spawn(requests(new_connections(), base.clone(), tally.clone())));
    }
    load.push(tokio::spawn(http2(address.clone(), tally.clone())));
    load.push(tokio::spawn(websocket_messages(address.clone(), tally.clone())));
    eventually("the load runs", async || {
        let served = tally.served.load(Ordering::Relaxed);
        if served > 100 { Ok(()) } else { Err(served) }
    })
    .await;

    for edit in 1..=EDITS {
        api.apply(&resources(&origin, websocket, &pairs, edit)).await;
        // Applied means applied: the very next request sees it, and the very next handshake its certificate.
        let client = new_connections().tls_info(true).build().unwrap();
        let response = client.get(format!("{secure}/edit-{edit}")).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 418, "edit {edit} was acknowledged and is not in force");
        let shown = response.extensions().get::<reqwest::tls::TlsInfo>().unwrap().peer_certificate().unwrap();
        assert!(shown == &**certificate(&pairs, edit).cert.der(), "edit {edit}: the certificate is the one before");
    }

    tally.stop.store(true, Ordering::Relaxed);
    for task in load {
        tokio::time::timeout(Duration::from_secs(30), task).await.expect("the load ends").unwrap();
    }
    let failed = tally.failed.lock().unwrap();
    let served = tally.served.load(Ordering::Relaxed);
    assert!(failed.is_empty(), "{} of {served} failed: {:?}", failed.len(), &failed[..failed.len().min(10)]);
    assert!(served > 1000, "only {served} requests were made");
}

/// One connection, request after request. A server may close a kept connection; it must not fail a request.
fn keep_alive() -> reqwest::ClientBuilder {
    reqwest::Client::builder().pool_max_idle_per_host(1).tls_danger_accept_invalid_certs(true)
}

fn new_connections() -> reqwest::ClientBuilder {
    reqwest::Client::builder().pool_max_idle_per_host(0).tls_danger_accept_invalid_certs(true)
}

async fn requests(client: reqwest::ClientBuilder, base: String, tally: Arc<Tally>) {
    let client = client.build().unwrap();
    while tally.running() {
        match client.post(format!("{base}/load")).body("0123456789").send().await {
            Ok(response) if response.status().is_success() => match response.json::<Value>().await {
                Ok(body) if body["body"] == "0123456789" => tally.served(),
                Ok(body) => tally.failed(format!("body {body}")),
                Err(error) => tally.failed(format!("reading the body: {error:?}")),
            },
            Ok(response) => tally.failed(format!("status {}", response.status())),
            Err(error) => tally.failed(format!("{error:?}")),
        }
    }
}

/// One HTTP/2 connection that must live through everything, four streams at a time.
async fn http2(address: String, tally: Arc<Tally>) {
    let stream = TcpStream::connect(&address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let streams = (0..4).map(|_| {
        let (mut sender, tally, address) = (sender.clone(), tally.clone(), address.clone());
        async move {
            while tally.running() {
                let request = http::Request::post(format!("http://{address}/h2")).body(Full::new(Bytes::from("h2")));
                match sender.send_request(request.unwrap()).await {
                    Ok(response) if response.status().is_success() => match response.into_body().collect().await {
                        Ok(_) => tally.served(),
                        Err(error) => tally.failed(format!("HTTP/2 body: {error:?}")),
                    },
                    Ok(response) => tally.failed(format!("HTTP/2 status {}", response.status())),
                    Err(error) => {
                        tally.failed(format!("HTTP/2: {error:?}"));
                        return;
                    }
                }
            }
        }
    });
    futures_util::future::join_all(streams).await;
    connection.abort();
}

/// One WebSocket, message after message, each echoed.
async fn websocket_messages(address: String, tally: Arc<Tally>) {
    let stream = TcpStream::connect(&address).await.unwrap();
    let url = format!("ws://{address}/websocket");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("the WebSocket opens");
    let mut number = 0u64;
    while tally.running() {
        number += 1;
        let text = number.to_string();
        if let Err(error) = socket.send(Message::text(text.clone())).await {
            return tally.failed(format!("WebSocket send: {error:?}"));
        }
        match socket.next().await {
            Some(Ok(message)) if message.to_text().ok() == Some(&text) => tally.served(),
            other => return tally.failed(format!("WebSocket message {number}: {other:?}")),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let _ = socket.close(None).await;
}

async fn websocket_echo() -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, task)
}
