use http::HeaderMap;

use super::*;
use crate::compile::tests::{EDGE, bare, head, to, virtual_service};

const DESTINATIONS: &str = "[{destination: {host: reviews, subset: v1, port: {number: 9080}}, weight: 3, headers: {request: {add: {x: '%PROTOCOL%'}}}},
    {destination: {host: other.test, port: {number: 80}}, weight: 1}]";

fn table(http: &str) -> RouteTable {
    bare(&(EDGE.to_owned() + &virtual_service("reviews", 0, "[shop.test]", http))).table
}

fn at(port: u16) -> Entrance<'static> {
    Entrance { port, bind: None, sni: None }
}

fn text(table: &RouteTable, port: u16, request: &str, headers: &[(&str, &str)]) -> String {
    head("http", request, headers, |head| explain(table, at(port), head)).to_string()
}

#[test]
fn each_rule_says_why_it_did_not_take_the_request() {
    let rules = format!(
        "[{}, {{name: split, match: [{{name: all, uri: {{prefix: /reviews}}}}], rewrite: {{uri: /r, authority: r.test}}, timeout: 2s,
           headers: {{response: {{remove: [server]}}}}, route: {DESTINATIONS}}}, {}]",
        to("[{uri: {exact: /x}}, {uri: {prefix: /reviews}, headers: {end-user: {exact: jason}}}]", "jason"),
        to("[]", "rest")
    );
    assert_eq!(
        text(&table(&rules), 80, "GET shop.test /reviews/1", &[("end-user", "bob")]),
        "revision 0
routes   http.80 (Gateway default/edge servers[0])
host     shop.test
rule no  spec.http[0].match[0] of VirtualService default/reviews: the path is `/reviews/1`, the rule wants exactly `/x`
rule no  spec.http[0].match[1] of VirtualService default/reviews: header `end-user` is `bob`, the rule wants exactly `jason`
rule yes spec.http[1].match[0] `split.all` of VirtualService default/reviews: takes the request
=> 75.0% to nowhere: the service, port or subset does not exist (503 NC)
  host becomes r.test
  request header add x: %PROTOCOL%
  response header remove server
=> 25.0% to outbound|80||other.test
  host becomes r.test
  response header remove server
  path becomes /r/1
  timeout 2s"
    );
}

#[test]
fn requests_that_end_before_any_rule_are_explained_too() {
    let table = table(&format!("[{}]", to("[{uri: {prefix: /a}}]", "a")));
    for (port, request, want) in [
        (81, "GET shop.test /", "revision 0\n=> nothing listens on port 81; ports with a Gateway server: 80"),
        (
            80,
            "GET other.test /",
            "revision 0\nroutes   http.80 (Gateway default/edge servers[0])\n=> 404 no VirtualService or redirect of http.80 has the request's host",
        ),
        (
            80,
            "GET shop.test /b",
            "revision 0
routes   http.80 (Gateway default/edge servers[0])
host     shop.test
rule no  spec.http[0].match[0] of VirtualService default/reviews: the path is `/b`, the rule wants the prefix `/a`
=> 404 none of the 1 rules of host `shop.test` takes the request",
        ),
    ] {
        assert_eq!(text(&table, port, request, &[]), want);
    }
}

#[test]
fn of_thousands_of_rules_only_candidates_are_listed() {
    let rules: Vec<_> = (0..2000).map(|i| to(&format!("[{{uri: {{prefix: /r{i}/}}}}]"), "t")).collect();
    let table = table(&format!("[{}]", rules.join(", ")));
    let none = HeaderMap::new();
    let head = RequestHead {
        method: "GET",
        scheme: "http",
        authority: "shop.test",
        path: "/r1500/x",
        query: None,
        headers: &none,
    };
    let explanation = explain(&table, at(80), &head);
    assert_eq!(explanation.rules.iter().map(|rule| rule.position).collect::<Vec<_>>(), [1500]);
    assert_eq!(explanation.skipped, 1500);
}

#[test]
fn it_reads_as_json() {
    let table = table("[{match: [{uri: {prefix: /}}], redirect: {uri: /new, redirectCode: 302}}]");
    let explanation = head("http", "GET shop.test /", &[], |head| explain(&table, at(80), head));
    assert_eq!(
        serde_json::to_value(explanation).expect("JSON"),
        serde_json::json!({
            "revision": 0,
            "routes": "http.80",
            "servers": ["Gateway default/edge servers[0]"],
            "host": "shop.test",
            "rules": [{"position": 0, "resource": {"kind": "VirtualService", "namespace": "default", "name": "reviews"}, "path": "spec.http[0].match[0]"}],
            "skipped": 0,
            "outcome": {"kind": "redirect", "status": 302, "location": "http://shop.test/new", "responseHeaders": []},
        })
    );
}
