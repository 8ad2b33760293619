//! The admin ports as their clients meet them: real sockets, on a clock that jumps when nothing else can happen.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use route_model::compile::{ProxyRole, ProxyScope};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::bootstrap::tls;
use super::listen::{Listen, serve};
use crate::api::ApiState;
use crate::auth::Identity;
use crate::ca::{Authority, Kept, ServerKey, server_names};
use crate::store::seal::MasterKey;
use crate::store::{Snapshot, SqliteOptions, SqliteStore};

/// How long anything here may take, on whichever clock.
const PATIENCE: Duration = Duration::from_mins(5);
const COLLECTION: &str = "/apis/networking.istio.io/v1/namespaces/default/gateways";

/// An admin port with the API behind it.
struct Port {
    address: SocketAddr,
    /// What clients trust, as PEM.
    ca: String,
    _stop: watch::Sender<bool>,
    _folder: TempDir,
}

impl Port {
    async fn plain() -> Self {
        Self::start(false, 100).await
    }

    async fn start(with_tls: bool, max_connections: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(folder.path().join("fairway.db"));
        let store = Arc::new(SqliteStore::open(options, MasterKey::random()).await.unwrap());
        let snapshot = Snapshot::load(store).await.unwrap();
        let labels = [("istio".to_owned(), "ingressgateway".to_owned())].into();
        let scope = ProxyScope { role: ProxyRole::Gateway, namespace: "istio-system".into(), labels };
        let state = ApiState::new(snapshot, scope, watch::channel(Arc::from([])).1);
        let router = Router::new()
            .route("/large", get(|| async { vec![b'x'; 32 * 1024 * 1024] }))
            .route("/slow", get(|| async { slow_answer() }))
            .fallback_service(crate::api::router(state))
            .layer(axum::Extension(Identity::admin()));

        let authority = Authority::kept(&Kept::generate().unwrap(), jiff::Timestamp::now()).unwrap();
        let issued = authority.issue_server(&server_names(&[], &[])).unwrap();
        let tls =
            with_tls.then(|| tls("--admin-cert", ServerKey::new(issued).unwrap(), &[b"h2", b"http/1.1"]).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(serve(Listen { listener, tls, router, max_connections }, stopping));
        Self { address, ca: authority.root_pem().to_owned(), _stop: stop, _folder: folder }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// From here on time passes when all that is left is to wait for it.
    async fn connect_out_of_time(&self) -> TcpStream {
        let stream = self.connect().await;
        tokio::time::pause();
        stream
    }
}

/// Ten parts, one a minute: slow, but not by its reader's fault.
fn slow_answer() -> Body {
    let parts = futures_util::stream::unfold(0, |sent| async move {
        sleep(Duration::from_mins(1)).await;
        (sent < 10).then(|| (Ok::<_, Infallible>(http_body::Frame::data(Bytes::from("part "))), sent + 1))
    });
    Body::new(StreamBody::new(parts))
}

/// What the server says until it closes; none when it leaves the connection open.
async fn said(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut said = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut said)).await {
        // A reset closes as well as an end does.
        Ok(_) => Some(String::from_utf8_lossy(&said).into_owned()),
        Err(_) => None,
    }
}

/// Writes a byte a second until the server is no longer there; answers for how many seconds it was.
async fn dribble(stream: &mut TcpStream, text: &[u8]) -> u64 {
    let began = Instant::now();
    for byte in text.iter().cycle() {
        // The server's end shows when it reads no more, or when it says something and closes.
        let mut peeked = [0];
        let gone = timeout(Duration::from_secs(1), stream.peek(&mut peeked)).await.is_ok();
        if gone || stream.write_all(&[*byte]).await.is_err() || began.elapsed() > PATIENCE {
            break;
        }
    }
    began.elapsed().as_secs()
}

async fn h2<S>(stream: S) -> http2::SendRequest<Full<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    requests
}

fn post(body: Vec<u8>) -> Request<Full<Bytes>> {
    let request =
        Request::post(format!("http://localhost{COLLECTION}")).header(header::CONTENT_TYPE, "application/json");
    request.body(Full::from(body)).unwrap()
}

