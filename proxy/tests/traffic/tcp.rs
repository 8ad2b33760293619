//! Connections that are not HTTP: raw TCP, TLS passed through, and TCP inside terminated TLS.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy::{ListenAddr, Options, Proxy};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use route_model::table::stream::{StreamDestination, StreamOrigin};
use route_model::table::upstream::CircuitBreakers;
use route_model::table::{
    Cluster, ClusterId, HostIndex, HostPattern, Listener, ListenerProtocol, PassthroughServer, RouteTable, ServerRef,
    StreamRoutes, StreamRule, TlsChoice, TlsListener, TlsRoutes, TlsServer,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::origin::Scripted;
use crate::table::{cluster, gateway, table};
use crate::tls::Identity;
use crate::{addr, apply, metrics, start, start_with};

/// One rule for every connection, or for a server name, to clusters by weight.
fn rule(sni: &[&str], to: &[(u32, u32)]) -> Arc<StreamRule> {
    let virtual_service = ResourceKey::new(Kind::VirtualService, "default", "vs");
    let destination = |&(cluster, weight)| StreamDestination { cluster: ClusterId(cluster), weight };
    Arc::new(StreamRule {
        origin: StreamOrigin { virtual_service, tls: !sni.is_empty(), rule: 0, match_index: None },
        sni: sni.iter().map(|host| HostPattern::new(host)).collect(),
        destination_subnets: Box::default(),
        source_subnet: None,
        destinations: to.iter().map(destination).collect(),
        total_weight: to.iter().map(|(_, weight)| u64::from(*weight)).sum(),
    })
}

fn server(index: usize) -> ServerRef {
    ServerRef { gateway: gateway(), index }
}

fn listener(port: u16, protocol: ListenerProtocol) -> Arc<Listener> {
    Arc::new(Listener { bind: None, port, servers: vec![server(0)], proxy_protocol: false, protocol })
}

/// A raw port.
fn tcp(port: u16, rules: Vec<Arc<StreamRule>>) -> Arc<Listener> {
    listener(port, ListenerProtocol::Tcp(Arc::new(StreamRoutes::tcp("tcp".into(), rules))))
}

/// Port 80 to clusters of equal weight.
pub(crate) fn raw(clusters: Vec<Cluster>) -> RouteTable {
    let to: Vec<_> = (0..clusters.len() as u32).map(|index| (index, 1)).collect();
    table(vec![tcp(80, vec![rule(&[], &to)])], clusters)
}

/// An origin that says its name and then whatever it is told.
async fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(name.as_bytes()).await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    addr
}

pub(crate) async fn connect(proxy: &Proxy, port: u16) -> TcpStream {
    TcpStream::connect(addr(proxy, port)).await.unwrap()
}

/// Says all, closes its half, and reads to the end.
pub(crate) async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let talk = async {
        stream.write_all(text).await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut answer).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(20), talk).await.expect("an answer in time");
    answer
}

/// Whether the other end is closed without a byte.
pub(crate) async fn is_closed(mut stream: TcpStream) -> bool {
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0])).await.expect("an end in time");
    matches!(read, Ok(0) | Err(_))
}

#[tokio::test]
async fn connections_are_split_by_weight() {
    let origins = [echo("a").await, echo("b").await];
    let proxy = start(1);
    let clusters = vec![cluster("a", &origins[..1]), cluster("b", &origins[1..])];
    apply(&proxy, table(vec![tcp(80, vec![rule(&[], &[(0, 3), (1, 1)])])], clusters)).await;
    let mut a = 0;
    for _ in 0..200 {
        let answer = exchange(connect(&proxy, 80).await, b"!").await;
        assert!(answer == b"a!" || answer == b"b!", "{answer:?}");
        a += usize::from(answer == b"a!");
    }
    // Five standard deviations around 150.
    assert!((120..=180).contains(&a), "{a} of 200");
}

#[tokio::test]
async fn either_end_can_close_its_half_and_still_be_heard() {
    let origin = Scripted::new().await;
    let proxy = start(1);
    apply(&proxy, raw(vec![cluster("o", &[origin.addr])])).await;
    for client_first in [true, false] {
        let mut client = connect(&proxy, 80).await;
        let mut upstream = origin.accept().await.io.into_inner();
        let (first, second) = if client_first { (&mut client, &mut upstream) } else { (&mut upstream, &mut client) };
        first.write_all(b"the first").await.unwrap();
        first.shutdown().await.unwrap();
        let mut heard = String::new();
        second.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "the first");
        second.write_all(b"the last").await.unwrap();
        second.shutdown().await.unwrap();
        heard.clear();
        first.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "the last");
    }
}

