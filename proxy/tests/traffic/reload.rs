//! Tables that follow each other under connections that stay.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use proxy::{Options, reason};
use tokio::net::TcpStream;

use crate::client::{Http1, connect_http2};
use crate::origin::{OK, Origin, Scripted};
use crate::table::{self, cluster, direct, everything_to, forward, gateway, listener, route, to};
use crate::{addr, apply, eventually, start, start_with};

fn answering(ports: &[u16], text: &str) -> route_model::table::RouteTable {
    let listeners = ports.iter().map(|port| listener(*port, vec![("*", vec![route("/", direct(200, text))])]));
    table::table(listeners.collect(), Vec::new())
}

#[tokio::test]
async fn open_connections_run_on_the_new_table() {
    let proxy = start(2);
    apply(&proxy, answering(&[80], "one")).await;
    let mut http1 = Http1::connect(addr(&proxy, 80)).await;
    let mut http2 = connect_http2(addr(&proxy, 80)).await;
    for text in ["one", "two", "three"] {
        apply(&proxy, answering(&[80], text)).await;
        assert_eq!(http1.get("h", "/").await.text(), text);
        let request = Request::get("http://h/").body(Full::<Bytes>::default()).unwrap();
        let response = http2.send_request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
    }
}

#[tokio::test]
async fn ports_come_and_go_and_the_others_do_not_notice() {
    let proxy = start(2);
    apply(&proxy, answering(&[80], "a")).await;
    let stays = addr(&proxy, 80);
    let mut client = Http1::connect(stays).await;
    assert_eq!(client.get("h", "/").await.text(), "a");
    for _ in 0..3 {
        apply(&proxy, answering(&[80, 81], "b")).await;
        let comes = addr(&proxy, 81);
        let mut other = Http1::connect(comes).await;
        assert_eq!(other.get("h", "/").await.text(), "b");
        apply(&proxy, answering(&[80], "a")).await;
        assert!(other.is_closed().await, "an idle connection of a removed listener is closed");
        eventually("the port is closed", || std::net::TcpStream::connect(comes).is_err()).await;
        assert_eq!(addr(&proxy, 80), stays);
        assert_eq!(client.get("h", "/").await.text(), "a");
    }
}

#[tokio::test]
async fn a_removed_listener_finishes_what_it_has() {
    let origin = Scripted::new().await;
    let proxy = start(1);
    let hosts = || vec![("*", vec![route("/", forward(to(&[(0, 1)])))])];
    let clusters = || vec![cluster("o", &[origin.addr])];
    apply(&proxy, table::table(vec![listener(80, hosts()), listener(81, hosts())], clusters())).await;
    let mut client = Http1::connect(addr(&proxy, 81)).await;
    client.ask("h", "/slow").await;
    let mut upstream = origin.accept_request().await;
    apply(&proxy, answering(&[80], "new")).await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
    let reply = client.reply().await;
    assert_eq!((reply.text(), reply.header("connection")), ("done", Some("close")));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_port_of_another_program_is_an_issue_and_the_rest_applies() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let port_map = [(80, 0), (81, port)].into();
    let proxy = proxy::Proxy::start(Options { bind: [127, 0, 0, 1].into(), port_map, ..Options::default() }).unwrap();
    let report = proxy.apply(Arc::new(answering(&[80, 81], "x"))).await;
    assert_eq!(report.issues.len(), 1);
    let issue = &report.issues[0];
    assert_eq!((issue.resource.as_ref(), issue.reason), (Some(&gateway()), reason::PORT_IN_USE));
    assert!(report.issues[0].message.contains(&port.to_string()));
    assert_eq!(Http1::connect(addr(&proxy, 80)).await.get("h", "/").await.text(), "x");
    drop(taken);
    let report = proxy.apply(Arc::new(answering(&[80, 81], "y"))).await;
    assert_eq!(report.issues, [], "the port is free now");
    assert_eq!(Http1::connect(addr(&proxy, 81)).await.get("h", "/").await.text(), "y");
}

