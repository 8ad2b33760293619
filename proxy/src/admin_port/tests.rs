//! A whole proxy, asked on its own ports over sockets.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use route_model::kind::Kind;
use route_model::matching::{Predicates, UriMatch};
use route_model::meta::{ResourceKey, Revision};
use route_model::table::cluster::{Discovery, Endpoint, EndpointAddress, LoadBalancer, UpstreamProtocol};
use route_model::table::route::{DirectResponse, RouteOrigin};
use route_model::table::tls::{CertificateSource, Credential, TlsChoice, TlsListener, TlsRoutes, TlsServer, TlsTerms};
use route_model::table::upstream::UpstreamPolicy;
use route_model::table::{
    Action, Cluster, ClusterKey, HostIndex, HostPattern, HttpRoutes, Listener, ListenerProtocol, Route, RouteTable,
    ServerRef, VirtualHost,
};

use super::*;
use crate::{Options, Proxy};

/// A free port on loopback.
fn free() -> ListenAddr {
    ListenAddr { addr: ([127, 0, 0, 1], 0).into(), explicit: true }
}

fn options() -> Options {
    Options {
        bind: [127, 0, 0, 1].into(),
        port_map: BTreeMap::from([(80, 0), (443, 0)]),
        workers: 2,
        metrics_addr: Some(free()),
        admin_addr: Some(free()),
        ..Options::default()
    }
}

/// Sends a request and gives status and body.
fn ask(address: SocketAddr, method_and_path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {address}\r\n") };
    write!(stream, "{method_and_path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn gateway(index: usize) -> ServerRef {
    ServerRef { gateway: ResourceKey::new(Kind::Gateway, "default", "edge"), index }
}

fn routes() -> Arc<HttpRoutes> {
    let origin = RouteOrigin {
        virtual_service: ResourceKey::new(Kind::VirtualService, "default", "shop"),
        rule: 3,
        match_index: None,
        delegate: None,
    };
    let teapot = DirectResponse {
        status: StatusCode::IM_A_TEAPOT,
        body: Bytes::from_static(b"short and stout"),
        content_type: None,
        response_headers: route_model::table::headers::HeaderOps::default(),
    };
    let action = Action::Direct(Arc::new(teapot));
    let route = Route::new("tea".into(), origin, UriMatch::everything(), Predicates::default(), action);
    let domain = HostPattern::new("shop.example");
    let host = VirtualHost::new(domain.clone(), false, vec![Arc::new(route)]);
    Arc::new(HttpRoutes {
        name: "http.80".into(),
        hosts: HostIndex::new([(domain, Arc::new(host))]),
        ..HttpRoutes::default()
    })
}

/// A plain and a TLS listener, and one cluster. Gives the private key too.
fn table() -> (Arc<RouteTable>, String) {
    let made = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).unwrap();
    let key = made.signing_key.serialize_pem();
    let credential = Credential {
        secret: ResourceKey::new(Kind::Secret, "istio-system", "shop-cert"),
        certificate: made.cert.pem().into_bytes(),
        private_key: key.clone().into_bytes(),
        ca: Vec::new(),
    };
    let terms = TlsTerms { certificates: vec![CertificateSource::Secret(Arc::new(credential))], ..TlsTerms::default() };
    let server = TlsServer { server: gateway(1), terms: Arc::new(terms), routes: TlsRoutes::Http(routes()) };
    let by_sni = HostIndex::new([(HostPattern::new("shop.example"), TlsChoice::Terminate(0))]);
    let tls = TlsListener { servers: vec![Arc::new(server)], passthrough: Vec::new(), by_sni };
    let listener = |port, index, protocol| {
        Arc::new(Listener { bind: None, port, servers: vec![gateway(index)], proxy_protocol: false, protocol })
    };
    let endpoint = Endpoint::new(EndpointAddress::Ip([127, 0, 0, 1].into(), 9), 5);
    let cluster = Cluster {
        key: ClusterKey { host: "tea.example".into(), port: 80, subset: None, namespace: "default".into() },
        name: "outbound|80||tea.example".into(),
        discovery: Discovery::Static([endpoint].into()),
        load_balancer: LoadBalancer::RoundRobin,
        protocol: UpstreamProtocol::Http1,
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_mins(1),
        policy: UpstreamPolicy::default(),
        multiplexed: false,
        limits: None,
        service_name: "tea".into(),
        service_namespace: "default".into(),
    };
    let table = RouteTable {
        revision: Revision(42),
        listeners: vec![
            listener(80, 0, ListenerProtocol::Http(routes())),
            listener(443, 1, ListenerProtocol::Tls(Arc::new(tls))),
        ],
        clusters: vec![None, Some(Arc::new(cluster))],
        ..RouteTable::default()
    };
    (Arc::new(table), key)
}

#[test]
fn a_default_port_that_is_taken_gives_way_and_an_explicit_one_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let start = |explicit| Proxy::start(Options { metrics_addr: Some(ListenAddr { addr, explicit }), ..options() });
    let bound = start(false).unwrap().bound().metrics.unwrap();
    assert!(bound.ip() == addr.ip() && bound.port() != addr.port(), "{bound}");
    let error = start(true).unwrap_err().to_string();
    assert!(error.contains(&addr.to_string()) && error.contains("metrics"), "{error}");
}

