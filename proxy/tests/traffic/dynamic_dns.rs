//! Hosts under a wildcard, each looked up when somebody asks for it.

use proxy::Proxy;
use route_model::table::Cluster;
use route_model::table::cluster::{Discovery, WildcardNames};
use route_model::table::fault::Fraction;
use route_model::table::route::Mirror;
use route_model::table::{ClusterId, Forward, RouteTable};

use crate::client::Http1;
use crate::origin::Origin;
use crate::table::{self, cluster, everything_to, forward, listener, route, to};
use crate::{addr, apply, start};

/// `*.localhost`, which every resolver knows (RFC 6761 section 6.3), on the port of an origin.
fn wildcard(name: &str, origin: &Origin) -> Cluster {
    let names = WildcardNames { suffix: ".localhost".into(), port: origin.addr.port() };
    Cluster { discovery: Discovery::Dynamic(names), ..cluster(name, &[]) }
}

async fn proxying(table: RouteTable) -> (Proxy, Http1) {
    let proxy = start(1);
    apply(&proxy, table).await;
    let client = Http1::connect(addr(&proxy, 80)).await;
    (proxy, client)
}

#[tokio::test]
async fn a_request_goes_to_the_host_that_it_names() {
    let origin = Origin::http1("o").await;
    let (proxy, mut client) = proxying(everything_to(wildcard("w", &origin))).await;
    for (host, status) in [
        ("a.localhost", 200),
        ("a.localhost", 200),
        ("b.LOCALHOST:8080", 200),
        ("a.b.localhost", 200),
        ("localhost", 503),
        ("127.0.0.1", 503),
        ("a.localhost.example", 503),
    ] {
        let reply = client.get(host, "/").await;
        assert_eq!(reply.status, status, "{host}: {}", reply.text());
        if status == 200 {
            assert!(reply.text().contains(&format!("host: {host}\n")), "{}", reply.text());
        } else {
            assert_eq!(reply.text(), "no healthy upstream", "{host}");
        }
    }
    // Names share no connection, and one name shares it with itself, also over a new table.
    assert_eq!(origin.connections(), 3);
    apply(&proxy, everything_to(Cluster { idle_timeout: std::time::Duration::from_mins(5), ..wildcard("w", &origin) }))
        .await;
    assert_eq!(client.get("a.localhost", "/").await.status, 200);
    assert_eq!(origin.connections(), 3);
}

#[tokio::test]
async fn a_mirror_follows_the_name_too() {
    let (origin, shadow) = (Origin::http1("o").await, Origin::http1("shadow").await);
    let mirrors = Box::new([Mirror { cluster: ClusterId(1), fraction: Fraction::ALWAYS }]);
    let action = Forward { mirrors, ..to(&[(0, 1)]) };
    let listeners = vec![listener(80, vec![("*", vec![route("/", forward(action))])])];
    let table = table::table(listeners, vec![wildcard("w", &origin), wildcard("shadow", &shadow)]);
    let (_proxy, mut client) = proxying(table).await;
    assert_eq!(client.get("a.localhost", "/").await.status, 200);
    crate::eventually("the mirror got its copy", || shadow.connections() == 1).await;
}
