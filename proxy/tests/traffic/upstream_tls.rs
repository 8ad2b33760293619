//! TLS to upstreams, as servers and clients see it: who is asked for, who is believed, what is shown and when.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy::Proxy;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use route_model::table::Cluster;
use route_model::table::cluster::{Discovery, UpstreamProtocol, WildcardNames};
use route_model::table::tls::Credential;
use route_model::table::upstream::UpstreamPolicy;
use route_model::table::upstream_tls::{SecretMaterial, SecretMissing, TlsFiles, TlsSource, UpstreamTls};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::client::{Http1, connect_http2};
use crate::origin::{Origin, Scripted, echo};
use crate::table::{cluster, everything_to};
use crate::tcp::counting;
use crate::tls::Identity;
use crate::{addr, apply, eventually, metrics, start, tcp};

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

pub(crate) struct Leaf {
    pem: String,
    key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn leaf(&self, name: &str) -> Leaf {
        self.leaf_with(name, |_| {})
    }

    /// One whose time is over.
    pub(crate) fn expired(&self, name: &str) -> Leaf {
        self.leaf_with(name, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    fn leaf_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Leaf { pem: certificate.pem(), key: key.serialize_pem() }
    }

    fn roots(&self) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.0.pem().as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }

    fn credential(&self) -> Arc<Credential> {
        credential("ca", "", "", &self.0.pem())
    }

    /// A list with the certificate of this serial number on it.
    fn revoking(&self, serial: u64) -> String {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

fn credential(name: &str, certificate: &str, private_key: &str, ca: &str) -> Arc<Credential> {
    Arc::new(Credential {
        secret: ResourceKey::new(Kind::Secret, "istio-system", name),
        certificate: certificate.as_bytes().to_vec(),
        private_key: private_key.as_bytes().to_vec(),
        ca: ca.as_bytes().to_vec(),
    })
}

/// What an origin saw of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    sni: Option<String>,
    alpn: Option<String>,
    /// The client's certificate.
    client: Option<CertificateDer<'static>>,
}

/// An origin behind TLS that answers as [`echo`] does.
pub(crate) struct SecureOrigin {
    pub(crate) addr: SocketAddr,
    met: Arc<Mutex<Vec<Met>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for SecureOrigin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Speaks {
    Http,
    /// Sends back what it gets, once that has ended.
    Bytes,
}

impl SecureOrigin {
    pub(crate) async fn start(leaf: &Leaf) -> Self {
        Self::with(leaf, None, Speaks::Http).await
    }

    /// With `clients` it wants a certificate of that authority.
    async fn with(leaf: &Leaf, clients: Option<&Authority>, speaks: Speaks) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let verifier = match clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(ca) => WebPkiClientVerifier::builder_with_provider(ca.roots(), provider).build().unwrap(),
        };
        let chain = vec![CertificateDer::from_pem_slice(leaf.pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
        if speaks == Speaks::Http {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let met = Arc::<Mutex<Vec<Met>>>::default();
        let log = Arc::clone(&met);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log) = (acceptor.clone(), Arc::clone(&log));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let connection = stream.get_ref().1;
                    let alpn = connection.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned());
                    log.lock().unwrap().push(Met {
                        sni: connection.server_name().map(str::to_owned),
                        alpn: alpn.clone(),
                        client: connection.peer_certificates().map(|chain| chain[0].clone().into_owned()),
                    });
                    let service = service_fn(move |request| echo("secure", request));
                    match (speaks, alpn.as_deref()) {
                        (Speaks::Bytes, _) => {
                            let mut all = Vec::new();
                            stream.read_to_end(&mut all).await.unwrap();
                            stream.write_all(&all).await.unwrap();
                            stream.shutdown().await.unwrap();
                        }
                        (Speaks::Http, Some("h2")) => {
                            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                        }
                        (Speaks::Http, _) => {
                            let builder = hyper::server::conn::http1::Builder::new();
                            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                        }
                    }
                });
            }
        });
        Self { addr, met, server }
    }

    pub(crate) fn met(&self) -> Vec<Met> {
        self.met.lock().unwrap().clone()
    }
}

fn rule() -> ResourceKey {
    ResourceKey::new(Kind::DestinationRule, "default", "s")
}

/// SIMPLE with a CA from a secret.
pub(crate) fn simple(ca: &Authority) -> UpstreamTls {
    UpstreamTls {
        rule: rule(),
        automatic: false,
        sni: None,
        subject_alt_names: Box::default(),
        mutual: false,
        verify: true,
        source: secret(None, Some(ca.credential())),
    }
}

