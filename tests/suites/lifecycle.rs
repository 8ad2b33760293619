//! A gateway process from start to end: limits, signals, and what it says when its control plane dies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use e2e::process::joined_gateway;
use e2e::resources::to;
use e2e::{Fairway, Resources, Start, eventually};
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// An origin whose answers the test gives itself.
struct Held {
    listener: TcpListener,
}

impl Held {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The next request, as far as its head.
    async fn request(&self) -> TcpStream {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream
    }
}

/// A control plane, a gateway that follows it, and a request that its origin has and does not answer.
struct Busy {
    control_plane: Fairway,
    gateway: Fairway,
    base: String,
    origin: TcpStream,
    request: JoinHandle<Result<StatusCode, reqwest::Error>>,
}

/// `adapt` may change how the gateway is started.
async fn busy(adapt: impl FnOnce(Start) -> Start) -> Busy {
    let origin = Held::new().await;
    let control_plane = Start::admin().run().await;
    let gateway = adapt(joined_gateway(&control_plane, &[8080]).await).run().await;
    let rules =
        format!("[{{match: [{{uri: {{exact: /held}}}}], {}}}, {{directResponse: {{status: 200}}}}]", to("held"));
    let resources = Resources::edge(&[8080]).service("held", origin.port()).routes("edge", &rules);
    control_plane.api().apply(&resources).await;
    let base = format!("http://{}", gateway.listener(8080).await);
    let url = format!("{base}/held");
    let request = tokio::spawn(async move { Ok(reqwest::get(url).await?.status()) });
    let origin = origin.request().await;
    Busy { control_plane, gateway, base, origin, request }
}

/// Waits until the gateway turns new traffic away, while its process lives and says so.
async fn drains(busy: &Busy) {
    let health = format!("http://{}", busy.gateway.address("metrics"));
    eventually("readiness fails", async || {
        let ready = reqwest::get(format!("{health}/readyz")).await.unwrap();
        let (status, text) = (ready.status(), ready.text().await.unwrap());
        if status == StatusCode::SERVICE_UNAVAILABLE && text.contains("draining") { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(reqwest::get(format!("{health}/healthz")).await.unwrap().status(), StatusCode::OK);
    eventually("new connections are refused", async || match reqwest::get(&busy.base).await {
        Ok(response) => Err(response.status()),
        Err(_) => Ok(()),
    })
    .await;
}

async fn the_first_signal_drains(mut busy: Busy, signal: i32) {
    busy.gateway.signal(signal);
    drains(&busy).await;
    assert!(!busy.request.is_finished(), "what is under way goes on");
    busy.origin.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(busy.request.await.unwrap().unwrap(), StatusCode::CREATED);
    assert_eq!(busy.gateway.wait_exit().await.code(), Some(0), "a drained gateway ends well");
}

#[tokio::test]
async fn sigterm_drains_the_gateway() {
    the_first_signal_drains(busy(|gateway| gateway).await, libc::SIGTERM).await;
}

#[tokio::test]
async fn ctrl_c_drains_the_small_binary_too() {
    the_first_signal_drains(busy(Start::standalone).await, libc::SIGINT).await;
}

#[tokio::test]
async fn what_does_not_finish_in_the_drain_time_is_cut() {
    let mut busy = busy(|gateway| gateway.arg("--drain-time").arg("200ms")).await;
    let began = Instant::now();
    busy.gateway.signal(libc::SIGTERM);
    assert_eq!(busy.gateway.wait_exit().await.code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(200), "it had its time");
    assert!(busy.request.await.unwrap().is_err());
    assert!(busy.gateway.log().contains("drain time is over"), "{}", busy.gateway.log());
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let mut busy = busy(Start::standalone).await;
    busy.gateway.signal(libc::SIGTERM);
    drains(&busy).await;
    busy.gateway.signal(libc::SIGTERM);
    assert_eq!(busy.gateway.wait_exit().await.code(), Some(1), "it did not finish what it had");
    assert!(busy.request.await.unwrap().is_err());
}

#[tokio::test]
async fn as_many_files_as_the_system_allows() {
    let low = ["sh", "-c", r#"ulimit -S -n 256; exec "$0" "$@""#];
    for start in [Start::serve(&[]), Start::admin()] {
        let fairway = start.wrapped_by(&low).run().await;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", fairway.pid())).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let numbers: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
        assert_eq!(numbers[0], numbers[1], "{files}");
    }
}

#[tokio::test]
async fn the_loss_of_the_control_plane_is_said_with_what_follows_from_it() {
    let Busy { mut control_plane, gateway, base, .. } = busy(|gateway| gateway).await;
    control_plane.kill();
    let line = eventually("the loss is logged", async || {
        let log = gateway.log();
        log.lines().find(|line| line.contains("WARN") && line.contains("control plane")).map(str::to_owned).ok_or(log)
    })
    .await;
    for part in ["lost the control plane", "goes on serving", "revision=", "retry_in="] {
        assert!(line.contains(part), "{part:?} is missing in {line}");
    }
    assert_eq!(reqwest::get(&base).await.unwrap().status(), StatusCode::OK);
    eventually("that it is still away is logged", async || {
        let log = gateway.log();
        if log.contains("cannot reach the control plane") { Ok(()) } else { Err(log) }
    })
    .await;
}