#[tokio::test]
async fn a_big_transfer_arrives_whole_both_ways_at_once() {
    let origin = echo("").await;
    let proxy = start(2);
    apply(&proxy, raw(vec![cluster("o", &[origin])])).await;
    let bytes: Vec<u8> = (0..24_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut read, mut write) = connect(&proxy, 80).await.into_split();
    let sent = bytes.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.unwrap();
    writing.await.unwrap();
    assert!(back == bytes, "{} bytes of {}", back.len(), bytes.len());
}

#[tokio::test]
async fn silence_and_age_end_a_connection() {
    let origin = Scripted::new().await;
    let proxy = start(1);
    for (idle, most) in [(Some(Duration::from_millis(50)), None), (None, Some(Duration::from_millis(50)))] {
        let mut quiet = cluster("o", &[origin.addr]);
        quiet.policy.connections.tcp_idle = idle;
        quiet.policy.connections.max_duration = most;
        apply(&proxy, raw(vec![quiet])).await;
        let client = connect(&proxy, 80).await;
        let upstream = origin.accept().await.io.into_inner();
        assert!(is_closed(client).await && is_closed(upstream).await);
    }
}

#[tokio::test]
async fn what_leads_nowhere_is_closed() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let origin = Scripted::new().await;
    let mut full = cluster("full", &[origin.addr]);
    full.policy.limits = CircuitBreakers { connections: 1, ..CircuitBreakers::default() };
    let proxy = counting();
    let mut nowhere = raw(vec![]);
    nowhere.listeners = vec![tcp(80, vec![rule(&[], &[(7, 1)])])];
    for (table, flag) in [
        (table(vec![tcp(80, vec![])], vec![]), "NR"),
        (nowhere, "NC"),
        (raw(vec![cluster("empty", &[])]), "UH"),
        (raw(vec![cluster("gone", &[gone])]), "UF"),
    ] {
        apply(&proxy, table).await;
        assert!(is_closed(connect(&proxy, 80).await).await, "{flag}");
        flagged(&proxy, flag).await;
    }
    apply(&proxy, raw(vec![full])).await;
    let first = connect(&proxy, 80).await;
    let _upstream = origin.accept().await;
    assert!(is_closed(connect(&proxy, 80).await).await);
    flagged(&proxy, "UO").await;
    drop(first);
}

/// A proxy that shows its metrics.
pub(crate) fn counting() -> Proxy {
    let metrics = ListenAddr { addr: ([127, 0, 0, 1], 0).into(), explicit: true };
    start_with(Options { workers: 1, metrics_addr: Some(metrics), ..Options::default() })
}

/// Waits until a connection with this flag is counted as opened and closed.
pub(crate) async fn flagged(proxy: &Proxy, flag: &str) {
    let wanted = format!("response_flags=\"{flag}\"");
    for name in ["istio_tcp_connections_opened_total{", "istio_tcp_connections_closed_total{"] {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !metrics(proxy)
            .await
            .lines()
            .any(|line| line.starts_with(name) && line.contains(&wanted) && !line.ends_with("} 0"))
        {
            assert!(tokio::time::Instant::now() < deadline, "{name} {flag} was never counted");
        }
    }
}

#[tokio::test]
async fn connections_and_bytes_are_counted_by_destination() {
    let origin = echo("hello ").await;
    let proxy = counting();
    apply(&proxy, raw(vec![cluster("counted.test", &[origin])])).await;
    assert_eq!(exchange(connect(&proxy, 80).await, b"you").await, b"hello you");
    flagged(&proxy, "-").await;
    let text = metrics(&proxy).await;
    for (name, value) in [
        ("istio_tcp_connections_opened_total", 1),
        ("istio_tcp_connections_closed_total", 1),
        ("istio_tcp_received_bytes_total", 3),
        ("istio_tcp_sent_bytes_total", 9),
    ] {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).expect("the metric");
        assert!(line.contains("destination_service=\"counted.test\"") && line.contains("request_protocol=\"tcp\""));
        assert!(line.ends_with(&format!("}} {value}")), "{line}");
    }
}

#[tokio::test]
async fn a_connection_outlives_tables_and_its_listener_until_the_drain_time() {
    let origins = [echo("a").await, echo("b").await];
    let proxy = start(1);
    apply(&proxy, raw(vec![cluster("a", &origins[..1])])).await;
    let mut client = connect(&proxy, 80).await;
    let mut told = [0; 2];
    client.write_all(b"1").await.unwrap();
    client.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"a1");
    apply(&proxy, raw(vec![cluster("b", &origins[1..])])).await;
    assert_eq!(exchange(connect(&proxy, 80).await, b"2").await, b"b2");
    client.write_all(b"34").await.unwrap();
    client.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"34");
    apply(&proxy, table(vec![], vec![])).await;
    client.write_all(b"56").await.unwrap();
    client.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"56", "the listener is gone, the connection is not");
    assert!(is_closed(client).await, "until the drain time is over");
}

