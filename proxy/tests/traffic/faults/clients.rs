//! Clients that vanish, wherever that leaves their request.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::origins::{Faulty, connected, gone, request_head, reset};
use super::rig::{Rig, TIMES};
use super::{by, to_origin, upstream};
use crate::table::{self, to};

/// What an upload begins with, to be given a path.
const UPLOAD: (&str, &str) = ("POST", "Content-Length: 100000\r\n\r\nthe beginning");

/// Which requests have come to the origin, by the number in their path.
#[derive(Clone)]
struct Arrivals(Arc<[Notify]>);

impl Arrivals {
    fn new() -> Self {
        Self((0..2 * TIMES).map(|_| Notify::new()).collect())
    }

    fn note(&self, path: &str) {
        let number: usize = path.trim_start_matches('/').parse().expect("a number");
        self.0[number].notify_one();
    }

    async fn of(&self, number: usize) {
        self.0[number].notified().await;
    }
}

/// An origin that says nothing.
async fn silent() -> (Faulty, Arrivals) {
    let arrivals = Arrivals::new();
    let noted = arrivals.clone();
    let origin = Faulty::start(move |mut stream| {
        let noted = noted.clone();
        async move {
            if let Some(head) = request_head(&mut stream).await {
                noted.note(head.split(' ').nth(1).expect("a path"));
                gone(stream).await;
            }
        }
    })
    .await;
    (origin, arrivals)
}

/// The same by HTTP/2.
async fn silent_http2() -> (Faulty, Arrivals) {
    let arrivals = Arrivals::new();
    let noted = arrivals.clone();
    let origin = Faulty::start(move |stream| {
        let noted = noted.clone();
        async move {
            let Some(mut connection) = connected(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                noted.note(request.uri().path());
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(_)) = body.data().await {}
                    drop(respond);
                });
            }
        }
    })
    .await;
    (origin, arrivals)
}

/// Sends this again and again, each time on a connection of its own, and vanishes once it has arrived: in turns with a
/// reset and in an orderly way.
async fn vanishing(rig: &Rig, arrivals: &Arrivals, (method, rest): (&str, &str), counted: (u16, &str)) {
    rig.repeat(20, &[counted], async |turns| {
        for turn in turns {
            let mut stream = TcpStream::connect(rig.addr()).await.expect("connects");
            let request = format!("{method} /{turn} HTTP/1.1\r\nHost: h\r\n{rest}");
            stream.write_all(request.as_bytes()).await.expect("writes");
            arrivals.of(turn).await;
            if turn % 40 < 20 {
                reset(stream);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn within_an_upload() {
    let (origin, arrived) = silent().await;
    let rig = Rig::new(to_origin(origin.addr)).await;
    vanishing(&rig, &arrived, UPLOAD, (0, "DC")).await;
}

#[tokio::test]
async fn within_an_upload_to_an_http2_upstream() {
    let (origin, arrived) = silent_http2().await;
    let rig = Rig::new(by(to(&[(0, 1)]), table::http2(upstream(origin.addr)))).await;
    vanishing(&rig, &arrived, UPLOAD, (0, "DC")).await;
}

#[tokio::test]
async fn within_an_upload_that_is_kept_for_another_try() {
    let (origin, arrived) = silent().await;
    let action = route_model::table::Forward {
        retry: Some(route_model::table::retry::RetryPolicy::mesh_default().clone()),
        ..to(&[(0, 1)])
    };
    let rig = Rig::new(by(action, upstream(origin.addr))).await;
    vanishing(&rig, &arrived, UPLOAD, (0, "DC")).await;
}

#[tokio::test]
async fn while_the_answer_is_awaited() {
    let (origin, arrived) = silent().await;
    let rig = Rig::new(to_origin(origin.addr)).await;
    vanishing(&rig, &arrived, ("GET", "\r\n"), (0, "DC")).await;
}

#[tokio::test]
async fn within_a_download() {
    let origin = Faulty::stalling(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nthe beginning").await;
    let rig = Rig::new(to_origin(origin.addr)).await;
    rig.repeat(20, &[(200, "DC")], async |turns| {
        for turn in turns {
            let mut stream = TcpStream::connect(rig.addr()).await.expect("connects");
            stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("writes");
            let mut buffer = [0; 1024];
            assert!(stream.read(&mut buffer).await.expect("the beginning") > 0);
            if turn % 40 < 20 {
                reset(stream);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn within_an_upload_by_http2() {
    let (origin, arrived) = silent().await;
    let rig = Rig::new(to_origin(origin.addr)).await;
    rig.repeat(20, &[(0, "DC")], async |turns| {
        for turn in turns {
            let stream = TcpStream::connect(rig.addr()).await.expect("connects");
            let (sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
            let connection = tokio::spawn(connection);
            let mut sender = sender.ready().await.expect("room for a stream");
            let post = Request::post(format!("http://h/{turn}")).body(()).expect("a request");
            let (answer, mut body) = sender.send_request(post, false).expect("sends");
            body.send_data(Bytes::from_static(b"the beginning"), false).expect("sends");
            arrived.of(turn).await;
            if turn % 40 < 20 {
                // The connection goes, and the stream with it.
                connection.abort();
                let _ = connection.await;
            } else {
                // The stream goes; the connection ends when nobody has a use for it.
                body.send_reset(h2::Reason::CANCEL);
                drop((answer, body, sender));
                connection.await.expect("it ends by itself").expect("in an orderly way");
            }
        }
    })
    .await;
}
