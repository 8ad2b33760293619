//! Which origin gets a request, and what the proxy answers itself.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use proxy::{ListenAddr, Options};
use route_model::table::headers::HeaderOps;
use route_model::table::redirect::{Redirect, RedirectPath};
use route_model::table::route::PathRewrite;
use route_model::table::{Action, ClusterId, Forward};

use crate::client::{Http1, connect_http2};
use crate::origin::Origin;
use crate::table::{self, cluster, direct, forward, http2, listener, route, to};
use crate::{addr, apply, metrics, start, start_with};

#[tokio::test]
async fn requests_follow_host_and_path_on_one_connection() {
    let (a, b) = (Origin::http1("a").await, Origin::http1("b").await);
    let proxy = start(1);
    let hosts = vec![
        ("a.test", vec![route("/teapot", direct(418, "short")), route("/", forward(to(&[(0, 1)])))]),
        ("*.b.test", vec![route("/only", forward(to(&[(1, 1)])))]),
    ];
    apply(&proxy, table::table(vec![listener(80, hosts)], vec![cluster("a", &[a.addr]), cluster("b", &[b.addr])]))
        .await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for (host, path, status, starts) in [
        ("a.test", "/x?q=1", 200, "a GET /x?q=1"),
        ("A.test:80", "/%7euser/../y", 200, "a GET /y"),
        ("www.b.test", "/only", 200, "b GET /only"),
        ("a.test", "/teapot", 418, "short"),
        ("www.b.test", "/other", 404, ""),
        ("c.test", "/", 404, ""),
    ] {
        let reply = client.get(host, path).await;
        assert_eq!(reply.status, status, "{host}{path}");
        assert!(reply.text().starts_with(starts), "{host}{path}: {}", reply.text());
        assert_eq!(reply.header("server"), Some("fairway"));
    }
    assert_eq!((a.connections(), b.connections()), (1, 1), "upstream connections are reused");
}

#[tokio::test]
async fn what_goes_upstream_is_clean() {
    let origin = Origin::http1("o").await;
    let proxy = start(1);
    apply(&proxy, table::everything_to(cluster("o", &[origin.addr]))).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client
        .send("GET /p HTTP/1.1\r\nHost: h.test:81\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-Envoy-Internal: 1\r\nX-Kept: 2\r\n\r\n")
        .await;
    let reply = client.reply().await;
    let seen = reply.text();
    assert!(seen.contains("host: h.test:81\n") && seen.contains("x-kept: 2\n"), "{seen}");
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\n") && seen.contains("x-forwarded-proto: http\n"), "{seen}");
    assert!(seen.contains("x-request-id: "), "{seen}");
    assert!(!seen.contains("x-hop") && !seen.contains("x-envoy-internal") && !seen.contains("connection"), "{seen}");
    assert!(reply.header("x-envoy-upstream-service-time").is_some());
}

#[tokio::test]
async fn a_rewritten_path_names_the_original() {
    let origin = Origin::http1("o").await;
    let proxy = start(1);
    let rewrite = Forward { path_rewrite: Some(PathRewrite::Uri("/new".into())), ..to(&[(0, 1)]) };
    let hosts = vec![("*", vec![route("/old", forward(rewrite))])];
    apply(&proxy, table::table(vec![listener(80, hosts)], vec![cluster("o", &[origin.addr])])).await;
    let reply = Http1::connect(addr(&proxy, 80)).await.get("h", "/old/x?y").await;
    assert!(reply.text().starts_with("o GET /new/x?y\n"), "{}", reply.text());
    assert!(reply.text().contains("x-envoy-original-path: /old/x?y\n"));
}

#[tokio::test]
async fn a_redirect_names_the_canonical_path_and_the_query() {
    let proxy = start(1);
    let redirect = Action::Redirect(Arc::new(Redirect {
        status: http::StatusCode::PERMANENT_REDIRECT,
        scheme: Some("https".into()),
        authority: None,
        port: Some(8443),
        path: RedirectPath::Prefix("/new".into()),
        response_headers: HeaderOps::default(),
    }));
    let hosts = vec![("*", vec![route("/old", redirect)])];
    apply(&proxy, table::table(vec![listener(80, hosts)], vec![])).await;
    let reply = Http1::connect(addr(&proxy, 80)).await.get("H.test:80", "/a/../old/%78?y=/..").await;
    assert_eq!((reply.status, reply.header("location")), (308, Some("https://H.test:8443/new/x?y=/..")));
}