/// Port 443: `pass.test` is passed through to the first cluster, inside `end.test` TCP goes to the second.
fn mixed(identity: &Identity, clusters: Vec<Cluster>) -> RouteTable {
    let passthrough = StreamRoutes::tls("tls".into(), vec![rule(&["pass.test"], &[(0, 1)])]);
    let inside = StreamRoutes::tcp("tls".into(), vec![rule(&[], &[(1, 1)])]);
    let terms = route_model::table::tls::TlsTerms { http: false, ..identity.terms() };
    let terminating = TlsServer { server: server(1), terms: Arc::new(terms), routes: TlsRoutes::Tcp(Arc::new(inside)) };
    let tls = TlsListener {
        servers: vec![Arc::new(terminating)],
        passthrough: vec![Arc::new(PassthroughServer { server: server(0), routes: Arc::new(passthrough) })],
        by_sni: HostIndex::new([
            (HostPattern::new("*.test"), TlsChoice::PassThrough(0)),
            (HostPattern::new("end.test"), TlsChoice::Terminate(0)),
        ]),
    };
    table(vec![listener(443, ListenerProtocol::Tls(Arc::new(tls)))], clusters)
}

/// Port 443: TCP inside TLS for any name goes to a cluster.
pub(crate) fn terminated(identity: &Identity, cluster: Cluster) -> RouteTable {
    let inside = StreamRoutes::tcp("tls".into(), vec![rule(&[], &[(0, 1)])]);
    let terms = route_model::table::tls::TlsTerms { http: false, ..identity.terms() };
    let server = TlsServer { server: server(0), terms: Arc::new(terms), routes: TlsRoutes::Tcp(Arc::new(inside)) };
    let tls = TlsListener {
        servers: vec![Arc::new(server)],
        passthrough: vec![],
        by_sni: HostIndex::new([(HostPattern::new("*"), TlsChoice::Terminate(0))]),
    };
    table(vec![listener(443, ListenerProtocol::Tls(Arc::new(tls)))], vec![cluster])
}

/// A TLS client that trusts one certificate.
pub(crate) async fn secure(
    proxy: &Proxy,
    trusted: &Identity,
    name: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.der()).unwrap();
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    // A protocol that the gateway knows nothing of.
    config.alpn_protocols = vec![b"database".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from(name.to_owned()).unwrap(), connect(proxy, 443).await).await
}

/// An origin that speaks TLS itself.
async fn tls_echo(identity: &Identity) -> SocketAddr {
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.der()], key)
            .unwrap();
    config.alpn_protocols = vec![b"database".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let (mut read, mut write) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    addr
}

#[tokio::test]
async fn one_port_passes_tls_through_and_terminates_it() {
    let (origins_own, gateways_own) = (Identity::new("pass.test"), Identity::new("end.test"));
    let proxy = start(1);
    let clusters = vec![cluster("pass", &[tls_echo(&origins_own).await]), cluster("end", &[echo("plain ").await])];
    apply(&proxy, mixed(&gateways_own, clusters)).await;
    // The gateway has no key for this name: only the origin can have shown the certificate that the client trusts.
    let through = secure(&proxy, &origins_own, "pass.test").await.unwrap();
    assert_eq!(through.get_ref().1.alpn_protocol(), Some(&b"database"[..]));
    let bytes = vec![7; 300_000];
    assert!(exchange(through, &bytes).await == bytes);
    let inside = secure(&proxy, &gateways_own, "end.test").await.unwrap();
    assert_eq!(inside.get_ref().1.alpn_protocol(), None, "nothing is agreed that the gateway does not speak");
    assert_eq!(exchange(inside, b"text").await, b"plain text");
    for unmatched in ["other.test", "elsewhere"] {
        assert!(secure(&proxy, &origins_own, unmatched).await.is_err(), "{unmatched}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_speak_tls_or_says_nothing_is_closed() {
    let identity = Identity::new("end.test");
    let limits = proxy::Limits { handshake_timeout: Duration::from_millis(200), ..proxy::Limits::default() };
    let proxy = start_with(Options { limits, workers: 1, ..Options::default() });
    let origin = Scripted::new().await;
    apply(&proxy, mixed(&identity, vec![cluster("a", &[origin.addr]), cluster("b", &[origin.addr])])).await;
    let mut http = connect(&proxy, 443).await;
    http.write_all(b"GET / HTTP/1.1\r\nHost: pass.test\r\n\r\n").await.unwrap();
    assert!(is_closed(http).await);
    assert!(is_closed(connect(&proxy, 443).await).await);
    assert!(origin.is_left_alone().await);
}
