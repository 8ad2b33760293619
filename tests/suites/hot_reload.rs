//! Traffic never pays for a change: constant load of every kind through 200 edits, and not one request fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use e2e::{Origin, Start, eventually};
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

fn resources(origin: &Origin, websocket: u16, edit: usize) -> String {
    // Every edit changes the routes; every second one the extra listener, every third the certificate's secret.
    let extra = if edit.is_multiple_of(2) {
        "  - port: {number: 8081, name: extra, protocol: HTTP}\n    hosts: [\"*\"]\n"
    } else {
        ""
    };
    format!(
        r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 8080, name: http, protocol: HTTP}}
    hosts: ["*"]
{extra}---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: echo}}
spec:
  hosts: [echo.test]
  resolution: STATIC
  ports:
  - {{number: 80, name: http, protocol: HTTP}}
  endpoints:
  - {{address: 127.0.0.1, ports: {{http: {port}}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: websocket}}
spec:
  hosts: [websocket.test]
  resolution: STATIC
  ports:
  - {{number: 80, name: http, protocol: HTTP}}
  endpoints:
  - {{address: 127.0.0.1, ports: {{http: {websocket}}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: echo}}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
  - match: [{{uri: {{prefix: /edit-{edit}}}}}]
    directResponse: {{status: 418}}
  - match: [{{uri: {{prefix: /websocket}}}}]
    route: [{{destination: {{host: websocket.test, port: {{number: 80}}}}}}]
  - route: [{{destination: {{host: echo.test, port: {{number: 80}}}}}}]
    headers: {{response: {{set: {{x-edit: "{edit}"}}}}}}
"#,
        port = origin.port(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_and_no_stream_is_cut_through_200_edits() {
    let origin = Origin::start("echo").await;
    let (websocket, _websocket_task) = websocket_echo().await;
    let fairway = Start::serve(&[8080, 8081]).run().await;
    let api = fairway.api();
    api.apply(&resources(&origin, websocket, 0)).await;
    let address = fairway.listener(8080).await;

    let tally = Arc::new(Tally::default());
    let mut load: Vec<JoinHandle<()>> = Vec::new();
    load.extend((0..4).map(|_| tokio::spawn(keep_alive(address.clone(), tally.clone()))));
    load.extend((0..2).map(|_| tokio::spawn(new_connections(address.clone(), tally.clone()))));
    load.push(tokio::spawn(http2(address.clone(), tally.clone())));
    load.push(tokio::spawn(websocket_messages(address.clone(), tally.clone())));
    eventually("the load runs", async || {
        let served = tally.served.load(Ordering::Relaxed);
        if served > 100 { Ok(()) } else { Err(served) }
    })
    .await;

    for edit in 1..=EDITS {
        api.apply(&resources(&origin, websocket, edit)).await;
        // Applied means applied: the very next request sees it.
        let status = reqwest::get(format!("http://{address}/edit-{edit}")).await.unwrap().status();
        assert_eq!(status.as_u16(), 418, "edit {edit} was acknowledged and is not in force");
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
async fn keep_alive(address: String, tally: Arc<Tally>) {
    let client = reqwest::Client::builder().pool_max_idle_per_host(1).build().unwrap();
    requests(&client, &address, &tally).await;
}

async fn new_connections(address: String, tally: Arc<Tally>) {
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    requests(&client, &address, &tally).await;
}

async fn requests(client: &reqwest::Client, address: &str, tally: &Tally) {
    while tally.running() {
        match client.post(format!("http://{address}/load")).body("0123456789").send().await {
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
