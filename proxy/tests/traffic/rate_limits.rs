//! Rate limits: who is let through, who is refused and what both are told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use proxy::{ListenAddr, Options, Proxy};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use route_model::request::headers::Headers;
use route_model::table::{Cluster, RouteTable};
use route_model::verdict::limits::{KeyPart, LimitId, LimitPolicy, LimitRule, Rate, Refusal, RouteLimits};

use crate::client::{Http1, Reply};
use crate::origin::Origin;
use crate::table::{cluster, direct, forward, listener, route, table, to};
use crate::{addr, apply, metrics, start_with};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// So much in a day that no test sees a bucket fill.
fn rule(name: &str, key: Vec<KeyPart>, burst: u32) -> LimitRule {
    LimitRule {
        name: name.into(),
        matches: Box::default(),
        key: key.into(),
        rate: Rate { requests: 24, per: Duration::from_hours(24), burst },
        cost: 1,
        cost_header: None,
        advertised: HeaderValue::from_str(&format!("\"{name}\";q=24;w=86400")).expect("a value"),
    }
}

fn policy(id: u32, name: &str, rules: Vec<LimitRule>) -> LimitPolicy {
    LimitPolicy {
        id: LimitId(id),
        resource: ResourceKey::new(Kind::RateLimitPolicy, "default", name),
        enforced: true,
        per_route: false,
        rules: rules.into(),
        refusal: Refusal {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers: Headers::new(),
            body: Bytes::from_static(b"local_rate_limited"),
        },
    }
}

/// Two routes, `/a` and the rest, both under these policies.
fn limited(policies: Vec<LimitPolicy>, answer: &str) -> RouteTable {
    let policies: Vec<_> = policies.into_iter().map(Arc::new).collect();
    let under = |name: &str, path: &str| {
        let limits = RouteLimits { route: name.into(), policies: policies.clone().into() };
        let limits = Some(Arc::new(limits));
        let mut route = Arc::unwrap_or_clone(route(path, direct(200, answer)));
        route.limits = limits;
        Arc::new(route)
    };
    let listener = listener(80, vec![("*", vec![under("a", "/a"), under("rest", "/")])]);
    RouteTable { limits: policies.into_iter().map(Some).collect(), ..table(vec![listener], Vec::new()) }
}

async fn serving(table: RouteTable) -> (Proxy, Http1) {
    let any = Some(ListenAddr { addr: ([127, 0, 0, 1], 0).into(), explicit: true });
    let proxy = start_with(Options { workers: 2, metrics_addr: any, admin_addr: any, ..Options::default() });
    apply(&proxy, table).await;
    let client = Http1::connect(addr(&proxy, 80)).await;
    (proxy, client)
}

async fn get(client: &mut Http1, path: &str, fields: &str) -> Reply {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")).await;
    client.reply().await
}

async fn counted(proxy: &Proxy, policy: &str, rule: &str, result: &str) -> u64 {
    let metrics = metrics(proxy).await;
    let start = format!(
        "fairway_rate_limit_requests_total{{policy=\"default/{policy}\",rule=\"{rule}\",result=\"{result}\"}} "
    );
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {start} in {metrics}")).parse().expect("a number")
}

#[tokio::test]
async fn a_client_gets_its_burst_and_is_told_how_it_stands() {
    let (proxy, mut client) = serving(limited(vec![policy(0, "p", vec![rule("r", Vec::new(), 2)])], "ok")).await;
    for (left, reset) in [("1", "3600"), ("0", "7200")] {
        let reply = get(&mut client, "/", "").await;
        assert_eq!((reply.status, reply.text()), (200, "ok"));
        assert_eq!(reply.header("ratelimit-policy"), Some("\"r\";q=24;w=86400"));
        assert_eq!(reply.header("ratelimit"), Some(format!("\"r\";r={left};t={reset}").as_str()));
    }
    let reply = get(&mut client, "/", "").await;
    assert_eq!((reply.status, reply.text()), (429, "local_rate_limited"));
    assert_eq!(reply.header("retry-after"), Some("3600"));
    assert_eq!(reply.header("ratelimit-policy"), Some("\"r\";q=24;w=86400"));
    assert_eq!(reply.header("ratelimit"), Some("\"r\";r=0;t=7200"));
    assert_eq!((counted(&proxy, "p", "r", "admitted").await, counted(&proxy, "p", "r", "limited").await), (2, 1));
    let flagged = metrics(&proxy).await;
    assert!(flagged.contains("response_code=\"429\",grpc_response_status=\"\",response_flags=\"RL\""), "{flagged}");
}