#[tokio::test]
async fn weights_split_requests() {
    let (a, b) = (Origin::http1("a").await, Origin::http1("b").await);
    let proxy = start(1);
    let hosts = vec![("*", vec![route("/", forward(to(&[(0, 80), (1, 20)])))])];
    apply(&proxy, table::table(vec![listener(80, hosts)], vec![cluster("a", &[a.addr]), cluster("b", &[b.addr])]))
        .await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    let mut to_a = 0;
    for _ in 0..1000 {
        to_a += usize::from(client.get("h", "/").await.header("x-origin") == Some("a"));
    }
    // 800 with a standard deviation of 12.6.
    assert!((740..=860).contains(&to_a), "{to_a} of 1000");
}

#[tokio::test]
async fn what_leads_nowhere_says_why() {
    let proxy = start(1);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut missing = to(&[(0, 1)]);
    missing.destinations[0].cluster = ClusterId(9);
    let hosts = vec![(
        "*",
        vec![
            route("/missing", forward(missing)),
            route("/empty", forward(to(&[(0, 1)]))),
            route("/closed", forward(to(&[(1, 1)]))),
        ],
    )];
    let clusters = vec![cluster("empty", &[]), cluster("closed", &[closed])];
    apply(&proxy, table::table(vec![listener(80, hosts)], clusters)).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for (path, body) in [
        ("/missing", ""),
        ("/empty", "no healthy upstream"),
        (
            "/closed",
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
        ),
    ] {
        let reply = client.get("h", path).await;
        assert_eq!((reply.status, reply.text()), (503, body), "{path}");
    }
}

#[tokio::test]
async fn grpc_clients_are_told_in_their_own_way() {
    let proxy = start(1);
    apply(&proxy, table::everything_to(cluster("empty", &[]))).await;
    let mut client = connect_http2(addr(&proxy, 80)).await;
    let request = Request::post("http://h/svc/Method").header("content-type", "application/grpc");
    let response = client.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["grpc-message"], "no healthy upstream");
}

#[tokio::test]
async fn both_versions_lead_to_both_kinds_of_origin() {
    let (one, two) = (Origin::http1("one").await, Origin::http2("two").await);
    let proxy = start(1);
    let hosts = vec![("*", vec![route("/1", forward(to(&[(0, 1)]))), route("/2", forward(to(&[(1, 1)])))])];
    let clusters = vec![cluster("one", &[one.addr]), http2(cluster("two", &[two.addr]))];
    apply(&proxy, table::table(vec![listener(80, hosts)], clusters)).await;
    let mut http1 = Http1::connect(addr(&proxy, 80)).await;
    let mut http2 = connect_http2(addr(&proxy, 80)).await;
    for (path, starts, host_line) in
        [("/1", "one POST /1\n", "host: h.test\n"), ("/2", "two POST /2\n", ":authority: h.test\n")]
    {
        http1.send(format!("POST {path} HTTP/1.1\r\nHost: h.test\r\nContent-Length: 4\r\n\r\nbody")).await;
        let reply = http1.reply().await;
        let request = Request::post(format!("http://h.test{path}")).header("cookie", "a=1").header("cookie", "b=2");
        let response = http2.send_request(request.body(Full::from("body")).unwrap()).await.unwrap();
        let over_http2 = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        for seen in [reply.text(), &over_http2] {
            assert!(seen.starts_with(starts) && seen.contains(host_line) && seen.ends_with("\nbody"), "{seen}");
        }
        assert!(over_http2.contains("cookie: a=1; b=2\n"), "{over_http2}");
    }
}

#[tokio::test]
async fn requests_of_a_stat_prefix_are_counted_apart() {
    let any = Some(ListenAddr { addr: ([127, 0, 0, 1], 0).into(), explicit: true });
    let proxy = start_with(Options { workers: 1, metrics_addr: any, ..Options::default() });
    let counted = |path: &str, status| {
        let mut route = Arc::unwrap_or_clone(route(path, direct(status, "x")));
        route.stat_prefix = Some("checkout".into());
        Arc::new(route)
    };
    let routes = vec![counted("/ok", 200), counted("/bad", 503), route("/", direct(200, "x"))];
    apply(&proxy, table::table(vec![listener(80, vec![("*", routes)])], Vec::new())).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for path in ["/ok", "/ok", "/bad", "/other"] {
        client.get("h", path).await;
    }
    let text = metrics(&proxy).await;
    for line in [
        "fairway_route_requests_total{stat_prefix=\"checkout\",response_code_class=\"2xx\"} 2",
        "fairway_route_requests_total{stat_prefix=\"checkout\",response_code_class=\"5xx\"} 1",
        "fairway_route_request_duration_milliseconds_count{stat_prefix=\"checkout\"} 3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}