fn get_request(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://localhost{path}")).body(Full::default()).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_client_that_says_nothing_is_left() {
    let port = Port::plain().await;
    let mut silent = port.connect_out_of_time().await;
    let began = Instant::now();
    assert_eq!(said(&mut silent).await.as_deref(), Some(""));
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_head_that_dribbles_in_is_not_waited_for() {
    let port = Port::plain().await;
    for (at_once, slowly) in [("GET /version HTTP/1.1\r\n", "a: b\r\n"), ("", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")] {
        let mut slow = port.connect_out_of_time().await;
        slow.write_all(at_once.as_bytes()).await.unwrap();
        let seconds = dribble(&mut slow, slowly.as_bytes()).await;
        assert!((9..=12).contains(&seconds), "{at_once:?}: {seconds} s");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_body_that_dribbles_in_is_answered_that_it_is_late() {
    let port = Port::plain().await;
    let mut slow = port.connect_out_of_time().await;
    let head = format!("POST {COLLECTION} HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n");
    slow.write_all(head.as_bytes()).await.unwrap();
    let seconds = dribble(&mut slow, b" ").await;
    assert!((25..=35).contains(&seconds), "{seconds} s");
    let mut answer = vec![0; 4096];
    let length = timeout(PATIENCE, slow.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(answer.contains("the request body did not arrive within 30 seconds"), "{answer}");
}

#[tokio::test]
async fn a_body_that_dribbles_in_over_http2_is_answered_that_it_is_late() {
    let port = Port::plain().await;
    let stream = port.connect_out_of_time().await;
    let (mut requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let bytes = futures_util::stream::unfold((), |()| async {
        sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(" "))), ()))
    });
    let request =
        Request::post(format!("http://localhost{COLLECTION}")).body(Box::pin(StreamBody::new(bytes))).unwrap();
    let response = timeout(PATIENCE, requests.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(text(response).await.contains("did not arrive within 30 seconds"));
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let port = Port::plain().await;
    let mut stalled = port.connect_out_of_time().await;
    stalled.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // Time jumps over the server's patience while this waits.
    sleep(Duration::from_secs(75)).await;
    let read = said(&mut stalled).await.expect("the connection is closed");
    assert!(read.len() < 32 * 1024 * 1024, "only what was on its way arrives");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_over_http2_is_given_up() {
    let port = Port::plain().await;
    let stream = port.connect_out_of_time().await;
    // The window is 64 KiB and not opened further; the connection itself is read, and answers pings.
    let mut requests = h2(stream).await;
    let response = requests.send_request(get_request("/large")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    sleep(Duration::from_secs(75)).await;
    assert!(response.into_body().collect().await.is_err(), "the connection is closed");
}

#[tokio::test]
async fn an_answer_that_is_slow_by_itself_is_not_given_up() {
    let port = Port::plain().await;
    let stream = port.connect_out_of_time().await;
    let mut requests = h2(stream).await;
    let response = requests.send_request(get_request("/slow")).await.unwrap();
    assert_eq!(text(response).await, "part ".repeat(10));
}

#[tokio::test]
async fn a_connection_that_is_not_used_is_closed() {
    let port = Port::plain().await;
    let stream = port.connect_out_of_time().await;
    let mut requests = h2(stream).await;
    let response = requests.send_request(get_request("/version")).await.unwrap();
    assert!(text(response).await.contains("gitVersion"));
    sleep(Duration::from_mins(1)).await;
    let response = requests.send_request(get_request("/version")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    drop(response);
    sleep(Duration::from_secs(110)).await;
    assert!(requests.ready().await.is_err() || requests.send_request(get_request("/version")).await.is_err());
}

#[tokio::test]
async fn http2_is_spoken_on_the_plain_port_by_prior_knowledge_and_on_the_tls_port_by_alpn() {
    let plain = Port::plain().await;
    let mut requests = h2(plain.connect().await).await;
    let response = requests.send_request(get_request("/version")).await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, http::Version::HTTP_2));

    let encrypted = Port::start(true, 100).await;
    for (offered, chosen) in
        [(&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])), (&[b"http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(encrypted.ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, encrypted.connect().await).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        if chosen == Some(b"h2") {
            let response = h2(stream).await.send_request(get_request("/version")).await.unwrap();
            assert!(text(response).await.contains("gitVersion"));
        } else {
            stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let answer = said(&mut stream).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("gitVersion"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_answered_by_a_status_over_http2_too() {
    let port = Port::plain().await;
    let mut requests = h2(port.connect().await).await;
    for size in [1024 * 1024 + 1, 5 * 1024 * 1024] {
        let response = requests.send_request(post(vec![b' '; size])).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let status: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(
            (status["kind"].as_str(), status["reason"].as_str()),
            (Some("Status"), Some("RequestEntityTooLarge"))
        );
        assert_eq!(status["message"], "the request body is larger than the limit of 1024 KiB");
    }
    // The connection goes on.
    let response = requests.send_request(get_request("/version")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_their_turn() {
    let port = Port::start(false, 2).await;
    let request = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = port.connect().await;
        stream.write_all(request).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        open.push(stream);
    }
    let mut third = port.connect_out_of_time().await;
    third.write_all(request).await.unwrap();
    let mut answer = [0; 12];
    assert!(timeout(Duration::from_secs(5), third.read(&mut answer)).await.is_err(), "there is no room yet");
    drop(open);
    timeout(PATIENCE, third.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}