fn mutual(ca: &Authority, own: &Leaf) -> UpstreamTls {
    let own = credential("own", &own.pem, &own.key, "");
    UpstreamTls { mutual: true, source: secret(Some(own), Some(ca.credential())), ..simple(ca) }
}

fn secret(certificate: Option<Arc<Credential>>, ca: Option<Arc<Credential>>) -> TlsSource {
    TlsSource::Secret { name: "c".into(), found: Ok(SecretMaterial { certificate, ca }) }
}

pub(crate) fn over(tls: UpstreamTls, cluster: Cluster) -> Cluster {
    Cluster { policy: UpstreamPolicy { tls: Some(Arc::new(tls)), ..cluster.policy }, ..cluster }
}

/// One request for `host` on a connection of its own.
async fn get(proxy: &Proxy, host: &str) -> (u16, String) {
    let reply = Http1::connect(addr(proxy, 80)).await.get(host, "/").await;
    (reply.status, reply.text().to_owned())
}

/// Waits until the metrics say something: a request is counted when it ends, which its client may see first.
async fn counted(proxy: &Proxy, what: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !metrics(proxy).await.contains(what) {
        assert!(tokio::time::Instant::now() < deadline, "{what} is never counted");
    }
}

#[tokio::test]
async fn requests_reach_the_server_that_their_host_names() {
    let ca = Authority::new();
    let origin = SecureOrigin::start(&ca.leaf("a.test")).await;
    let proxy = counting();
    for (protocol, alpn) in [(UpstreamProtocol::Http1, "http/1.1"), (UpstreamProtocol::Http2, "h2")] {
        let upstream = Cluster { protocol, ..over(simple(&ca), cluster("s", &[origin.addr])) };
        apply(&proxy, everything_to(upstream)).await;
        origin.met.lock().unwrap().clear();
        for host in ["a.test", "A.TEST:8080", "a.test"] {
            let (status, seen) = get(&proxy, host).await;
            assert_eq!(status, 200, "{seen}");
            assert!(seen.starts_with("secure GET /\n"), "{seen}");
        }
        let met = Met { sni: Some("a.test".into()), alpn: Some(alpn.into()), client: None };
        assert_eq!(origin.met(), [met], "one connection for all");
    }
    let text = metrics(&proxy).await;
    assert!(text.contains("fairway_upstream_tls_handshakes_total{result=\"completed\"} 2\n"), "{text}");
}

#[tokio::test]
async fn the_clients_protocol_can_be_the_upstreams() {
    let ca = Authority::new();
    let origin = SecureOrigin::start(&ca.leaf("a.test")).await;
    let proxy = start(1);
    let upstream = Cluster { protocol: UpstreamProtocol::Client, ..over(simple(&ca), cluster("s", &[origin.addr])) };
    apply(&proxy, everything_to(upstream)).await;
    assert_eq!(get(&proxy, "a.test").await.0, 200);
    let mut client = connect_http2(addr(&proxy, 80)).await;
    let request = http::Request::get("http://a.test/").body(Full::default()).unwrap();
    assert_eq!(client.send_request(request).await.unwrap().status(), 200);
    let alpn: Vec<_> = origin.met().into_iter().map(|met| met.alpn.unwrap()).collect();
    assert_eq!(alpn, ["http/1.1", "h2"]);
}

#[tokio::test]
async fn each_host_has_connections_of_its_own() {
    let ca = Authority::new();
    let origin = SecureOrigin::start(&ca.leaf("*.w.test")).await;
    let proxy = start(1);
    apply(&proxy, everything_to(over(simple(&ca), cluster("s", &[origin.addr])))).await;
    for host in ["a.w.test", "b.w.test", "a.w.test", "b.w.test"] {
        assert_eq!(get(&proxy, host).await.0, 200);
    }
    let asked: Vec<_> = origin.met().into_iter().map(|met| met.sni.unwrap()).collect();
    assert_eq!(asked, ["a.w.test", "b.w.test"]);
    assert_eq!(get(&proxy, "c.other.test").await.0, 503);
    assert_eq!(get(&proxy, "not_a,name").await.0, 503, "nothing to ask for");
}