#[tokio::test]
async fn keys_have_a_bucket_each_and_requests_without_a_key_are_not_counted() {
    let key = vec![KeyPart::Header(API_KEY), KeyPart::Path];
    let (_proxy, mut client) = serving(limited(vec![policy(0, "p", vec![rule("r", key, 1)])], "ok")).await;
    for (path, fields, status) in [
        ("/", "x-api-key: one\r\n", 200),
        ("/", "x-api-key: one\r\n", 429),
        ("/", "x-api-key: two\r\n", 200),
        ("/other", "x-api-key: one\r\n", 200),
        ("/other", "x-api-key: one\r\n", 429),
        ("/", "", 200),
        ("/", "", 200),
    ] {
        assert_eq!(get(&mut client, path, fields).await.status, status, "{path} {fields}");
    }
}

#[tokio::test]
async fn routes_have_buckets_apart_where_the_policy_says_so() {
    let apart = LimitPolicy { per_route: true, ..policy(0, "p", vec![rule("r", Vec::new(), 1)]) };
    let (_proxy, mut client) = serving(limited(vec![apart], "ok")).await;
    for (path, status) in [("/a", 200), ("/a", 429), ("/b", 200), ("/c", 429)] {
        assert_eq!(get(&mut client, path, "").await.status, status, "{path}");
    }
}

#[tokio::test]
async fn what_a_later_rule_refuses_an_earlier_one_gets_back() {
    let by_key = rule("key", vec![KeyPart::Header(API_KEY)], 1);
    let policies = vec![policy(0, "all", vec![rule("all", Vec::new(), 3)]), policy(1, "each", vec![by_key])];
    let (proxy, mut client) = serving(limited(policies, "ok")).await;
    assert_eq!(get(&mut client, "/", "x-api-key: one\r\n").await.status, 200);
    for _ in 0..5 {
        let reply = get(&mut client, "/", "x-api-key: one\r\n").await;
        assert_eq!((reply.status, reply.header("ratelimit")), (429, Some("\"key\";r=0;t=3600")));
    }
    // Two are left of the three of all.
    for (name, status) in [("two", 200), ("three", 200), ("four", 429)] {
        assert_eq!(get(&mut client, "/", &format!("x-api-key: {name}\r\n")).await.status, status, "{name}");
    }
    assert_eq!(
        (counted(&proxy, "all", "all", "admitted").await, counted(&proxy, "each", "key", "limited").await),
        (3, 5)
    );
}

#[tokio::test]
async fn a_shadow_counts_and_refuses_nobody() {
    let shadow = LimitPolicy { enforced: false, ..policy(0, "p", vec![rule("r", Vec::new(), 1)]) };
    let (proxy, mut client) = serving(limited(vec![shadow], "ok")).await;
    for _ in 0..3 {
        let reply = get(&mut client, "/", "").await;
        assert_eq!((reply.status, reply.header("ratelimit")), (200, None));
    }
    assert_eq!((counted(&proxy, "p", "r", "admitted").await, counted(&proxy, "p", "r", "would_limit").await), (1, 2));
}

#[tokio::test]
async fn requests_cost_what_a_header_says_and_the_answer_is_the_policys() {
    let cost_header = Some(HeaderName::from_static("x-cost"));
    let mut costly = policy(0, "p", vec![LimitRule { cost_header, ..rule("r", Vec::new(), 10) }]);
    costly.refusal.status = StatusCode::SERVICE_UNAVAILABLE;
    costly.refusal.headers.insert(HeaderName::from_static("x-why"), HeaderValue::from_static("limited"));
    costly.refusal.body = Bytes::from_static(b"slow down");
    let (_proxy, mut client) = serving(limited(vec![costly], "ok")).await;
    assert_eq!(get(&mut client, "/", "x-cost: 9\r\n").await.status, 200);
    let reply = get(&mut client, "/", "x-cost: 2\r\n").await;
    assert_eq!((reply.status, reply.text(), reply.header("x-why")), (503, "slow down", Some("limited")));
    // More than the bucket ever holds: there is no time to come back at.
    assert_eq!(get(&mut client, "/", "x-cost: 11\r\n").await.header("retry-after"), None);
    assert_eq!(get(&mut client, "/", "").await.status, 200);
}

#[tokio::test]
async fn all_workers_together_admit_exactly_the_burst() {
    let policies = vec![policy(0, "p", vec![rule("r", vec![KeyPart::ClientIp { v4: 32, v6: 64 }], 50)])];
    let (proxy, _client) = serving(limited(policies, "ok")).await;
    let address = addr(&proxy, 80);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Http1::connect(address).await;
                let mut passed = 0;
                for _ in 0..20 {
                    passed += usize::from(client.get("h", "/").await.status == 200);
                }
                passed
            })
        })
        .collect();
    let mut passed = 0;
    for client in clients {
        passed += client.await.unwrap();
    }
    assert_eq!(passed, 50);
}

