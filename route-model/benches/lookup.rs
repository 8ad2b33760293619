//! Finding the route of a request with random keys: at most 250 ns and no allocation, among 10,000 routes of one host
//! and among 10,000 hosts.

mod support;

use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use route_model::compile::compile;
use route_model::request::headers::Headers;
use route_model::resource::ResourceSet;
use route_model::table::{ListenerProtocol, Lookup, RequestHead, RouteTable};
use serde_json::{Value, json};
use support::{ALLOCATIONS, Counting, best_of, finish, gateway, host, path, path_rules, report, rule, scope, timed};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const COUNT: usize = 10_000;
const LOOKUPS: usize = 100_000;
const BUDGET: Duration = Duration::from_nanos(250);

struct Request {
    authority: String,
    path: String,
}

fn main() {
    let one_host = |rules: &[Value]| table(&[gateway(), support::virtual_service("v", "shop.example.com", rules)]);
    let at_shop = |paths: Vec<String>| -> Vec<Request> {
        paths.into_iter().map(|path| Request { authority: "shop.example.com".to_owned(), path }).collect()
    };
    let mut random = fastrand::Rng::with_seed(7);
    let mut ok = true;

    let routes = one_host(&path_rules(COUNT));
    let hits = (0..LOOKUPS).map(|_| path(random.usize(..COUNT))).collect();
    ok &= measure("10,000 routes of one host, random hits", &routes, &at_shop(hits), true);
    let misses = (0..LOOKUPS).map(|_| format!("/api/{:04x}/none", random.u16(..))).collect();
    ok &= measure("10,000 routes of one host, random misses", &routes, &at_shop(misses), false);

    let one = one_host(&path_rules(1));
    ok &= measure("1 route of one host", &one, &at_shop(vec![path(0); LOOKUPS]), true);

    let with_headers: Vec<_> = (0..COUNT)
        .map(|n| {
            let mut rule = rule(&json!({"prefix": path(n)}), 0);
            rule["match"][0]["headers"] = json!({"x-tenant": {"exact": "blue"}});
            rule["match"][0]["method"] = json!({"exact": "GET"});
            rule
        })
        .collect();
    let hits = (0..LOOKUPS).map(|_| path(random.usize(..COUNT))).collect();
    ok &= measure("10,000 routes with a header and a method", &one_host(&with_headers), &at_shop(hits), true);

    let regexes: Vec<_> = (0..COUNT).map(|n| rule(&json!({"regex": format!("/api/r{n}/[0-9]+(/.*)?")}), 0)).collect();
    let hits = (0..LOOKUPS).map(|_| format!("/api/r{}/42/x", random.usize(..COUNT))).collect();
    // Automata have their price; the index keeps their number down to the one that fits.
    ok &= measure_within(
        "10,000 regexes with distinct beginnings",
        BUDGET * 40,
        &one_host(&regexes),
        &at_shop(hits),
        true,
    );

    let hosts = table(&support::many_hosts(COUNT).iter().cloned().collect::<Vec<_>>());
    let requests = |authority: fn(usize) -> String, random: &mut fastrand::Rng| -> Vec<Request> {
        (0..LOOKUPS)
            .map(|_| Request { authority: authority(random.usize(..COUNT)), path: "/api/x".to_owned() })
            .collect()
    };
    ok &= measure("10,000 hosts", &hosts, &requests(host, &mut random), true);
    ok &= measure(
        "10,000 hosts, with port and upper case",
        &hosts,
        &requests(|n| host(n).to_uppercase() + ":8443", &mut random),
        true,
    );
    let wildcards: Vec<_> = std::iter::once(gateway())
        .chain((0..COUNT).map(|n| {
            support::virtual_service(&format!("v{n}"), &format!("*.{}", host(n)), &[rule(&json!({"prefix": "/"}), 0)])
        }))
        .collect();
    ok &= measure(
        "10,000 wildcard hosts",
        &table(&wildcards),
        &requests(|n| format!("a.b.{}", host(n)), &mut random),
        true,
    );
    finish(ok);
}

fn table(resources: &[std::sync::Arc<route_model::resource::Resource>]) -> RouteTable {
    let set: ResourceSet = resources.iter().cloned().collect();
    compile(&set, &scope()).0
}

fn measure(what: &str, table: &RouteTable, requests: &[Request], hits: bool) -> bool {
    measure_within(what, BUDGET, table, requests, hits)
}

fn measure_within(what: &str, budget: Duration, table: &RouteTable, requests: &[Request], hits: bool) -> bool {
    let ListenerProtocol::Http(routes) = &table.listeners[0].protocol else { panic!("a plain listener") };
    let mut headers = Headers::new();
    for (name, value) in [("accept", "*/*"), ("user-agent", "bench"), ("x-tenant", "blue"), ("x-other", "1")] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let run = || {
        for Request { authority, path } in requests {
            let head = RequestHead {
                method: "GET",
                scheme: "http",
                authority,
                path,
                query: None,
                headers: &headers,
                claims: None,
            };
            let found = matches!(black_box(routes.lookup(black_box(&head))), Lookup::Route(..));
            assert_eq!(found, hits, "{authority} {path}");
        }
    };
    // The automata of regexes fill their caches.
    run();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let best = best_of(15, || timed(run).0);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(allocations, 0, "{what}: a look-up allocated");
    report(what, best / requests.len() as u32, budget)
}