#[tokio::test]
async fn a_server_that_is_not_believed_gets_no_request() {
    let (ca, other) = (Authority::new(), Authority::new());
    let good = ca.leaf("a.test");
    let expired = ca.expired("a.test");
    let stranger = other.leaf("a.test");
    let service = ca.leaf_with("x.test", |params| {
        params.subject_alt_names.push(SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap()));
    });
    let address = ca.leaf("127.0.0.1");
    let named = |names: &[&str]| UpstreamTls {
        subject_alt_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..simple(&ca)
    };
    let asking = |sni: &str, names: &[&str]| UpstreamTls { sni: Some(sni.into()), ..named(names) };
    for (what, leaf, tls, host, status) in [
        ("its own name", &good, simple(&ca), "a.test", 200),
        ("another name", &good, simple(&ca), "b.test", 503),
        ("past its date", &expired, simple(&ca), "a.test", 503),
        ("of another authority", &stranger, simple(&ca), "a.test", 503),
        ("by address", &address, simple(&ca), "127.0.0.1:80", 200),
        ("by name instead of address", &good, simple(&ca), "127.0.0.1", 503),
        ("one of the names", &service, named(&["no.test", "spiffe://td/ns/a/sa/b"]), "a.test", 200),
        ("none of the names", &service, named(&["a.test"]), "x.test", 503),
        ("past its date, with a name of the list", &expired, named(&["a.test"]), "a.test", 503),
        ("any name of the authority", &service, asking("q.test", &[]), "z.test", 200),
        ("a name of the list, not the one asked for", &good, asking("q.test", &["a.test"]), "z.test", 200),
        ("of another authority, asked for by name", &stranger, asking("a.test", &[]), "a.test", 503),
        ("anybody", &stranger, UpstreamTls { verify: false, ..simple(&ca) }, "z.test", 200),
    ] {
        let origin = SecureOrigin::start(leaf).await;
        let proxy = counting();
        let sni = tls.sni.clone();
        apply(&proxy, everything_to(over(tls, cluster("s", &[origin.addr])))).await;
        let (got, text) = get(&proxy, host).await;
        assert_eq!(got, status, "{what}: {text}");
        if status == 200 {
            let name = host.split(':').next().filter(|host| host.parse::<std::net::IpAddr>().is_err());
            let asked = sni.as_deref().or(name).map(str::to_owned);
            assert_eq!(origin.met()[0].sni, asked, "{what}");
            continue;
        }
        let want = "upstream connect error or disconnect/reset before headers. reset reason: remote connection \
                    failure, transport failure reason: TLS_error";
        assert_eq!(text, want, "{what}");
        assert_eq!(origin.met(), [], "{what}");
        counted(&proxy, "response_code=\"503\",grpc_response_status=\"\",response_flags=\"UF\"").await;
        let text = metrics(&proxy).await;
        assert!(!text.contains("fairway_upstream_tls_handshakes_total{result=\"failed\"} 0\n"), "{what}: {text}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_the_terms_have_one() {
    let ca = Authority::new();
    let (own, stranger) = (ca.leaf("edge.test"), Authority::new().leaf("edge.test"));
    let origin = SecureOrigin::with(&ca.leaf("a.test"), Some(&ca), Speaks::Http).await;
    let proxy = start(1);
    let der = CertificateDer::from_pem_slice(own.pem.as_bytes()).unwrap();
    for (protocol, tls, status) in [
        (UpstreamProtocol::Http1, mutual(&ca, &own), 200),
        (UpstreamProtocol::Http2, mutual(&ca, &own), 200),
        (UpstreamProtocol::Http1, simple(&ca), 503),
        (UpstreamProtocol::Http2, simple(&ca), 503),
        (UpstreamProtocol::Http1, mutual(&ca, &stranger), 503),
    ] {
        let upstream = Cluster { protocol, ..over(tls, cluster("s", &[origin.addr])) };
        apply(&proxy, everything_to(upstream)).await;
        let (got, text) = get(&proxy, "a.test").await;
        assert_eq!(got, status, "{text}");
    }
    assert!(origin.met().iter().all(|met| met.client.as_ref() == Some(&der)), "{:?}", origin.met());
    assert_eq!(origin.met().len(), 2);
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_and_disturbs_no_request() {
    let ca = Authority::new();
    let (old, new) = (ca.leaf("old.test"), ca.leaf("new.test"));
    let origin = SecureOrigin::with(&ca.leaf("a.test"), Some(&ca), Speaks::Http).await;
    let proxy = start(1);
    let serve = |own: &Leaf| everything_to(over(mutual(&ca, own), cluster("s", &[origin.addr])));
    apply(&proxy, serve(&old)).await;
    // A request under way: its body is not whole yet.
    let mut slow = Http1::connect(addr(&proxy, 80)).await;
    slow.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhello").await;
    eventually("the request is under way", || origin.met().len() == 1).await;
    apply(&proxy, serve(&new)).await;
    assert_eq!(get(&proxy, "a.test").await.0, 200);
    slow.send("world").await;
    let reply = slow.reply().await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().ends_with("helloworld"), "{}", reply.text());
    assert_eq!(get(&proxy, "a.test").await.0, 200);
    let der = |leaf: &Leaf| Some(CertificateDer::from_pem_slice(leaf.pem.as_bytes()).unwrap());
    let shown: Vec<_> = origin.met().into_iter().map(|met| met.client).collect();
    assert_eq!(shown, [der(&old), der(&new)], "the old connection is not used for what comes later");
}

#[tokio::test]
async fn files_are_read_again_when_they_change() {
    let (ca, later) = (Authority::new(), Authority::new());
    let origin = SecureOrigin::start(&later.leaf("a.test")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, ca.0.pem()).unwrap();
    let files = TlsFiles { ca: Some(path.to_str().unwrap().to_owned()), ..TlsFiles::default() };
    let proxy = start(1);
    let tls = UpstreamTls { source: TlsSource::Files(files), ..simple(&ca) };
    apply(&proxy, everything_to(over(tls, cluster("s", &[origin.addr])))).await;
    assert_eq!(get(&proxy, "a.test").await.0, 503);
    std::fs::write(&path, later.0.pem()).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while get(&proxy, "a.test").await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the new CA is never read");
    }
}