#[tokio::test]
async fn a_new_table_resets_nobody_and_a_new_limit_keeps_what_was_used() {
    let of = |requests: u32, burst| {
        let rate = Rate { requests, per: Duration::from_hours(24), burst };
        let key = vec![KeyPart::ClientIp { v4: 32, v6: 64 }];
        policy(0, "p", vec![LimitRule { rate, ..rule("r", key, burst) }])
    };
    let (proxy, mut client) = serving(limited(vec![of(24, 2)], "first")).await;
    for status in [200, 200, 429] {
        assert_eq!(get(&mut client, "/", "").await.status, status);
    }
    apply(&proxy, limited(vec![of(24, 2)], "second")).await;
    assert_eq!(get(&mut client, "/", "").await.status, 429);
    // A bigger bucket has room beyond what was used.
    apply(&proxy, limited(vec![of(24, 3)], "third")).await;
    let reply = get(&mut client, "/", "").await;
    assert_eq!((reply.status, reply.text()), (200, "third"));
    assert_eq!(get(&mut client, "/", "").await.status, 429);
    assert_eq!(counted(&proxy, "p", "r", "limited").await, 3);
    // A policy that was away begins anew.
    apply(&proxy, limited(Vec::new(), "free")).await;
    assert_eq!(get(&mut client, "/", "").await.header("ratelimit"), None);
    assert!(!metrics(&proxy).await.contains("policy=\"default/p\""));
    apply(&proxy, limited(vec![of(24, 3)], "fourth")).await;
    assert_eq!(get(&mut client, "/", "").await.status, 200);
}

#[tokio::test]
async fn a_service_has_limits_of_its_own_whatever_route_leads_there() {
    let origin = Origin::http1("o").await;
    let of_route = Arc::new(policy(0, "route", vec![rule("route", Vec::new(), 4)]));
    let of_service = Arc::new(policy(1, "service", vec![rule("service", Vec::new(), 3)]));
    let limits = |name: &str, policies: Vec<&Arc<LimitPolicy>>| {
        let policies = policies.into_iter().map(Arc::clone).collect();
        Some(Arc::new(RouteLimits { route: name.into(), policies }))
    };
    let mut limited = Arc::unwrap_or_clone(route("/limited", forward(to(&[(0, 1)]))));
    // Named for both, the service's policy counts a request once.
    limited.limits = limits("limited", vec![&of_route, &of_service]);
    let routes = vec![Arc::new(limited), route("/", forward(to(&[(0, 1)])))];
    let service = Cluster { limits: limits("o:80", vec![&of_service]), ..cluster("o", &[origin.addr]) };
    let table = table(vec![listener(80, vec![("*", routes)])], vec![service]);
    let (proxy, mut client) = serving(RouteTable { limits: vec![Some(of_route), Some(of_service)], ..table }).await;
    for (path, status) in [("/limited", 200), ("/", 200), ("/", 200), ("/", 429), ("/limited", 429)] {
        assert_eq!(get(&mut client, path, "").await.status, status, "{path}");
    }
    assert_eq!(counted(&proxy, "service", "service", "admitted").await, 3);
    assert_eq!(counted(&proxy, "route", "route", "admitted").await, 1, "given back where the service refused");
}

#[tokio::test]
async fn the_keys_that_a_limit_hits_most_are_shown_to_operators() {
    let key = vec![KeyPart::Header(API_KEY)];
    let (proxy, mut client) = serving(limited(vec![policy(0, "p", vec![rule("r", key, 1)])], "ok")).await;
    for (name, requests) in [("greedy", 5), ("modest", 2), ("good", 1)] {
        for _ in 0..requests {
            get(&mut client, "/", &format!("x-api-key: {name}\r\n")).await;
        }
    }
    let mut admin = Http1::connect(proxy.bound().admin.expect("an admin port")).await;
    let shown = admin.get("localhost", "/rate_limits").await;
    let shown: serde_json::Value = serde_json::from_str(shown.text()).expect("JSON");
    assert_eq!((&shown[0]["policy"], &shown[0]["limited"]), (&"default/p".into(), &5.into()));
    let top: Vec<_> =
        shown[0]["top"].as_array().expect("a list").iter().map(|key| (&key["key"], &key["limited"])).collect();
    let (greedy, modest) = ("header x-api-key \"greedy\"".into(), "header x-api-key \"modest\"".into());
    assert_eq!(top, [(&greedy, &4.into()), (&modest, &1.into())]);
    assert!(!metrics(&proxy).await.contains("greedy"));
}
