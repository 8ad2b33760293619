//! Requests between services go by VirtualServices and DestinationRules as at the edge.

use std::time::{Duration, Instant};

use e2e::eventually;
use http::Request;

use crate::client::get;
use crate::lab::Lab;

/// The service as it is called from everywhere.
const FULL_NAME: &str = "reviews.shop.svc.cluster.local";

const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

/// Both subsets, and rules for requests.
pub(crate) fn rules(http: &str) -> String {
    format!(
        "{SUBSETS}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: shop}}
spec:
  hosts: [reviews]
  http:
{http}"
    )
}

/// A route to a version.
fn to(version: &str) -> String {
    format!("route: [{{destination: {{host: reviews, subset: {version}, port: {{number: 9080}}}}}}]")
}

pub(crate) async fn headers_choose_versions(lab: &Lab) {
    let rules = rules(&format!(
        "  - {{match: [{{headers: {{tester: {{exact: 'yes'}}}}}}], {}}}
  - {{match: [{{uri: {{prefix: /old}}}}], rewrite: {{uri: /new}}, {}}}
  - {{match: [{{uri: {{exact: /nobody}}}}], {}}}
  - {{{}}}
",
        to("v2"),
        to("v1"),
        to("v3"),
        to("v1")
    ));
    lab.with(&rules, async || {
        for _ in 0..5 {
            assert_eq!(lab.ask(get("/")).await.origin(), "reviews-v1");
            assert_eq!(lab.ask(get("/").header("tester", "yes")).await.origin(), "reviews-v2");
        }
        let rewritten = lab.ask(get("/old/1")).await;
        assert!(rewritten.text.contains("\"target\":\"/new/1\""), "{}", rewritten.text);
        assert_eq!(lab.ask(get("/nobody")).await.status, 503, "nobody is v3");
        // In every form that a service may be called by.
        for host in ["reviews", "reviews.shop", "reviews.shop.svc", "reviews.shop.svc.cluster.local:9080"] {
            let request = Request::get("/").header("host", host).header("tester", "yes");
            assert_eq!(lab.ask(request).await.origin(), "reviews-v2", "{host}");
        }
    })
    .await;
}

pub(crate) async fn weights_share_requests(lab: &Lab) {
    let destination = |version: &str, weight: u8| {
        format!("{{destination: {{host: reviews, subset: {version}, port: {{number: 9080}}}}, weight: {weight}}}")
    };
    let rules = rules(&format!("  - route: [{}, {}]\n", destination("v1", 80), destination("v2", 20)));
    lab.with(&rules, async || {
        let mut connection = lab.connection().await.unwrap();
        let mut second = 0;
        for _ in 0..400 {
            let answer = connection.ask(get("/")).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            second += u32::from(answer.origin() == "reviews-v2");
        }
        // 80 are to be expected, with a standard deviation of 8.
        assert!((32..=128).contains(&second), "{second} of 400");
    })
    .await;
}

pub(crate) async fn faults_are_injected(lab: &Lab) {
    let rules = rules(&format!(
        "  - {{match: [{{uri: {{prefix: /abort}}}}], fault: {{abort: {{percentage: {{value: 100}}, httpStatus: 418}}}}, {}}}
  - {{match: [{{uri: {{prefix: /delay}}}}], fault: {{delay: {{percentage: {{value: 100}}, fixedDelay: 0.4s}}}}, {}}}
  - {{{}}}
",
        to("v1"),
        to("v1"),
        to("v1")
    ));
    lab.with(&rules, async || {
        let before = lab.v1.http.requests();
        assert_eq!(lab.ask(get("/abort")).await.status, 418);
        assert_eq!(lab.v1.http.requests(), before, "it never left the client's host");
        let begun = Instant::now();
        assert_eq!(lab.ask(get("/delay")).await.status, 200);
        assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    })
    .await;
}