#[tokio::test]
async fn an_issue_about_a_file_is_gone_when_the_file_has_come() {
    let ca = Authority::new();
    let origin = SecureOrigin::start(&ca.leaf("a.test")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let files = TlsFiles { ca: Some(path.to_str().unwrap().to_owned()), ..TlsFiles::default() };
    let proxy = start(1);
    let tls = UpstreamTls { source: TlsSource::Files(files), ..simple(&ca) };
    let table = Arc::new(everything_to(over(tls, cluster("s", &[origin.addr]))));
    let issues = proxy.apply(Arc::clone(&table)).await.issues;
    assert!(issues.len() == 1 && issues[0].message.contains("ca.pem"), "{issues:?}");
    assert_eq!(proxy.apply(table).await.issues, issues, "a further table changes nothing about it");
    let mut reports = proxy.report();
    std::fs::write(&path, ca.0.pem()).unwrap();
    let gone = reports.wait_for(|report| report.issues.is_empty());
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("a report in time").unwrap();
    assert_eq!(get(&proxy, "a.test").await.0, 200);
}

#[tokio::test]
async fn revoked_servers_are_not_believed() {
    let ca = Authority::new();
    let leaf = ca.leaf_with("a.test", |params| params.serial_number = Some(SerialNumber::from(7_u64)));
    let origin = SecureOrigin::start(&leaf).await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path.to_str().unwrap().to_owned())
    };
    let proxy = start(1);
    for (serial, status) in [(8, 200), (7, 503)] {
        let files = TlsFiles {
            ca: write("ca.pem", ca.0.pem()),
            crl: write(&format!("{serial}.pem"), ca.revoking(serial)),
            ..TlsFiles::default()
        };
        let tls = UpstreamTls { source: TlsSource::Files(files), ..simple(&ca) };
        apply(&proxy, everything_to(over(tls, cluster("s", &[origin.addr])))).await;
        assert_eq!(get(&proxy, "a.test").await.0, status, "{serial}");
    }
}

#[tokio::test]
async fn terms_with_a_fault_are_reported_and_the_last_good_ones_serve() {
    let ca = Authority::new();
    let origin = SecureOrigin::start(&ca.leaf("a.test")).await;
    let proxy = start(1);
    let missing = SecretMissing("there is no secret `c`".into());
    let without = UpstreamTls { source: TlsSource::Secret { name: "c".into(), found: Err(missing) }, ..simple(&ca) };
    let serve = |tls: &UpstreamTls| Arc::new(everything_to(over(tls.clone(), cluster("s", &[origin.addr]))));
    let report = proxy.apply(serve(&without)).await;
    let issue = &report.issues[0];
    assert_eq!((issue.reason, issue.resource.as_ref()), ("CertificateMissing", Some(&rule())));
    assert_eq!(issue.message, "TLS to s: there is no secret `c`");
    let (status, text) = get(&proxy, "a.test").await;
    assert_eq!(status, 503);
    assert!(text.ends_with("transport failure reason: TLS_error"), "{text}");

    apply(&proxy, (*serve(&simple(&ca))).clone()).await;
    assert_eq!(get(&proxy, "a.test").await.0, 200);
    // The secret is gone: what it held still serves, and it is said that it is gone, by every later table too.
    for _ in 0..2 {
        assert_eq!(proxy.apply(serve(&without)).await.issues, report.issues);
        assert_eq!(get(&proxy, "a.test").await.0, 200);
    }
    // Terms that ask for more are not replaced by those that asked for less.
    let stricter = UpstreamTls { subject_alt_names: ["b.test".to_owned()].into(), ..without };
    assert_eq!(proxy.apply(serve(&stricter)).await.issues.len(), 1);
    assert_eq!(get(&proxy, "a.test").await.0, 503);
}

