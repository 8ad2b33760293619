//! What the benchmarks share: a world of any size, an allocator that counts, and a stopwatch that keeps the best round.
//!
//! Included by each benchmark, of which none uses all of it.
#![allow(dead_code, reason = "each benchmark uses a part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use route_model::compile::{ProxyRole, ProxyScope};
use route_model::kind::Kind;
use route_model::resource::{Resource, ResourceSet};
use serde_json::{Value, json};

/// Counts allocations.
pub(crate) struct Counting;

pub(crate) static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator that counts is the only way to see that nothing is allocated")]
// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The best of several rounds: what the code takes when nothing else is running.
pub(crate) fn best_of(rounds: usize, mut round: impl FnMut() -> Duration) -> Duration {
    (0..rounds).map(|_| round()).min().unwrap_or_default()
}

pub(crate) fn timed<R>(work: impl FnOnce() -> R) -> (Duration, R) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// Prints a measurement beside its budget; whether it is within.
pub(crate) fn report(what: &str, measured: Duration, budget: Duration) -> bool {
    let verdict = if measured <= budget { "ok" } else { "TOO SLOW" };
    println!("{what:<60} {measured:>12.1?}   budget {budget:>8.1?}   {verdict}");
    measured <= budget
}

/// Ends the benchmark with an error if any measurement was beyond its budget.
pub(crate) fn finish(all_within: bool) {
    if !all_within {
        eprintln!("a measurement is beyond its budget");
        std::process::exit(1);
    }
}

pub(crate) fn scope() -> ProxyScope {
    ProxyScope {
        role: ProxyRole::Gateway,
        namespace: "istio-system".into(),
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
    }
}

pub(crate) fn resource(kind: Kind, name: &str, spec: &Value) -> Arc<Resource> {
    let object = json!({
        "kind": kind.name(),
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": spec,
    });
    Arc::new(Resource::from_object(kind, &object).expect("a valid object"))
}

pub(crate) fn gateway() -> Arc<Resource> {
    let server = json!({"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]});
    resource(Kind::Gateway, "edge", &json!({"selector": {"istio": "ingressgateway"}, "servers": [server]}))
}

pub(crate) fn service(n: usize, address: &str) -> Arc<Resource> {
    resource(
        Kind::ServiceEntry,
        &format!("s{n}"),
        &json!({"hosts": [service_host(n)], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "resolution": "STATIC", "endpoints": [{"address": address}]}),
    )
}

fn service_host(n: usize) -> String {
    format!("s{n}.example.com")
}

/// A rule with one match entry.
pub(crate) fn rule(uri: &Value, service: usize) -> Value {
    json!({"match": [{"uri": uri}], "route": [{"destination": {"host": service_host(service), "port": {"number": 80}}}]})
}

pub(crate) fn virtual_service(name: &str, host: &str, rules: &[Value]) -> Arc<Resource> {
    resource(Kind::VirtualService, name, &json!({"hosts": [host], "gateways": ["edge"], "http": rules}))
}

/// A Gateway, 100 services, and `count` VirtualServices of a host each, with two rules.
pub(crate) fn many_hosts(count: usize) -> ResourceSet {
    let services = (0..100).map(|n| service(n, "10.0.0.1"));
    let hosts = (0..count).map(|n| many_hosts_service(n, "/"));
    [gateway()].into_iter().chain(services).chain(hosts).collect()
}

pub(crate) fn many_hosts_service(n: usize, last: &str) -> Arc<Resource> {
    let rules = [rule(&json!({"prefix": "/api/"}), n % 100), rule(&json!({"prefix": last}), (n + 1) % 100)];
    virtual_service(&format!("v{n}"), &host(n), &rules)
}

pub(crate) fn host(n: usize) -> String {
    format!("tenant-{n}.shop.example.com")
}

/// The path that rule `n` of [`path_rules`] takes.
pub(crate) fn path(n: usize) -> String {
    // Spread over the alphabet, as real paths are.
    let word = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("/api/{:04x}/orders-{n}/", word >> 48)
}

/// Rules for distinct paths, exact and prefix in turn.
pub(crate) fn path_rules(count: usize) -> Vec<Value> {
    let uri = |n: usize| if n.is_multiple_of(2) { json!({"prefix": path(n)}) } else { json!({"exact": path(n)}) };
    (0..count).map(|n| rule(&uri(n), n % 100)).collect()
}
