//! Sidecars by their tables: what an application opens, what others open to it, and the mutual TLS between.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxy::tls::identity::{Identity, Svid, Trust};
use proxy::{ListenAddr, Options, Proxy};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use route_model::table::cluster::{Discovery, Endpoint, EndpointAddress};
use route_model::table::stream::{StreamDestination, StreamOrigin};
use route_model::table::upstream::UpstreamPolicy;
use route_model::table::upstream_tls::{TlsSource, UpstreamTls};
use route_model::table::{
    Cluster, ClusterId, Inbound, InboundPort, Listener, ListenerProtocol, MutualTls, Outbound, PortRoutes, RouteTable,
    Speaks, StreamRoutes, StreamRule,
};
use route_model::verdict::authorization::{Action, Authorization, Check};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::authorization::policy;
use crate::client::Http1;
use crate::origin::Origin;
use crate::table::{cluster, direct, forward, route, routes, table, to};
use crate::{addr, apply, metrics, start_with};

const REVIEWS: &str = "spiffe://cluster.local/ns/shop/sa/reviews";
const RATINGS: &str = "spiffe://cluster.local/ns/shop/sa/ratings";
/// The port that stands for the application's; the ports of listeners are all mapped to free ones.
const APPLICATION: u16 = 9080;
const SERVICE: u16 = 80;
const INBOUND: u16 = 81;
const OUTBOUND: u16 = 443;