#[tokio::test]
async fn an_edit_of_the_terms_changes_the_next_request() {
    let ca = Authority::new();
    let (origin, plain) = (SecureOrigin::start(&ca.leaf("a.test")).await, Origin::http1("plain").await);
    let proxy = start(1);
    apply(&proxy, everything_to(cluster("s", &[plain.addr]))).await;
    assert_eq!(get(&proxy, "a.test").await.0, 200);
    apply(&proxy, everything_to(over(simple(&ca), cluster("s", &[plain.addr])))).await;
    assert_eq!(get(&proxy, "a.test").await.0, 503, "no request over the plain connection that is open");
    assert!(plain.connections() > 1, "it was asked for a handshake");
    apply(&proxy, everything_to(over(simple(&ca), cluster("s", &[origin.addr])))).await;
    assert_eq!(get(&proxy, "a.test").await.0, 200);
}

#[tokio::test]
async fn a_server_that_says_nothing_takes_no_longer_than_connecting_may() {
    let ca = Authority::new();
    let origin = Scripted::new().await;
    let proxy = start(1);
    let slow = over(simple(&ca), cluster("s", &[origin.addr]));
    apply(&proxy, everything_to(Cluster { connect_timeout: Duration::from_millis(200), ..slow })).await;
    let asked = std::time::Instant::now();
    let (status, text) = get(&proxy, "a.test").await;
    assert_eq!(status, 503);
    assert!(text.ends_with("TLS_error"), "{text}");
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn bytes_go_over_tls_too() {
    let ca = Authority::new();
    let own = ca.leaf("edge.test");
    let origin = SecureOrigin::with(&ca.leaf("s.test"), Some(&ca), Speaks::Bytes).await;
    let proxy = start(1);
    apply(&proxy, tcp::raw(vec![over(mutual(&ca, &own), cluster("s.test", &[origin.addr]))])).await;
    let text = vec![b'x'; 1024 * 1024];
    assert!(tcp::exchange(tcp::connect(&proxy, 80).await, &text).await == text);
    assert_eq!((origin.met()[0].sni.as_deref(), origin.met()[0].alpn.as_deref()), (Some("s.test"), None));
    // The service's name is asked for and believed only if the server has it.
    apply(&proxy, tcp::raw(vec![over(mutual(&ca, &own), cluster("other.test", &[origin.addr]))])).await;
    assert_eq!(tcp::exchange(tcp::connect(&proxy, 80).await, b"").await, b"");
    assert_eq!(origin.met().len(), 1);
}

#[tokio::test]
async fn bytes_for_a_wildcard_ask_for_the_server_that_the_client_asks_for() {
    let (ca, edge) = (Authority::new(), Identity::new("a.localhost"));
    let proxy = start(1);
    for name in ["a.localhost", "b.localhost"] {
        let origin = SecureOrigin::with(&ca.leaf(name), None, Speaks::Bytes).await;
        let names = WildcardNames { suffix: ".localhost".into(), port: origin.addr.port() };
        let wildcard = Cluster { discovery: Discovery::Dynamic(names), ..cluster("*.localhost", &[]) };
        apply(&proxy, tcp::terminated(&edge, over(simple(&ca), wildcard))).await;
        let mut client = tcp::secure(&proxy, &edge, "a.localhost").await.unwrap();
        if name == "a.localhost" {
            assert_eq!(tcp::exchange(client, b"text").await, b"text");
            assert_eq!(origin.met()[0].sni.as_deref(), Some(name));
        } else {
            // The server has another name, and is told nothing.
            assert!(matches!(client.read(&mut [0]).await, Ok(0) | Err(_)));
            assert_eq!(origin.met(), []);
        }
    }
}
