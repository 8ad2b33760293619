//! The same for upstreams that speak HTTP/2, or should.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use route_model::table::upstream::{ConnectionSettings, UpstreamPolicy};
use route_model::table::{Cluster, RouteTable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::origins::{Faulty, connected, gone, reset};
use super::rig::{Got, Rig, TIMES};
use super::{SHORT, asking, by, upstream, within};
use crate::table::{self, to};

/// What becomes of a stream.
#[derive(Clone, Copy)]
enum Fault {
    Refused,
    ResetBeforeHead,
    ResetWithinBody,
    Stalled,
}

async fn origin(fault: Fault) -> Faulty {
    Faulty::start(move |stream| async move {
        let Some(mut connection) = connected(stream).await else { return };
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            match fault {
                Fault::Refused => respond.send_reset(h2::Reason::REFUSED_STREAM),
                Fault::ResetBeforeHead => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                Fault::ResetWithinBody => {
                    let Ok(mut body) = respond.send_response(Response::new(()), false) else { continue };
                    let _ = body.send_data(Bytes::from_static(b"half"), false);
                    tokio::spawn(async move {
                        // A reset at once would take the place of what was not sent yet.
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        body.send_reset(h2::Reason::INTERNAL_ERROR);
                    });
                }
                Fault::Stalled => {
                    tokio::spawn(async move {
                        let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    });
                }
            }
        }
    })
    .await
}

fn to_http2(addr: std::net::SocketAddr) -> RouteTable {
    by(to(&[(0, 1)]), table::http2(upstream(addr)))
}

/// Each request on a connection of its own.
fn one_by_one(addr: std::net::SocketAddr) -> RouteTable {
    let connections = ConnectionSettings { max_requests: Some(1), ..ConnectionSettings::default() };
    let policy = UpstreamPolicy { connections, ..UpstreamPolicy::default() };
    by(to(&[(0, 1)]), Cluster { policy, ..table::http2(upstream(addr)) })
}

/// Reads up to the head of the first request (RFC 9113 sections 3.4, 4.1 and 6.2).
async fn asked(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 24]).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await?;
        if head[3] == 1 {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_refused() {
    let origin = origin(Fault::Refused).await;
    let rig = Rig::new(to_http2(origin.addr)).await;
    asking(&rig, 20, Got::Whole(503), (503, "UR")).await;
}

#[tokio::test]
async fn a_stream_that_is_reset_before_its_head() {
    let origin = origin(Fault::ResetBeforeHead).await;
    let rig = Rig::new(to_http2(origin.addr)).await;
    asking(&rig, 20, Got::Whole(503), (503, "UR")).await;
}

#[tokio::test]
async fn a_stream_that_is_reset_within_its_body() {
    let origin = origin(Fault::ResetWithinBody).await;
    let rig = Rig::new(to_http2(origin.addr)).await;
    asking(&rig, 50, Got::Cut(200), (200, "UR")).await;
}

#[tokio::test]
async fn a_stream_that_stalls() {
    let origin = origin(Fault::Stalled).await;
    let rig = Rig::new(by(within(SHORT), table::http2(upstream(origin.addr)))).await;
    asking(&rig, 400, Got::Whole(504), (504, "UT")).await;
}

/// A connection's settings, and a response on its first stream whose head has a megabyte (RFC 9113 sections 4.1, 6.2
/// and 6.10, RFC 7541 sections 5 and 6).
fn megabyte() -> Vec<u8> {
    const FRAME: usize = 16 * 1024;
    let mut block = vec![0x88];
    for number in 0..64 {
        let name = format!("x-{number}");
        block.extend([0, name.len() as u8]);
        block.extend(name.as_bytes());
        // 16 KiB: what is beyond seven bits, in groups of seven.
        block.extend([0x7f, 0x81, 0x7f]);
        block.extend([b'x'; FRAME]);
    }
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let parts = block.chunks(FRAME);
    let last = parts.len() - 1;
    for (place, part) in parts.enumerate() {
        frames.extend(&(part.len() as u32).to_be_bytes()[1..]);
        frames.extend([if place == 0 { 1 } else { 9 }, if place == last { 4 } else { 0 }, 0, 0, 0, 1]);
        frames.extend(part);
    }
    frames
}

#[tokio::test]
async fn a_head_of_a_megabyte() {
    let head = Bytes::from(megabyte());
    let origin = Faulty::start(move |mut stream: TcpStream| {
        let head = head.clone();
        async move {
            if asked(&mut stream).await.is_ok() {
                let _ = stream.write_all(&head).await;
                gone(stream).await;
            }
        }
    })
    .await;
    // It ends its connection: others on it would end with that, and not by a fault of their own.
    let rig = Rig::new(one_by_one(origin.addr)).await;
    asking(&rig, 20, Got::Whole(502), (502, "UPE")).await;
}

#[tokio::test]
async fn a_connection_that_is_reset_within_a_body() {
    let origin = Faulty::start(|stream| async move {
        let Some(mut connection) = connected(stream).await else { return };
        let Some(Ok((_, mut respond))) = connection.accept().await else { return };
        let Ok(mut body) = respond.send_response(Response::new(()), false) else { return };
        let _ = body.send_data(Bytes::from_static(b"half"), false);
        // Has it sent.
        let _ = tokio::time::timeout(Duration::from_millis(2), connection.accept()).await;
    })
    .await;
    let rig = Rig::new(one_by_one(origin.addr)).await;
    asking(&rig, 50, Got::Cut(200), (200, "UC")).await;
}

#[tokio::test]
async fn a_connection_that_is_closed_before_a_head() {
    let origin = Faulty::start(|stream| async move {
        let Some(mut connection) = connected(stream).await else { return };
        let _ = connection.accept().await;
    })
    .await;
    let rig = Rig::new(one_by_one(origin.addr)).await;
    asking(&rig, 20, Got::Whole(503), (503, "UC")).await;
}

#[tokio::test]
async fn a_server_that_speaks_http1_instead() {
    let origin = Faulty::start(|mut stream: TcpStream| async move {
        if asked(&mut stream).await.is_ok() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
            let _ = stream.read(&mut [0; 4096]).await;
            reset(stream);
        }
    })
    .await;
    let rig = Rig::new(one_by_one(origin.addr)).await;
    asking(&rig, 20, Got::Whole(502), (502, "UPE")).await;
    assert!(rig.sample("fairway_protocol_violations_total{peer=\"upstream\"}").await >= TIMES);
}