/// A mesh: one authority.
struct Mesh(CertifiedIssuer<'static, KeyPair>);

impl Mesh {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "mesh");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn identity(&self, id: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let svid = Svid {
            chain: vec![leaf.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            spiffe_id: id.to_owned(),
            not_after: SystemTime::now() + Duration::from_hours(1),
        };
        let roots = BTreeMap::from([("cluster.local".to_owned(), vec![self.0.der().clone()])]);
        let identity = Identity::default();
        identity.replace(svid, Trust { roots, ..Trust::default() }).unwrap();
        identity
    }
}

fn sidecar(identity: Identity) -> Proxy {
    let metrics = ListenAddr { addr: (Ipv4Addr::LOCALHOST, 0).into(), explicit: true };
    start_with(Options { workers: 1, mesh_identity: identity, metrics_addr: Some(metrics), ..Options::default() })
}

pub(crate) fn listener(port: u16, protocol: ListenerProtocol) -> Arc<Listener> {
    Arc::new(Listener { bind: None, port, servers: Vec::new(), proxy_protocol: false, protocol })
}

fn streams(cluster: u32) -> Arc<StreamRoutes> {
    let virtual_service = ResourceKey::new(Kind::ServiceEntry, "shop", "all");
    let rule = StreamRule {
        origin: StreamOrigin { virtual_service, tls: false, rule: 0, match_index: None },
        sni: Box::default(),
        destination_subnets: Box::default(),
        source_subnet: None,
        destinations: [StreamDestination { cluster: ClusterId(cluster), weight: 1 }].into(),
        total_weight: 1,
    };
    Arc::new(StreamRoutes::tcp("streams".into(), vec![Arc::new(rule)]))
}

/// Everything to one cluster.
pub(crate) fn port(speaks: Speaks, cluster: u32) -> Arc<PortRoutes> {
    let http = routes(vec![("*", vec![route("/", forward(to(&[(cluster, 1)])))])]);
    Arc::new(PortRoutes { speaks, http, streams: Some(streams(cluster)) })
}

fn inbound(mutual_tls: MutualTls, speaks: Speaks) -> Arc<Listener> {
    let own = Arc::new(InboundPort { mutual_tls, routes: port(speaks, 0) });
    let ports = [(APPLICATION, own)].into_iter().collect();
    let inbound = Arc::new(Inbound { ports, ..Inbound::default() });
    listener(INBOUND, ListenerProtocol::Inbound { port: Some(APPLICATION), inbound })
}

/// A service whose endpoints are sidecars.
fn in_mesh(endpoints: &[SocketAddr], names: &[&str]) -> Cluster {
    let endpoint = |address: &SocketAddr| Endpoint {
        in_mesh: true,
        ..Endpoint::new(EndpointAddress::Ip(address.ip(), address.port()), 1)
    };
    let tls = UpstreamTls {
        rule: ResourceKey::new(Kind::ServiceEntry, "shop", "reviews"),
        automatic: true,
        sni: Some("outbound_.9080_._.reviews.shop.svc.cluster.local".into()),
        subject_alt_names: names.iter().map(|&name| name.to_owned()).collect(),
        mutual: true,
        verify: true,
        source: TlsSource::Mesh,
    };
    Cluster {
        discovery: Discovery::Static(endpoints.iter().map(endpoint).collect()),
        multiplexed: true,
        policy: UpstreamPolicy { tls: Some(Arc::new(tls)), ..UpstreamPolicy::default() },
        ..cluster("reviews", &[])
    }
}

/// The sidecar of `reviews` in front of an origin, and that of `ratings` with a listener for the service.
async fn pair(mesh: &Mesh, origin: SocketAddr, mode: MutualTls, speaks: Speaks) -> (Proxy, Proxy) {
    let server = sidecar(mesh.identity(REVIEWS));
    apply(&server, table(vec![inbound(mode, speaks)], vec![cluster("inbound", &[origin])])).await;
    let client = sidecar(mesh.identity(RATINGS));
    let service = listener(SERVICE, ListenerProtocol::Service(port(speaks, 0)));
    apply(&client, table(vec![service], vec![in_mesh(&[addr(&server, INBOUND)], &[REVIEWS])])).await;
    (server, client)
}

#[tokio::test]
async fn requests_between_sidecars_share_a_connection_of_mutual_tls_and_say_who_asks() {
    let (mesh, origin) = (Mesh::new(), Origin::http1("reviews").await);
    let (server, client) = pair(&mesh, origin.addr, MutualTls::Strict, Speaks::Http).await;
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(Http1::connect(addr(&client, SERVICE)).await);
    }
    let answers = futures_util::future::join_all(connections.iter_mut().map(|connection| async {
        let head = "GET /1 HTTP/1.1\r\nHost: reviews:9080\r\nX-Forwarded-For: 192.0.2.7\r\nX-Request-Id: kept\r\n\
                    X-Forwarded-Client-Cert: By=forged\r\n\r\n";
        connection.send(head).await;
        connection.reply().await
    }));
    for answer in answers.await {
        let text = answer.text().to_ascii_lowercase();
        assert_eq!(answer.status, 200, "{text}");
        for field in [
            "host: reviews:9080",
            "x-forwarded-for: 192.0.2.7\n",
            "x-request-id: kept",
            "x-forwarded-proto: http\n",
            &format!("x-forwarded-client-cert: by={REVIEWS};hash="),
            &format!(";uri={RATINGS}"),
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
        assert!(!text.contains("forged"), "{text}");
    }
    assert!(metrics(&server).await.contains("fairway_downstream_connections_total 1\n"), "{}", metrics(&server).await);
}

#[tokio::test]
async fn strict_takes_nothing_but_mutual_tls_of_the_mesh() {
    let (mesh, origin) = (Mesh::new(), Origin::http1("reviews").await);
    let (server, _client) = pair(&mesh, origin.addr, MutualTls::Strict, Speaks::Http).await;
    let mut plain = TcpStream::connect(addr(&server, INBOUND)).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert, or a reset.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let stranger = sidecar(Mesh::new().identity(RATINGS));
    let service = listener(SERVICE, ListenerProtocol::Service(port(Speaks::Http, 0)));
    apply(&stranger, table(vec![service], vec![in_mesh(&[addr(&server, INBOUND)], &[REVIEWS])])).await;
    let answer = Http1::connect(addr(&stranger, SERVICE)).await.get("reviews", "/").await;
    assert_eq!(answer.status, 503);
    let nobody = sidecar(Identity::default());
    let service = listener(SERVICE, ListenerProtocol::Service(port(Speaks::Http, 0)));
    apply(&nobody, table(vec![service], vec![in_mesh(&[addr(&server, INBOUND)], &[REVIEWS])])).await;
    let answer = Http1::connect(addr(&nobody, SERVICE)).await.get("reviews", "/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_server_of_another_identity_is_sent_nothing() {
    let (mesh, origin) = (Mesh::new(), Origin::http1("other").await);
    let (server, client) = pair(&mesh, origin.addr, MutualTls::Strict, Speaks::Http).await;
    let service = listener(SERVICE, ListenerProtocol::Service(port(Speaks::Http, 0)));
    let expected = ["spiffe://cluster.local/ns/shop/sa/details"];
    apply(&client, table(vec![service], vec![in_mesh(&[addr(&server, INBOUND)], &expected)])).await;
    let answer = Http1::connect(addr(&client, SERVICE)).await.get("reviews", "/").await;
    assert_eq!((answer.status, origin.connections()), (503, 0));
}

#[tokio::test]
async fn policies_are_asked_for_the_applications_port_and_not_the_sidecars() {
    let (mesh, origin) = (Mesh::new(), Origin::http1("reviews").await);
    let (server, client) = pair(&mesh, origin.addr, MutualTls::Strict, Speaks::Http).await;
    for (port, status) in [(APPLICATION, 403), (INBOUND, 200)] {
        let deny = policy("deny", Action::Deny, vec![Check::Port([port].into())]);
        let authorization = Arc::new(Authorization::new(vec![Arc::new(deny)]));
        let to_application = cluster("inbound", &[origin.addr]);
        let listeners = vec![inbound(MutualTls::Strict, Speaks::Http)];
        apply(&server, RouteTable { authorization, ..table(listeners, vec![to_application]) }).await;
        assert_eq!(Http1::connect(addr(&client, SERVICE)).await.get("reviews", "/").await.status, status, "{port}");
    }
}

#[tokio::test]
async fn permissive_takes_both_and_leaves_other_tls_to_the_application() {
    let (mesh, origin) = (Mesh::new(), Origin::http1("reviews").await);
    let (server, client) = pair(&mesh, origin.addr, MutualTls::Permissive, Speaks::Http).await;
    let answer = Http1::connect(addr(&client, SERVICE)).await.get("reviews", "/").await;
    assert!(answer.text().to_ascii_lowercase().contains("x-forwarded-client-cert"), "{}", answer.text());
    let mut plain = Http1::connect(addr(&server, INBOUND)).await;
    plain.send("GET / HTTP/1.1\r\nHost: reviews\r\nX-Forwarded-Client-Cert: By=forged\r\n\r\n").await;
    let answer = plain.reply().await;
    assert_eq!(answer.status, 200);
    assert!(!answer.text().contains("forged"), "{}", answer.text());

    // Somebody else's handshake comes through byte for byte.
    let application = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let to_application = cluster("inbound", &[application.local_addr().unwrap()]);
    apply(&server, table(vec![inbound(MutualTls::Permissive, Speaks::Detect)], vec![to_application])).await;
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("own.test").unwrap();
    let mut hello = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(addr(&server, INBOUND)).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut arrived = vec![0; hello.len()];
    application.accept().await.unwrap().0.read_exact(&mut arrived).await.unwrap();
    assert_eq!(arrived, hello);
}

#[tokio::test]
async fn a_policy_that_becomes_strict_ends_plain_connections() {
    let (mesh, origin) = (Mesh::new(), Origin::http1("reviews").await);
    let (server, client) = pair(&mesh, origin.addr, MutualTls::Permissive, Speaks::Http).await;
    let mut plain = Http1::connect(addr(&server, INBOUND)).await;
    assert_eq!(plain.get("reviews", "/").await.status, 200);
    let mut through = Http1::connect(addr(&client, SERVICE)).await;
    assert_eq!(through.get("reviews", "/").await.status, 200);
    let strict = vec![inbound(MutualTls::Strict, Speaks::Http)];
    apply(&server, table(strict, vec![cluster("inbound", &[origin.addr])])).await;
    assert_eq!(plain.get("reviews", "/").await.status, 421);
    assert_eq!(through.get("reviews", "/").await.status, 200);
}

#[tokio::test]
async fn bytes_go_through_mutual_tls_too() {
    let application = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mesh = Mesh::new();
    let (server, client) = pair(&mesh, application.local_addr().unwrap(), MutualTls::Strict, Speaks::Bytes).await;
    let mut stream = TcpStream::connect(addr(&client, SERVICE)).await.unwrap();
    // The server is the one that begins.
    let (mut accepted, _) = application.accept().await.unwrap();
    accepted.write_all(b"220 ready").await.unwrap();
    let mut text = [0; 9];
    stream.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"220 ready");
    stream.write_all(b"HELO").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut asked = Vec::new();
    accepted.read_to_end(&mut asked).await.unwrap();
    assert_eq!(asked, b"HELO");
    assert!(metrics(&server).await.contains("fairway_tls_handshakes_total"), "{}", metrics(&server).await);
}

#[tokio::test]
async fn what_is_spoken_is_found_out_where_nobody_said() {
    let (mesh, origin) = (Mesh::new(), Origin::http1("reviews").await);
    let (_server, client) = pair(&mesh, origin.addr, MutualTls::Strict, Speaks::Detect).await;
    let answer = Http1::connect(addr(&client, SERVICE)).await.get("reviews", "/").await;
    assert!(answer.text().to_ascii_lowercase().contains(&format!("uri={RATINGS}")), "{}", answer.text());
    let application = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (_server, client) = pair(&mesh, application.local_addr().unwrap(), MutualTls::Strict, Speaks::Detect).await;
    let mut stream = TcpStream::connect(addr(&client, SERVICE)).await.unwrap();
    stream.write_all(b"\x00\x01binary").await.unwrap();
    let mut arrived = [0; 8];
    application.accept().await.unwrap().0.read_exact(&mut arrived).await.unwrap();
    assert_eq!(&arrived, b"\x00\x01binary");
}

#[tokio::test]
async fn a_forward_proxy_leads_to_services_and_lets_the_rest_through() {
    let origin = Origin::http1("elsewhere").await;
    let client = sidecar(Identity::default());
    let reviews = Arc::new(PortRoutes {
        speaks: Speaks::Http,
        http: routes(vec![
            ("reviews", vec![route("/", direct(200, "the service"))]),
            ("*", vec![route("/", forward(to(&[(0, 1)])))]),
        ]),
        streams: None,
    });
    let outbound = Outbound {
        by_port: [(9080, reviews)].into_iter().collect(),
        unknown: port(Speaks::Detect, 0),
        ..Outbound::default()
    };
    let passthrough = Cluster { discovery: Discovery::Original, ..cluster("PassthroughCluster", &[]) };
    let listeners = vec![listener(OUTBOUND, ListenerProtocol::Outbound(Arc::new(outbound)))];
    apply(&client, table(listeners, vec![passthrough])).await;
    let mut http = Http1::connect(addr(&client, OUTBOUND)).await;
    http.send("GET http://reviews:9080/ HTTP/1.1\r\nHost: reviews:9080\r\n\r\n").await;
    assert_eq!(http.reply().await.text(), "the service");
    for host in ["localhost", "127.0.0.1", "LOCALHOST."] {
        let elsewhere = format!("{host}:{}", origin.addr.port());
        http.send(&format!("GET http://{elsewhere}/x HTTP/1.1\r\nHost: {elsewhere}\r\n\r\n")).await;
        let answer = http.reply().await;
        assert_eq!(answer.status, 200, "{host}");
        assert!(answer.text().contains("elsewhere"), "{}", answer.text());
    }
    assert_eq!(http.get("nobody.invalid:1", "/").await.status, 503);
}

#[tokio::test]
async fn what_comes_to_the_workload_is_counted_by_who_sends_it() {
    let (mesh, origin) = (Mesh::new(), Origin::http1("reviews").await);
    for speaks in [Speaks::Http, Speaks::Bytes] {
        let (server, client) = pair(&mesh, origin.addr, MutualTls::Permissive, speaks).await;
        for sidecar in [addr(&client, SERVICE), addr(&server, INBOUND)] {
            assert_eq!(Http1::connect(sidecar).await.get("reviews", "/").await.status, 200);
        }
        let family =
            if speaks == Speaks::Http { "istio_requests_total{" } else { "istio_tcp_connections_opened_total{" };
        // What was answered is counted soon after.
        let until = async |proxy: &Proxy, wanted: &[&[&str]]| {
            testkit::eventually("each is counted as what it is", async || {
                let text = metrics(proxy).await;
                let shown: Vec<String> =
                    text.lines().filter(|line| line.starts_with(family)).map(str::to_owned).collect();
                let has = |labels: &&[&str]| shown.iter().any(|line| labels.iter().all(|label| line.contains(label)));
                if shown.len() == wanted.len() && wanted.iter().all(has) { Ok(()) } else { Err(shown) }
            })
            .await;
        };
        let principals = [
            "reporter=\"destination\"",
            &format!("source_principal=\"{RATINGS}\""),
            &format!("destination_principal=\"{REVIEWS}\""),
            "source_workload_namespace=\"shop\"",
            "connection_security_policy=\"mutual_tls\"",
        ];
        let plain = ["reporter=\"destination\"", "source_principal=\"unknown\"", "connection_security_policy=\"none\""];
        until(&server, &[&principals, &plain]).await;
        until(&client, &[&["reporter=\"source\"", "connection_security_policy=\"unknown\""]]).await;
    }
}