pub(crate) async fn failed_requests_are_tried_again(lab: &Lab) {
    let rules = rules(&format!(
        "  - {{match: [{{uri: {{prefix: /once}}}}], retries: {{attempts: 0}}, {}}}
  - {{retries: {{attempts: 2, retryOn: 5xx}}, {}}}
",
        to("v1"),
        to("v1")
    ));
    lab.with(&rules, async || {
        let failing = |path, attempt: u8| get(path).header("x-fail-before", attempt.to_string());
        let answer = lab.ask(failing("/again", 2)).await;
        assert_eq!((answer.status, answer.got("x-envoy-attempt-count").as_deref()), (200, Some("2")), "{answer:?}");
        let answer = lab.ask(failing("/again", 4)).await;
        assert_eq!((answer.status, answer.got("x-envoy-attempt-count").as_deref()), (503, Some("3")), "{answer:?}");
        let answer = lab.ask(failing("/once", 2)).await;
        assert_eq!((answer.status, answer.got("x-envoy-attempt-count").as_deref()), (503, Some("1")), "{answer:?}");
    })
    .await;
}

pub(crate) async fn requests_have_their_time(lab: &Lab) {
    let rules = rules(&format!("  - {{timeout: 0.3s, {}}}\n", to("v1")));
    lab.with(&rules, async || {
        let begun = Instant::now();
        assert_eq!(lab.ask(get("/").header("x-wait", "30000")).await.status, 504);
        assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    })
    .await;
}

pub(crate) async fn requests_are_mirrored(lab: &Lab) {
    let mirror = "mirrors: [{destination: {host: reviews, subset: v2, port: {number: 9080}}}]";
    lab.with(&rules(&format!("  - {{{mirror}, {}}}\n", to("v1"))), async || {
        let before = lab.v2.http.requests();
        for _ in 0..3 {
            assert_eq!(lab.ask(get("/mirrored")).await.origin(), "reviews-v1");
        }
        eventually("the copies arrive", async || {
            let arrived = lab.v2.http.requests() - before;
            if arrived == 3 { Ok(()) } else { Err(arrived) }
        })
        .await;
    })
    .await;
}

pub(crate) async fn one_rule_serves_the_edge_and_the_mesh(lab: &Lab) {
    let mirror = "mirrors: [{destination: {host: reviews, subset: v2, port: {number: 9080}}}]";
    let rules = rules(&format!(
        "  - {{match: [{{uri: {{prefix: /abort}}}}], fault: {{abort: {{percentage: {{value: 100}}, httpStatus: 418}}}}, {v1}}}
  - {{match: [{{uri: {{prefix: /again}}}}], retries: {{attempts: 2, retryOn: 5xx}}, {v1}}}
  - {{match: [{{uri: {{prefix: /late}}}}], timeout: 0.3s, {v1}}}
  - {{match: [{{uri: {{prefix: /mirrored}}}}], {mirror}, {v1}}}
  - {{match: [{{headers: {{tester: {{exact: 'yes'}}}}}}], {v2}}}
  - {{{v1}}}
",
        v1 = to("v1"),
        v2 = to("v2"),
    ));
    let rules = rules.replace("  hosts: [reviews]\n", &format!("  hosts: [{FULL_NAME}]\n  gateways: [edge, mesh]\n"));
    lab.with(&rules, async || {
        for at_edge in [false, true] {
            let ask = async |path: &str, header: (&str, &str)| {
                let request = Request::get(path).header("host", FULL_NAME).header(header.0, header.1);
                if at_edge { lab.ask_edge(request).await } else { lab.ask(request).await }
            };
            let nothing = ("x-nothing", "");
            for (path, header, origin) in [("/", nothing, "reviews-v1"), ("/", ("tester", "yes"), "reviews-v2")] {
                assert_eq!(ask(path, header).await.origin(), origin, "at the edge: {at_edge}");
            }
            let statuses = [
                ask("/abort", nothing).await.status,
                ask("/again", ("x-fail-before", "3")).await.status,
                ask("/again", ("x-fail-before", "4")).await.status,
                ask("/late", ("x-wait", "30000")).await.status,
            ];
            assert_eq!(statuses, [418, 200, 503, 504], "at the edge: {at_edge}");
            let before = lab.v2.http.requests();
            assert_eq!(ask("/mirrored", nothing).await.origin(), "reviews-v1", "at the edge: {at_edge}");
            eventually("the copy arrives", async || lab.v2.http.requests() == before + 1).await;
        }
    })
    .await;
}
