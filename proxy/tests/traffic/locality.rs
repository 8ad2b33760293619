//! Near endpoints before far ones, and new ones little by little.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use route_model::table::Cluster;
use route_model::table::cluster::{Discovery, Endpoint, EndpointAddress, LoadBalancer};
use route_model::table::locality::Rank;
use route_model::table::retry::RetryPolicy;
use route_model::table::upstream::{OutlierDetection, UpstreamPolicy, Warmup};
use route_model::table::{ClusterId, Forward, RouteTable};
use tokio::net::TcpListener;

use crate::client::Http1;
use crate::origin::{Origin, Scripted};
use crate::table::{self, cluster, everything_to, forward, listener, route, to};
use crate::{addr, apply, start};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// A cluster whose endpoints have these priorities.
fn ranked(endpoints: &[(SocketAddr, u32)], policy: UpstreamPolicy) -> Cluster {
    let endpoint = |&(origin, priority): &(SocketAddr, u32)| Endpoint {
        rank: Rank { priority, ..Rank::default() },
        ..Endpoint::new(EndpointAddress::Ip(origin.ip(), origin.port()), 1)
    };
    let discovery = Discovery::Static(endpoints.iter().map(endpoint).collect());
    Cluster { discovery, policy, ..cluster("ranked", &[]) }
}

fn outlier() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 1,
        consecutive_gateway_errors: 0,
        local_failures: None,
        codes: Box::default(),
        interval: Duration::from_millis(50),
        base_ejection_time: Duration::from_millis(500),
        max_ejection_percent: 100,
        min_health_percent: 0,
    }
}

/// An origin that answers 500 while it is sick.
async fn fickle(name: &'static str, sick: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sick = Arc::clone(&sick);
            let service = service_fn(move |_| {
                let ill = sick.load(Ordering::Relaxed);
                let status = if ill { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
                let response = Response::builder().status(status).header("x-origin", name);
                let response = response.body(Full::<bytes::Bytes>::default()).expect("a response");
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(async move {
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    addr
}

/// Who answers, and how.
async fn ask(client: &mut Http1) -> (String, u16) {
    client.send(GET).await;
    let reply = client.reply().await;
    (reply.header("x-origin").unwrap_or_default().to_owned(), reply.status)
}

/// Asks until the answer is this one, for ten seconds at the most.
async fn until(client: &mut Http1, wanted: (&str, u16)) {
    let asking = async {
        loop {
            let (origin, status) = ask(client).await;
            if (origin.as_str(), status) == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), asking).await.unwrap_or_else(|_| panic!("{wanted:?} never came"));
}

#[tokio::test]
async fn the_far_endpoint_serves_while_the_near_one_is_out() {
    let sick = Arc::<AtomicBool>::default();
    let near = fickle("near", Arc::clone(&sick)).await;
    let far = Origin::http1("far").await;
    let proxy = start(1);
    let policy = UpstreamPolicy { outlier: Some(outlier()), ..UpstreamPolicy::default() };
    apply(&proxy, everything_to(ranked(&[(near, 0), (far.addr, 1)], policy))).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for _ in 0..20 {
        assert_eq!(ask(&mut client).await, ("near".to_owned(), 200));
    }
    assert_eq!(far.connections(), 0);
    sick.store(true, Ordering::Relaxed);
    assert_eq!(ask(&mut client).await, ("near".to_owned(), 500));
    until(&mut client, ("far", 200)).await;
    sick.store(false, Ordering::Relaxed);
    until(&mut client, ("near", 200)).await;
    for _ in 0..20 {
        assert_eq!(ask(&mut client).await, ("near".to_owned(), 200));
    }
}

#[tokio::test]
async fn a_retry_goes_far_at_once_when_all_near_endpoints_were_tried() {
    let nobody = Scripted::new().await.addr;
    let far = Origin::http1("far").await;
    let proxy = start(1);
    let action = Forward { retry: Some(RetryPolicy::mesh_default()), ..to(&[(0, 1)]) };
    let table: RouteTable = table::table(
        vec![listener(80, vec![("*", vec![route("/", forward(action))])])],
        vec![ranked(&[(nobody, 0), (far.addr, 1)], UpstreamPolicy::default())],
    );
    assert!(table.cluster(ClusterId(0)).is_some());
    apply(&proxy, table).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for _ in 0..5 {
        assert_eq!(ask(&mut client).await, ("far".to_owned(), 200));
    }
}

#[tokio::test]
async fn an_endpoint_that_joins_gets_its_share_little_by_little() {
    let (old, new) = (Origin::http1("old").await, Origin::http1("new").await);
    let proxy = start(1);
    for load_balancer in [LoadBalancer::RoundRobin, LoadBalancer::LeastRequest] {
        let warmup = Some(Warmup { window: Duration::from_hours(1), minimum_percent: 10.0, aggression: 1.0 });
        let policy = UpstreamPolicy { warmup, ..UpstreamPolicy::default() };
        let of = |endpoints: &[(SocketAddr, u32)]| Cluster {
            load_balancer: load_balancer.clone(),
            ..ranked(endpoints, policy.clone())
        };
        apply(&proxy, everything_to(of(&[(old.addr, 0)]))).await;
        let mut client = Http1::connect(addr(&proxy, 80)).await;
        assert_eq!(ask(&mut client).await.0, "old");
        apply(&proxy, everything_to(of(&[(old.addr, 0), (new.addr, 0)]))).await;
        let mut fresh = 0;
        for _ in 0..300 {
            fresh += usize::from(ask(&mut client).await.0 == "new");
        }
        // One in eleven.
        assert!((5..75).contains(&fresh), "{load_balancer:?}: {fresh}");
    }
}
