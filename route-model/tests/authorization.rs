//! What a verdict costs: nothing of the allocator, however many policies there are.

// A global allocator cannot be written without it; this one only counts and passes on.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use route_model::compile::{ProxyRole, ProxyScope, compile};
use route_model::kind::Kind;
use route_model::request::claims::Claims;
use route_model::request::headers::Headers;
use route_model::resource::Resource;
use route_model::table::RequestHead;
use route_model::verdict::authorization::Facts;
use serde_json::{Value, json};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A policy whose ten rules each ask something else.
fn policy(number: usize) -> Value {
    let rules: Vec<Value> = (0..10)
        .map(|rule| {
            json!({
                "from": [{"source": {"remoteIpBlocks": [format!("10.{}.{rule}.0/24", number % 250)],
                                     "principals": [format!("td/ns/n{number}/sa/*")]}}],
                "to": [{"operation": {"hosts": [format!("*.h{number}.test")], "paths": [format!("/p{number}/{{*}}/x")],
                                      "methods": ["GET"], "notPaths": ["/*/y"]}}],
                "when": [{"key": "request.headers[x-key]", "values": [format!("k{rule}*")]},
                         {"key": "request.auth.claims[groups]", "values": ["dev"]}],
            })
        })
        .collect();
    let action = ["ALLOW", "DENY", "AUDIT"][number % 3];
    json!({
        "metadata": {"name": format!("p{number}"), "namespace": "istio-system"},
        "spec": {"action": action, "rules": rules},
    })
}

#[test]
fn a_verdict_allocates_nothing() {
    let resources = (0..1_000)
        .map(|number| Arc::new(Resource::from_object(Kind::AuthorizationPolicy, &policy(number)).expect("a policy")));
    let scope = ProxyScope { role: ProxyRole::Gateway, namespace: "istio-system".into(), labels: [].into() };
    let (table, _) = compile(&resources.collect(), &scope);
    let mut headers = Headers::new();
    headers.append(HeaderName::from_static("x-key"), HeaderValue::from_static("k7"));
    headers.append(HeaderName::from_static("x-key"), HeaderValue::from_static("more"));
    let payload = json!({"iss": "i", "sub": "s", "groups": ["ops", "dev"]});
    let claims = Claims::new(payload.as_object().expect("an object").clone(), &[]);
    let principals = ["spiffe://td/ns/n99/sa/web".into()];
    let head = RequestHead {
        method: "GET",
        scheme: "https",
        authority: "Shop.H99.test",
        path: "/p99/a/x",
        query: Some("a=b"),
        headers: &headers,
        claims: Some(&claims),
    };
    let facts = Facts {
        head: Some(&head),
        peer: [127, 0, 0, 1].into(),
        client: [10, 99, 7, 1].into(),
        destination: [127, 0, 0, 1].into(),
        port: 443,
        sni: Some("shop.h99.test"),
        principals: &principals,
    };
    let before = ALLOCATIONS.get();
    let verdict = table.authorization.judge(std::iter::empty(), &facts);
    assert_eq!(ALLOCATIONS.get() - before, 0);
    let allowed = verdict.allowed.expect("it is allowed");
    assert_eq!((&*table.authorization.policies()[allowed.policy].resource.name, allowed.rule.number), ("p99", 7));
}
