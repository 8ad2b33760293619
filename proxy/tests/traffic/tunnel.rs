//! TCP through a proxy further on.

use std::time::Duration;

use route_model::table::Cluster;
use route_model::table::upstream::{Tunnel, TunnelMethod, UpstreamPolicy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::Http1;
use crate::origin::{Origin, Scripted};
use crate::table::{cluster, everything_to};
use crate::tcp::{connect, counting, exchange, flagged, is_closed, raw};
use crate::{addr, apply, start};

fn through(method: TunnelMethod, cluster: Cluster) -> Cluster {
    let tunnel = Some(Tunnel { method, authority: "db.test:5432".into() });
    Cluster { policy: UpstreamPolicy { tunnel, ..cluster.policy }, ..cluster }
}

#[tokio::test]
async fn a_connection_goes_through_a_connect() {
    let proxy = start(1);
    let further_on = Scripted::new().await;
    apply(&proxy, raw(vec![through(TunnelMethod::Connect, cluster("p", &[further_on.addr]))])).await;
    let client = connect(&proxy, 80).await;
    let serving = async {
        let mut upstream = further_on.accept().await;
        let (line, fields) = upstream.request().await;
        assert_eq!(line, "CONNECT db.test:5432 HTTP/1.1");
        assert_eq!(fields, [("host".to_owned(), "db.test:5432".to_owned())]);
        // The first bytes of the other end may come with the answer.
        upstream.send("HTTP/1.1 200 Connection established\r\n\r\nhello ").await;
        let mut heard = Vec::new();
        upstream.io.read_to_end(&mut heard).await.expect("the client's bytes");
        upstream.send(format!("{} bytes", heard.len())).await;
    };
    let text = vec![b'x'; 1_000_000];
    let (answer, ()) = tokio::join!(exchange(client, &text), serving);
    assert_eq!(String::from_utf8_lossy(&answer), "hello 1000000 bytes");
}

#[tokio::test]
async fn a_connection_goes_through_a_post() {
    let proxy = start(1);
    let further_on = Scripted::new().await;
    apply(&proxy, raw(vec![through(TunnelMethod::Post, cluster("p", &[further_on.addr]))])).await;
    let mut client = connect(&proxy, 80).await;
    let mut upstream = further_on.accept().await;
    let (line, _) = upstream.request().await;
    assert_eq!(line, "POST / HTTP/1.1");
    upstream.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await;
    let mut heard = [0; 3];
    client.read_exact(&mut heard).await.expect("the first answer");
    assert_eq!(&heard, b"one");
    client.write_all(b"two").await.expect("a question");
    let mut chunk = [0; 8];
    upstream.io.read_exact(&mut chunk).await.expect("a chunk");
    assert_eq!(&chunk, b"3\r\ntwo\r\n");
    upstream.send("0\r\n\r\n").await;
    assert_eq!(client.read(&mut heard).await.expect("the end"), 0);
    client.write_all(b"more").await.expect("its half is open");
    client.shutdown().await.expect("its end");
    let mut rest = [0; 14];
    upstream.io.read_exact(&mut rest).await.expect("the end of the body");
    assert_eq!(&rest, b"4\r\nmore\r\n0\r\n\r\n");
}

#[tokio::test]
async fn without_a_tunnel_the_connection_is_closed() {
    let proxy = counting();
    let further_on = Scripted::new().await;
    let through = through(TunnelMethod::Connect, cluster("p", &[further_on.addr]));
    let quick = Cluster { connect_timeout: Duration::from_millis(300), ..through };
    apply(&proxy, raw(vec![quick])).await;
    for answer in ["HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "SSH-2.0-x\r\n", ""] {
        let client = connect(&proxy, 80).await;
        let mut upstream = further_on.accept().await;
        upstream.request().await;
        upstream.send(answer).await;
        assert!(is_closed(client).await, "{answer}");
    }
    flagged(&proxy, "UF").await;
}

#[tokio::test]
async fn requests_are_not_tunnelled() {
    let (proxy, origin) = (start(1), Origin::http1("o").await);
    apply(&proxy, everything_to(through(TunnelMethod::Connect, cluster("o", &[origin.addr])))).await;
    let reply = Http1::connect(addr(&proxy, 80)).await.get("h", "/").await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("GET /"), "{}", reply.text());
}
