//! What is not plain HTTP: bytes, TLS of the applications' own, WebSockets and gRPC.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener as StdListener;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;

use e2e::{Authority, Origin, eventually, python};
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

use crate::lab::{GRPC, Lab, Member, TCP, TLS, WEBSOCKET};
use crate::routing::rules;

fn async_listener(listener: StdListener) -> TcpListener {
    listener.set_nonblocking(true).unwrap();
    TcpListener::from_std(listener).unwrap()
}

/// A server of a protocol with lines: it says who it is and repeats what it was told.
fn lines(name: &'static str, listener: StdListener) -> JoinHandle<()> {
    let listener = async_listener(listener);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = tokio::io::BufReader::new(stream);
                let mut line = String::new();
                while matches!(stream.read_line(&mut line).await, Ok(1..)) {
                    let answer = format!("{name}: {line}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    })
}

/// Both members of the service, for as long as it is held.
pub(crate) fn serve_lines(lab: &Lab) -> impl Sized {
    [("reviews-v1", &lab.v1), ("reviews-v2", &lab.v2)]
        .map(|(name, member)| Ends(lines(name, member.place.listen(lab.application(TCP)))))
}

/// What a server of lines answers the client.
pub(crate) async fn say(lab: &Lab, text: &str) -> Result<String, String> {
    let exchange = async {
        let mut stream = lab.connect(TCP).await?;
        stream.write_all(format!("{text}\n").as_bytes()).await.map_err(|error| error.to_string())?;
        stream.shutdown().await.map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
        Ok(answer)
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), exchange).await.map_err(|_| "silence".to_owned())?
}

pub(crate) async fn bytes_go_by_tcp_routes(lab: &Lab) {
    let _servers = serve_lines(lab);
    let mut met = BTreeSet::new();
    eventually("both versions are met", async || {
        met.insert(say(lab, "hello").await?);
        if met.len() == 2 { Ok(()) } else { Err(format!("{met:?}")) }
    })
    .await;
    assert!(met.iter().all(|answer| answer.ends_with(": hello\n")), "{met:?}");
    let tcp = "
  tcp: [{match: [{port: 9090}], route: [{destination: {host: reviews, subset: v2, port: {number: 9090}}}]}]
";
    lab.with(&rules("").replace("  http:\n", tcp), async || {
        for _ in 0..10 {
            assert_eq!(say(lab, "hello").await.unwrap(), "reviews-v2: hello\n");
        }
    })
    .await;
    let denied = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}], to: [{operation: {ports: ['9090']}}]}]
";
    lab.with(denied, async || {
        let answer = say(lab, "hello").await.unwrap_or_default();
        assert_eq!(answer, "", "it is closed without a word");
        assert_eq!(lab.ask(crate::client::get("/")).await.status, 200, "another port");
    })
    .await;
}

/// The application that answers over TLS, by its certificate and its answer.
async fn over_tls(lab: &Lab, connector: &TlsConnector, name: &str) -> Result<String, String> {
    let stream = lab.connect(TLS).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    let request = b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
    let origin = answer.lines().find_map(|line| line.strip_prefix("x-origin: "));
    origin.map(str::to_owned).ok_or(answer)
}

pub(crate) async fn tls_goes_by_its_server_name(lab: &Lab) {
    let (ca, name) = (Authority::default(), "reviews.shop.svc.cluster.local");
    let secure = |version: &str, member: &Member| {
        let name = format!("secure-{version}");
        let listener = member.place.listen(lab.application(TLS));
        Origin::on(&name, listener, Some(ca.server("reviews.shop.svc.cluster.local", None)))
    };
    let _servers = [secure("v1", &lab.v1), secure("v2", &lab.v2)];
    let mut roots = RootCertStore::empty();
    let pem = ca.pem();
    let der = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes());
    roots.add(der.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let mut met = BTreeSet::new();
    eventually("both versions are met, and show their own certificate", async || {
        met.insert(over_tls(lab, &connector, name).await?);
        if met.len() == 2 { Ok(()) } else { Err(format!("{met:?}")) }
    })
    .await;
    let tls = format!(
        "
  tls:
  - match: [{{port: 9443, sniHosts: [{name}]}}]
    route: [{{destination: {{host: reviews, subset: v2, port: {{number: 9443}}}}}}]
"
    );
    let rules = rules("").replace("  http:\n", &tls).replace("hosts: [reviews]", &format!("hosts: [{name}]"));
    lab.with(&rules, async || {
        for _ in 0..5 {
            assert_eq!(over_tls(lab, &connector, name).await.unwrap(), "secure-v2");
        }
    })
    .await;
}

/// Repeats every message, with its name before it.
fn websocket_echo(name: &'static str, listener: StdListener) -> JoinHandle<()> {
    let listener = async_listener(listener);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    let Message::Text(text) = message else { continue };
                    if socket.send(format!("{name}: {text}").into()).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

pub(crate) async fn websockets_stay_open(lab: &Lab) {
    let servers = [("reviews-v1", &lab.v1), ("reviews-v2", &lab.v2)];
    let _servers =
        servers.map(|(name, member)| Ends(websocket_echo(name, member.place.listen(lab.application(WEBSOCKET)))));
    let stream = lab.connect(WEBSOCKET).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async("ws://reviews:9081/chat", stream).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut speakers = BTreeSet::new();
    let mut chat = async |socket: &mut tokio_tungstenite::WebSocketStream<TcpStream>, text: &str| {
        socket.send(text.into()).await.unwrap();
        let answer = socket.next().await.unwrap().unwrap().into_text().unwrap().to_string();
        let (speaker, said) = answer.split_once(": ").unwrap();
        assert_eq!(said, text);
        speakers.insert(speaker.to_owned());
    };
    for number in 0..20 {
        chat(&mut socket, &format!("message {number}")).await;
    }
    // A change of the routes cuts nothing.
    let elsewhere = rules("  - route: [{destination: {host: reviews, subset: v3, port: {number: 9081}}}]\n");
    lab.with(&elsewhere, async || chat(&mut socket, "still there").await).await;
    chat(&mut socket, &"long".repeat(100_000)).await;
    assert_eq!(speakers.len(), 1, "one connection has one end: {speakers:?}");
    socket.close(None).await.unwrap();
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("suites/grpc").join(name)
}

/// A gRPC server; it ends when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn every_kind_of_grpc_call_passes(lab: &Lab) {
    let mut command = lab.v1.place.command(python::interpreter());
    command.arg(script("server.py")).arg(lab.application(GRPC).to_string());
    let mut server = Server(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), GRPC.to_string());
    let route =
        "  - {match: [{port: 7070}], route: [{destination: {host: reviews, subset: v1, port: {number: 7070}}}]}\n";
    lab.with(&rules(route), async || {
        // The name is in the hosts file of the client's host.
        let mut command = lab.client.command(python::interpreter());
        command.arg(script("client.py")).arg(format!("reviews:{GRPC}"));
        let done = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "the client printed\n{out}\n{err}");
    })
    .await;
}

/// A task that ends when this is dropped.
struct Ends(JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}