#[tokio::test]
async fn readiness_follows_the_life_of_the_proxy() {
    let proxy = Proxy::start(options()).unwrap();
    let (metrics, admin) = (proxy.bound().metrics.unwrap(), proxy.bound().admin.unwrap());
    assert_eq!(ask(metrics, "GET /healthz", "").0, 200);
    assert_eq!(ask(metrics, "GET /readyz", ""), (503, "no configuration yet\n".to_owned()));
    assert_eq!(proxy.apply(table().0).await.issues, []);
    assert_eq!(ask(metrics, "GET /readyz", "").0, 200);
    let info: Value = serde_json::from_str(&ask(admin, "GET /server_info", "").1).unwrap();
    assert_eq!((&info["state"], &info["revision"], &info["workers"]), (&json!("serving"), &json!(42), &json!(2)));

    let shop = proxy.bound().listeners[0].address;
    assert_eq!(ask(admin, "GET /drain", "").0, 405);
    assert_eq!(ask(shop, "GET /", "Host: shop.example\r\n").0, 418);
    assert_eq!(ask(admin, "POST /drain", "").0, 200);
    assert_eq!(ask(metrics, "GET /readyz", ""), (503, "draining\n".to_owned()));
    assert_eq!(ask(metrics, "GET /healthz", "").0, 200);
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(shop).is_ok() {
        assert!(Instant::now() < deadline, "the listener still accepts");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_scrape_shows_what_clients_did() {
    let proxy = Proxy::start(options()).unwrap();
    proxy.apply(table().0).await;
    let (metrics, shop) = (proxy.bound().metrics.unwrap(), proxy.bound().listeners[0].address);
    for (host, status) in [("shop.example", 418), ("shop.example", 418), ("nobody.example", 404)] {
        assert_eq!(ask(shop, "GET /", &format!("Host: {host}\r\n")).0, status);
    }
    let wanted = [
        ("istio_requests_total", "response_code=\"418\"", " 2"),
        ("istio_requests_total", "response_flags=\"NR\"", " 1"),
        ("istio_response_bytes_sum", "response_code=\"418\"", " 30"),
        ("istio_request_duration_milliseconds_count", "response_code=\"404\"", " 1"),
        ("fairway_downstream_connections_total", "", " 3"),
        ("fairway_downstream_connections_active", "", " 0"),
        ("fairway_listener_connections_total", "port=\"80\"", " 3"),
        ("fairway_listeners", "state=\"active\"", " 2"),
        ("fairway_config_revision", "", " 42"),
        ("fairway_requests_active", "", " 0"),
        ("fairway_build_info", "version=", " 1"),
    ];
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (status, text) = ask(metrics, "GET /metrics", "");
        assert_eq!(status, 200);
        let shown = |(name, labels, value): &(&str, &str, &str)| {
            text.lines().any(|line| {
                let named = line.split(['{', ' ']).next() == Some(name);
                named && line.contains(labels) && line.ends_with(value)
            })
        };
        // Connections are counted closed a moment after the client saw the end.
        match wanted.iter().find(|sample| !shown(sample)) {
            None => break,
            Some(missing) => assert!(Instant::now() < deadline, "{missing:?} is not in\n{text}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn dumps_show_everything_but_keys() {
    let proxy = Proxy::start(options()).unwrap();
    let (table, key) = table();
    proxy.apply(table).await;
    let admin = proxy.bound().admin.unwrap();
    let dump = ask(admin, "GET /config_dump", "").1;
    let secret_line = key.lines().nth(1).unwrap();
    assert!(!dump.contains(secret_line) && !dump.contains("PRIVATE KEY"));
    let dump: Value = serde_json::from_str(&dump).unwrap();
    assert_eq!(dump["revision"], 42);
    let route = &dump["listeners"][0]["http"]["virtual_hosts"][0]["routes"][0];
    assert_eq!((&route["virtual_service"], &route["rule"]), (&json!("VirtualService default/shop"), &json!(3)));
    assert_eq!(route["action"]["respond"], 418);
    let tls = &dump["listeners"][1]["tls"][0];
    assert_eq!(tls["server_names"], json!(["shop.example"]));
    assert_eq!(tls["terms"]["certificates"][0]["secret"], "Secret istio-system/shop-cert");

    let clusters: Value = serde_json::from_str(&ask(admin, "GET /clusters", "").1).unwrap();
    assert_eq!(clusters[0]["name"], "outbound|80||tea.example");
    assert_eq!(
        clusters[0]["endpoints"],
        json!([{"address": "127.0.0.1:9", "weight": 5, "priority": 0, "active_requests": 0}])
    );
    let listeners: Value = serde_json::from_str(&ask(admin, "GET /listeners", "").1).unwrap();
    assert_eq!(listeners[1]["address"], proxy.bound().listeners[1].address.to_string());
}

#[tokio::test]
async fn web_pages_and_wrong_requests_are_turned_away() {
    let proxy = Proxy::start(options()).unwrap();
    let (metrics, admin) = (proxy.bound().metrics.unwrap(), proxy.bound().admin.unwrap());
    for (address, request, headers, status) in [
        (admin, "POST /drain", "Origin: https://evil.example\r\n", 403),
        (admin, "GET /config_dump", "Host: evil.example:15000\r\n", 403),
        (admin, "GET /server_info", "Host: localhost:15000\r\n", 200),
        (admin, "GET /server_info", "Host: [::1]:15000\r\n", 200),
        (admin, "POST /config_dump", "", 405),
        (admin, "GET /nothing", "", 404),
        (admin, "GET /metrics", "", 404),
        (metrics, "GET /config_dump", "", 404),
        (metrics, "DELETE /metrics", "", 405),
        (metrics, "GET /", "", 200),
        (metrics, "GET /healthz", "Host: gateway.internal:15020\r\n", 200),
    ] {
        assert_eq!(ask(address, request, headers).0, status, "{request} {headers}");
    }
    assert_eq!(ask(metrics, "GET /readyz", "").1, "no configuration yet\n", "nobody has drained it");
}