#[tokio::test]
async fn a_port_that_becomes_free_is_taken_without_a_new_table() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port_map = [(80, 0), (81, taken.local_addr().unwrap().port())].into();
    let options = Options { bind: [127, 0, 0, 1].into(), port_map, workers: 2, ..Options::default() };
    let proxy = proxy::Proxy::start(options).unwrap();
    let report = proxy.apply(Arc::new(answering(&[80, 81], "x"))).await;
    assert_eq!(report.issues.len(), 1);
    let mut reports = proxy.report();
    assert_eq!(*reports.borrow_and_update(), report);
    let mut open = Http1::connect(addr(&proxy, 80)).await;
    assert_eq!(open.get("h", "/").await.text(), "x");
    drop(taken);
    tokio::time::timeout(Duration::from_secs(10), reports.changed()).await.expect("a report in time").unwrap();
    assert_eq!((reports.borrow().revision, &*reports.borrow().issues), (report.revision, &[][..]));
    assert_eq!(Http1::connect(addr(&proxy, 81)).await.get("h", "/").await.text(), "x");
    assert_eq!(open.get("h", "/").await.text(), "x", "open connections did not notice");
}

#[tokio::test]
async fn two_proxies_do_not_share_a_port_by_accident() {
    let first = start(2);
    apply(&first, answering(&[80], "first")).await;
    let port = addr(&first, 80).port();
    let options = Options { bind: [127, 0, 0, 1].into(), port_map: [(80, port)].into(), ..Options::default() };
    let second = proxy::Proxy::start(options).unwrap();
    let report = second.apply(Arc::new(answering(&[80], "second"))).await;
    assert_eq!(report.issues.iter().map(|issue| issue.reason).collect::<Vec<_>>(), [reason::PORT_IN_USE]);
}

#[tokio::test]
async fn draining_answers_what_is_under_way_and_then_nothing() {
    let origin = Scripted::new().await;
    let proxy = Arc::new(start(2));
    apply(&proxy, everything_to(cluster("o", &[origin.addr]))).await;
    let address = addr(&proxy, 80);
    let mut idle = Http1::connect(address).await;
    let mut busy = Http1::connect(address).await;
    busy.ask("h", "/").await;
    let mut upstream = origin.accept_request().await;
    let draining = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move { proxy.drain().await }
    });
    assert!(idle.is_closed().await);
    eventually("the port is closed", || std::net::TcpStream::connect(address).is_err()).await;
    assert!(!draining.is_finished());
    upstream.send(OK).await;
    assert_eq!(busy.reply().await.text(), "ok");
    assert!(busy.is_closed().await);
    tokio::time::timeout(Duration::from_secs(5), draining).await.expect("the drain ends").unwrap();
}

#[tokio::test]
async fn a_drain_that_takes_too_long_is_cut() {
    let origin = Scripted::new().await;
    let proxy = start_with(Options { workers: 1, ..Options::default() });
    apply(&proxy, everything_to(cluster("o", &[origin.addr]))).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client.ask("h", "/").await;
    let mut upstream = origin.accept_request().await;
    tokio::time::timeout(Duration::from_secs(10), proxy.drain()).await.expect("the drain ends");
    assert!(client.is_closed().await && upstream.is_closed().await);
}

#[tokio::test]
async fn constant_load_survives_two_hundred_tables() {
    let origin = Origin::http1("o").await;
    let proxy = start(2);
    let with = |other: bool| {
        let hosts = || vec![("*", vec![route("/", forward(to(&[(0, 1)])))])];
        let mut listeners = vec![listener(80, hosts())];
        listeners.extend(other.then(|| listener(81, hosts())));
        table::table(listeners, vec![cluster("o", &[origin.addr])])
    };
    apply(&proxy, with(false)).await;
    let address = addr(&proxy, 80);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let running = |stop: &Arc<std::sync::atomic::AtomicBool>| !stop.load(std::sync::atomic::Ordering::Relaxed);
    let keep_alive = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut client = Http1::connect(address).await;
            let mut count = 0;
            while running(&stop) {
                assert_eq!(client.get("h", "/").await.status, 200);
                count += 1;
            }
            count
        }
    });
    let new_connections = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut count = 0;
            while running(&stop) {
                assert_eq!(Http1::connect(address).await.get("h", "/").await.status, 200);
                count += 1;
            }
            count
        }
    });
    let streams = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut client = connect_http2(address).await;
            let mut count = 0;
            while running(&stop) {
                let request = Request::get("http://h/").body(Full::<Bytes>::default()).unwrap();
                let response = client.send_request(request).await.expect("a response");
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.expect("a whole body");
                count += 1;
            }
            count
        }
    });
    for edit in 0..200 {
        apply(&proxy, with(edit % 2 == 0)).await;
        tokio::task::yield_now().await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for load in [keep_alive, new_connections, streams] {
        assert!(load.await.expect("no request failed") > 10);
    }
    assert!(TcpStream::connect(address).await.is_ok());
}
