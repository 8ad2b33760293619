use std::sync::Arc;

use http::HeaderName;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::compile::tests::{bare, edge, to, virtual_service};
use crate::request::headers::Headers;
use crate::request::path::{self, normalise};
use crate::table::{ListenerProtocol, Lookup, RequestHead, RouteTable};

const DESTINATIONS: &str = "[{destination: {host: reviews, subset: v1, port: {number: 9080}}, weight: 3, headers: {request: {add: {x: '%PROTOCOL%'}}}},
    {destination: {host: other.test, port: {number: 80}}, weight: 1}]";

fn table(http: &str) -> RouteTable {
    edge(&virtual_service("reviews", 0, "[shop.test]", http)).table
}

fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> ExplainRequest {
    let mut request = ExplainRequest { method: method.to_owned(), url: url.to_owned(), ..ExplainRequest::default() };
    for (name, value) in headers {
        request.headers.entry((*name).to_owned()).or_default().push((*value).to_owned());
    }
    request
}

fn explain(table: &RouteTable, request: &ExplainRequest) -> Explanation {
    request.explain(table).expect("a request")
}

fn get(table: &RouteTable, url: &str, headers: &[(&str, &str)]) -> String {
    explain(table, &request("GET", url, headers)).to_string()
}

/// The last line: what becomes of the request.
fn fate(text: &str) -> &str {
    text.trim_end().rsplit('\n').next().unwrap_or_default()
}

#[test]
fn each_rule_says_why_it_did_not_take_the_request() {
    let rules = format!(
        "[{}, {{name: split, match: [{{name: all, uri: {{prefix: /reviews}}}}], rewrite: {{uri: r, authority: r.test}}, timeout: 2s,
           retries: {{attempts: 3, retryOn: 5xx, perTryTimeout: 500ms}}, mirror: {{host: other.test, port: {{number: 80}}}}, mirrorPercentage: {{value: 10}},
           fault: {{abort: {{httpStatus: 418, percentage: {{value: 0.1}}}}}}, corsPolicy: {{allowOrigins: [{{exact: x}}]}},
           headers: {{response: {{remove: [server]}}}}, route: {DESTINATIONS}}}, {}]",
        to("[{uri: {exact: /x}}, {uri: {prefix: /reviews}, headers: {end-user: {exact: jason}}}]", "jason"),
        to("[]", "rest")
    );
    assert_eq!(
        get(&table(&rules), "http://shop.test/reviews/1", &[("end-user", "bob"), ("end-user", "al")]),
        "server   Gateway default/edge servers[0]
host     shop.test
  -      VirtualService default/reviews spec.http[0].match[0]: the path is `/reviews/1`, the rule wants exactly `/x`
  -      VirtualService default/reviews spec.http[0].match[1]: header `end-user` is `bob` and `al`, the rule wants exactly `jason`
  match  VirtualService default/reviews spec.http[1].match[0] (split.all)
fault    0.1% of requests are answered 418
cors     not of an allowed origin, so the request goes on as it is
forward  75.0% to nowhere: 503, the service, port or subset does not exist
         host becomes r.test
         request header: add x %PROTOCOL%
         response header: remove server
forward  25.0% to outbound|80||other.test
         host becomes r.test
         response header: remove server
         path becomes /r/1
         timeout 2s
         up to 3 retries on 5xx, each try within 500ms
         10% copied to outbound|80||other.test
"
    );
}

#[test]
fn requests_that_end_before_any_rule_are_explained_too() {
    let table = table(&format!("[{}]", to("[{uri: {prefix: /a}}]", "a")));
    for (url, want) in [
        (
            "http://shop.test:81/",
            "refused  without an answer: nothing listens on port 81; ports with a Gateway server: 80\n",
        ),
        (
            "http://other.test/",
            "server   Gateway default/edge servers[0]
refused  404: no VirtualService or redirect of http.80 has the request's host\n",
        ),
        (
            "http://shop.test/b",
            "server   Gateway default/edge servers[0]
host     shop.test
  -      VirtualService default/reviews spec.http[0].match[0]: the path is `/b`, the rule wants the prefix `/a`
refused  404: none of the 1 rules of host `shop.test` takes the request\n",
        ),
    ] {
        assert_eq!(get(&table, url, &[]), want);
    }
}

#[test]
fn a_path_is_explained_as_it_is_normalised() {
    let table = table(&format!("[{}, {}]", to("[{uri: {prefix: /admin}}]", "admin"), to("[]", "rest")));
    assert_eq!(
        get(&table, "http://shop.test/a/%2e%2e/%61dmin?next=/../x#part", &[]),
        "server   Gateway default/edge servers[0]
path     /a/%2e%2e/%61dmin is taken as /admin
host     shop.test
  match  VirtualService default/reviews spec.http[0].match[0]
forward  100.0% to outbound|80||admin.test
"
    );
    assert!(
        !get(&table, "http://shop.test/admin?x=%61/../", &[]).contains("path "),
        "an unchanged path is not told of"
    );
    for (url, why) in [
        ("http://shop.test/a%00", "the path holds %00, an escaped NUL byte"),
        (
            "http://shop.test/a b",
            "the request target holds a control, space or non-ASCII byte at offset 2; write it as %XX",
        ),
        (
            "http://shop.test/caf\u{e9}",
            "the request target holds a control, space or non-ASCII byte at offset 4; write it as %XX",
        ),
    ] {
        assert_eq!(fate(&get(&table, url, &[])), format!("refused  400: {why}"));
    }
}

#[test]
fn what_is_no_proper_head_is_refused() {
    let table = table(&format!("[{}]", to("[]", "rest")));
    for (request, why) in [
        (request("get", "http://shop.test/", &[]), "400: the method `get` is none that a gateway takes over HTTP/1.1"),
        (request("CONNECT", "http://shop.test/", &[]), "403: CONNECT is not supported"),
        (request("GET", "http://shop.test/", &[("Host", "a b")]), "400: the Host `a b` is malformed"),
        (request("GET", "http://shop.test/", &[("host", "a"), ("host", "b")]), "400: there are several Host headers"),
    ] {
        assert_eq!(fate(&explain(&table, &request).to_string()), format!("refused  {why}"));
    }
}

#[test]
fn the_host_is_that_of_the_header_without_its_port() {
    let table = table(&format!("[{}]", to("[]", "rest")));
    for (url, headers) in [
        ("http://SHOP.test/", &[][..]),
        ("http://127.0.0.1/", &[("Host", "shop.test")]),
        ("http://127.0.0.1/", &[("host", "shop.test:8080")]),
    ] {
        assert_eq!(fate(&get(&table, url, headers)), "forward  100.0% to outbound|80||rest.test", "{url} {headers:?}");
    }
}

#[test]
fn headers_are_judged_before_rules_see_them() {
    let rule = |header: &str, value: &str, to_: &str| to(&format!("[{{headers: {{{header}: {{{value}}}}}}}]"), to_);
    let http = format!(
        "[{}, {}, {}, {}, {}]",
        rule("x-envoy-internal", "exact: 'true'", "internal"),
        rule("x-forwarded-proto", "exact: https", "https"),
        rule("x-forwarded-for", "prefix: '10.'", "forwarded"),
        rule("upgrade", "exact: websocket", "sockets"),
        to("[]", "rest")
    );
    let trusting = "
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {numTrustedProxies: 1}
---";
    let service = virtual_service("reviews", 0, "[shop.test]", &http);
    let (plain, trusting) = (edge(&service).table, edge(&(trusting.to_owned() + &service)).table);
    assert_eq!(trusting.settings.num_trusted_proxies, 1);
    for (table, header, value, taken, ends) in [
        (&plain, "x-envoy-internal", "true", "header   x-envoy-internal is dropped", "rest"),
        (&plain, "x-forwarded-proto", "https", "header   x-forwarded-proto is taken as http", "rest"),
        (&plain, "x-forwarded-for", "10.0.0.1", "header   x-forwarded-for is taken as 10.0.0.1,127.0.0.1", "forwarded"),
        (&plain, "upgrade", "websocket", "header   upgrade is dropped", "rest"),
        (&plain, "upgrade", "h2c", "header   upgrade is dropped", "rest"),
        (&trusting, "x-forwarded-proto", "https", "", "https"),
    ] {
        let text = get(table, "http://shop.test/", &[(header, value)]);
        assert_eq!(fate(&text), format!("forward  100.0% to outbound|80||{ends}.test"), "{text}");
        let headers: Vec<_> = text.lines().filter(|line| line.starts_with("header ")).collect();
        assert_eq!(headers.join("\n"), taken);
    }
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket")];
    let text = get(&plain, "http://shop.test/", &headers);
    assert_eq!(fate(&text), "forward  100.0% to outbound|80||sockets.test", "{text}");
    let from = ExplainRequest { client: Some([10, 1, 1, 1].into()), ..request("GET", "http://shop.test/", &[]) };
    assert!(explain(&plain, &from).to_string().contains("forwarded.test"), "the client's address is appended");
}

#[test]
fn a_preflight_ends_at_the_gateway() {
    let cors = "corsPolicy: {allowOrigins: [{exact: 'https://a.test'}], unmatchedPreflights: IGNORE}";
    let table = table(&format!("[{{{cors}, route: [{{destination: {{host: web.test, port: {{number: 80}}}}}}]}}]"));
    for (method, origin, ends) in [
        ("OPTIONS", "https://a.test", "direct   200 with 0 bytes"),
        ("OPTIONS", "https://b.test", "direct   200 with 0 bytes"),
        ("GET", "https://a.test", "forward  100.0% to outbound|80||web.test"),
    ] {
        let headers = [("origin", origin), ("access-control-request-method", "PUT")];
        let text = explain(&table, &request(method, "http://shop.test/", &headers)).to_string();
        assert!(text.contains(ends), "{method} {origin}: {text}");
    }
}

#[test]
fn a_tls_server_takes_its_own_hosts_alone() {
    let files = "tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}";
    let missing = "tls: {mode: SIMPLE, credentialName: nothing}";
    let gateway = format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [a.test], tls: {{httpsRedirect: true}}}}
  - {{port: {{number: 443, name: a, protocol: HTTPS}}, hosts: [a.test, '*.w.test'], {files}}}
  - {{port: {{number: 443, name: b, protocol: HTTPS}}, hosts: [b.test], {files}}}
  - {{port: {{number: 443, name: c, protocol: HTTPS}}, hosts: [c.test], {missing}}}
"
    );
    let rules = format!("[{}, {}]", to("[{scheme: {exact: https}}]", "https"), to("[]", "rest"));
    let table = bare(&(gateway + &virtual_service("a", 0, "['*.test']", &rules))).table;
    for (url, headers, sni, ends) in [
        ("https://a.test/", &[][..], None, "forward  100.0% to outbound|80||https.test"),
        ("https://x.w.test/", &[("host", "a.test")], None, "forward  100.0% to outbound|80||https.test"),
        (
            "https://a.test/",
            &[("host", "b.test:443")],
            None,
            "refused  421: the host `b.test:443` does not belong to the TLS server that the server name `a.test` leads to; clients try again on a new connection",
        ),
        (
            "https://a.test/",
            &[],
            Some("b.test"),
            "refused  421: the host `a.test` does not belong to the TLS server that the server name `b.test` leads to; clients try again on a new connection",
        ),
        (
            "https://z.test/",
            &[],
            None,
            "refused  without an answer: no TLS server of port 443 has the host `z.test`, so the handshake fails",
        ),
        (
            "https://a.test/",
            &[],
            Some(""),
            "refused  without an answer: no TLS server of port 443 has the host `*`, so a handshake without a name fails",
        ),
        (
            "https://127.0.0.1/",
            &[("host", "a.test")],
            None,
            "refused  without an answer: no TLS server of port 443 has the host `*`, so a handshake without a name fails",
        ),
        (
            "https://c.test/",
            &[],
            None,
            "refused  without an answer: Gateway default/edge servers[3] has no certificate, so the handshake fails",
        ),
        (
            "http://a.test:443/",
            &[],
            None,
            "refused  without an answer: port 443 speaks TLS and closes a connection without it; write https://",
        ),
        (
            "https://a.test:80/",
            &[],
            None,
            "refused  without an answer: port 80 speaks plain HTTP, so a TLS handshake fails; write http://",
        ),
        ("http://a.test/x/../y?z", &[], None, "redirect 301 to https://a.test/y?z, as the server's httpsRedirect says"),
        (
            "http://a.test/",
            &[("x-forwarded-proto", "https")],
            None,
            "redirect 301 to https://a.test/, as the server's httpsRedirect says",
        ),
    ] {
        let request = ExplainRequest { sni: sni.map(str::to_owned), ..request("GET", url, headers) };
        assert_eq!(fate(&explain(&table, &request).to_string()), ends, "{url} {headers:?} {sni:?}");
    }
}

#[test]
fn of_thousands_of_rules_only_candidates_are_listed() {
    let rules: Vec<_> = (0..2000).map(|i| to(&format!("[{{uri: {{prefix: /r{i}/}}}}]"), "t")).collect();
    let explanation =
        explain(&table(&format!("[{}]", rules.join(", "))), &request("GET", "http://shop.test/r1500/x", &[]));
    assert_eq!(explanation.rules.iter().map(|rule| rule.position).collect::<Vec<_>>(), [1500]);
    assert_eq!(explanation.skipped, 1500);
}

#[test]
fn it_reads_as_json_and_back() {
    let table = table("[{match: [{uri: {prefix: /}}], redirect: {uri: /new, redirectCode: 302}}]");
    let explanation = explain(&table, &request("GET", "http://shop.test/./a", &[("x-envoy-a", "1")]));
    let json = serde_json::to_value(&explanation).expect("JSON");
    assert_eq!(
        json,
        serde_json::json!({
            "revision": 0,
            "routes": "http.80",
            "servers": ["Gateway default/edge servers[0]"],
            "path": {"sent": "/./a", "matched": "/a"},
            "headers": [{"name": "x-envoy-a"}],
            "host": "shop.test",
            "rules": [{"position": 0, "resource": {"kind": "VirtualService", "namespace": "default", "name": "reviews"}, "path": "spec.http[0].match[0]"}],
            "skipped": 0,
            "outcome": {"kind": "redirect", "status": 302, "location": "http://shop.test/new", "responseHeaders": []},
        })
    );
    assert_eq!(serde_json::from_value::<Explanation>(json).expect("an explanation"), explanation);
}

const X: HeaderName = HeaderName::from_static("x");

/// Rules whose paths random requests come upon, if they are normalised.
fn rules() -> impl Strategy<Value = Vec<String>> {
    let uri = select(vec![
        "uri: {prefix: /}",
        "uri: {prefix: /a}",
        "uri: {prefix: /a/b}",
        "uri: {exact: /a/}",
        "uri: {exact: /b}",
        "uri: {prefix: /B}, ignoreUriCase: true",
        "uri: {regex: '/.*2.*'}",
    ]);
    let condition = select(vec![
        "",
        "",
        ", method: {exact: POST}",
        ", headers: {x: {exact: '1'}}",
        ", queryParams: {q: {exact: '1'}}",
        ", headers: {x-envoy-a: {exact: '1'}}",
    ]);
    vec((uri, condition).prop_map(|(uri, condition)| format!("{{{uri}{condition}}}")), 0..12)
}

/// A request with the host and the target in its URL.
fn requests() -> impl Strategy<Value = (ExplainRequest, &'static str, String)> {
    let path = prop_oneof![
        path::tests::paths(),
        "/(a|b|\\\\|%61|%62|%2e|\\.\\.|\\.|;|%32|%00|A|B){0,2}(/(a|b|\\.\\.|%2E\\.|\\.\\.;x)?){0,3}",
    ];
    let headers = vec(select(vec![("x", "1"), ("x", "2"), ("x-envoy-a", "1")]), 0..3);
    let query = select(vec!["", "?q=1", "?q=/../1", "?q=<"]);
    (select(vec!["GET", "POST"]), select(vec!["shop.test", "SHOP.test:8080", "none.test"]), path, query, headers)
        .prop_map(|(method, host, path, query, headers)| {
            let mut request = request(method, &format!("http://{host}{path}{query}"), &headers);
            request.port = Some(80);
            (request, host, path + query)
        })
}

/// What rules see of a target; `None`: it is refused.
fn canonical(target: &str) -> Option<String> {
    let target = target.split('#').next()?;
    let escaped = path::escape(target.as_bytes())
        .ok()?
        .map_or(target.to_owned(), |bytes| String::from_utf8(bytes).expect("ASCII"));
    normalise(&escaped).ok().map(Into::into)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_takes_a_request_in_an_explanation_takes_it_in_a_lookup(rules in rules(), requests in vec(requests(), 1..20)) {
        let rules: Vec<_> = rules.iter().map(|rule| to(&format!("[{rule}]"), "t")).collect();
        let table = table(&format!("[{}]", rules.join(", ")));
        let ListenerProtocol::Http(routes) = &table.listeners[0].protocol else { panic!("not plain") };
        for (request, host, target) in &requests {
            let explanation = explain(&table, request);
            let Some(target) = canonical(target) else {
                prop_assert!(matches!(explanation.outcome, Outcome::Refused { status: Some(400), .. }), "{}", request.url);
                continue;
            };
            let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
            let headers = request.headers.get("x").into_iter().flatten();
            let headers: Headers = headers.map(|value| (X, value.parse().expect("a value"))).collect();
            let head =
                RequestHead { method: &request.method, scheme: "http", authority: host, path, query, headers: &headers, claims: None };
            let found = match routes.lookup(&head) {
                Lookup::Route(host, route) => host.routes().iter().position(|one| Arc::ptr_eq(one, route)),
                _ => None,
            };
            let (taken, missed): (Vec<_>, Vec<_>) = explanation.rules.iter().partition(|rule| rule.failure.is_none());
            prop_assert_eq!(taken.iter().map(|rule| rule.position).collect::<Vec<_>>(), Vec::from_iter(found));
            prop_assert!(missed.iter().all(|rule| found.is_none_or(|found| rule.position < found)));
            prop_assert_eq!(matches!(explanation.outcome, Outcome::Refused { status: Some(404), .. }), found.is_none());
            prop_assert_eq!(explanation.path.as_ref().map_or(path, |path| &path.matched), path);
        }
    }
}

#[test]
fn the_limits_of_a_request_are_told_with_what_it_shares_them_by() {
    let yaml = virtual_service("reviews", 0, "[shop.test]", "[{name: all, directResponse: {status: 200}}]")
        + "
---
apiVersion: fairway.dev/v1
kind: RateLimitPolicy
metadata: {name: p, namespace: default}
spec:
  targetRefs: [{kind: VirtualService, name: reviews}]
  rules:
  - {name: client, key: [{clientIP: {prefixV4: 24}}, {method: {}}], limit: {requests: 60, per: 1m, burst: 5}}
  - {name: key, key: [{header: x-api-key}], limit: {requests: 1, per: 1s}, costHeader: x-cost}
  - {name: posts, match: [{method: {exact: POST}}], limit: {requests: 1, per: 1s}}
---
apiVersion: fairway.dev/v1
kind: RateLimitPolicy
metadata: {name: q, namespace: default}
spec:
  targetRefs: [{kind: VirtualService, name: reviews}]
  scope: Route
  mode: Shadow
  rules: [{name: all, limit: {requests: 9, per: 1s}}]
";
    let table = edge(&yaml).table;
    let lines = |headers: &[(&str, &str)]| -> Vec<String> {
        let text = get(&table, "http://shop.test/", headers);
        text.lines().filter(|line| line.starts_with("limit")).map(str::to_owned).collect()
    };
    let client = "limit    RateLimitPolicy default/p client: 60 requests in 60s, up to 5 at once, for client \
                  127.0.0.0/24, method `GET`; takes 1";
    let shadow = "limit    RateLimitPolicy default/q all: 9 requests in 1s, up to 9 at once, for route VirtualService \
                  default/reviews all; takes 1 (only counted)";
    let absent = "limit    RateLimitPolicy default/p key: does not count it, as the request has no header `x-api-key`";
    assert_eq!(lines(&[]), [client, absent, shadow]);
    let key =
        "limit    RateLimitPolicy default/p key: 1 requests in 1s, up to 1 at once, for header x-api-key `a`; takes 7";
    assert_eq!(lines(&[("x-api-key", "a"), ("x-cost", "7")]), [client, key, shadow]);
}

#[test]
fn the_limits_of_a_service_are_told_with_the_destination_they_are_for() {
    let service = |name: &str| {
        format!(
            "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}.test]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 10.0.0.1}}]
"
        )
    };
    let policy = "
---
apiVersion: fairway.dev/v1
kind: RateLimitPolicy
metadata: {name: p, namespace: default}
spec:
  targetRefs: [{kind: ServiceEntry, name: two}]
  scope: Route
  rules: [{name: all, limit: {requests: 9, per: 1s}}]
";
    let explained = |route: &str| -> Vec<String> {
        let http = format!("[{{route: {route}}}]");
        let yaml = virtual_service("v", 0, "[shop.test]", &http) + &service("one") + &service("two") + policy;
        let text = get(&edge(&yaml).table, "http://shop.test/", &[]);
        text.lines().filter(|line| line.starts_with("limit")).map(str::to_owned).collect()
    };
    let limit = "9 requests in 1s, up to 9 at once, for route two.test:80; takes 1";
    assert_eq!(
        explained("[{destination: {host: one.test}, weight: 1}, {destination: {host: two.test}, weight: 1}]"),
        [format!("limit    RateLimitPolicy default/p all: if sent to outbound|80||two.test, {limit}")]
    );
    let alone = explained("[{destination: {host: two.test}}]");
    assert_eq!(alone, [format!("limit    RateLimitPolicy default/p all: {limit}")]);
    assert!(explained("[{destination: {host: one.test}}]").is_empty());
}

#[test]
fn connections_that_are_not_http_are_explained_by_server_rule_and_destination() {
    let yaml = "
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  servers:
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}
  - {port: {number: 443, name: pass, protocol: TLS}, hosts: ['*.test'], tls: {mode: PASSTHROUGH}}
---
kind: VirtualService
metadata: {name: s, namespace: default}
spec:
  hosts: ['*']
  gateways: [edge]
  tcp:
  - match: [{sourceSubnet: 192.0.2.0/24}]
    route: [{destination: {host: a.test, port: {number: 9}}}]
  - route:
    - {destination: {host: b.test, port: {number: 9}}, weight: 3}
    - {destination: {host: c.test, port: {number: 9}}, weight: 1}
  tls:
  - match: [{sniHosts: [db.test]}]
    route: [{destination: {host: db.test, port: {number: 9}}}]
";
    let table = bare(yaml).table;
    assert_eq!(
        get(&table, "http://any:9000/", &[]),
        "server   Gateway default/edge servers[0]
  -      VirtualService default/s spec.tcp[0].match[0]: the client 127.0.0.1 is not in sourceSubnet 192.0.2.0/24
  match  VirtualService default/s spec.tcp[1]
connect  75.0% to outbound|9||b.test
connect  25.0% to outbound|9||c.test
         the bytes are passed on as they come, HTTP or not
"
    );
    assert_eq!(
        get(&table, "https://db.test/", &[]),
        "server   Gateway default/edge servers[1]
  match  VirtualService default/s spec.tls[0].match[0]
connect  100.0% to outbound|9||db.test
         TLS is passed on as it comes and never decrypted
"
    );
    for (url, want) in [
        (
            "https://x.test/",
            "refused  without an answer: no rule takes the server name `x.test`, so the connection is closed",
        ),
        (
            "https://elsewhere/",
            "refused  without an answer: no TLS server of port 443 has the host `elsewhere`, so the handshake fails",
        ),
        (
            "http://db.test:443/",
            "refused  without an answer: port 443 speaks TLS and closes a connection without it; write https://",
        ),
    ] {
        assert_eq!(fate(&get(&table, url, &[])), want);
    }
}

#[test]
fn the_policies_that_apply_say_what_they_make_of_a_request() {
    let yaml = virtual_service("shop", 0, "[shop.test]", "[{name: all, directResponse: {status: 200}}]")
        + "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a-deny, namespace: istio-system}
spec: {action: DENY, rules: [{from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: b-allow, namespace: istio-system}
spec: {rules: [{to: [{operation: {methods: [POST]}}]}, {to: [{operation: {paths: ['/open/*']}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: c-trial, namespace: istio-system, annotations: {istio.io/dry-run: 'true'}}
spec: {action: DENY, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: d-elsewhere, namespace: default}
spec: {}
";
    let table = edge(&yaml).table;
    assert_eq!(
        get(&table, "http://shop.test/open/x", &[]),
        "server   Gateway default/edge servers[0]
host     shop.test
  match  VirtualService default/shop spec.http[0] (all)
policy   AuthorizationPolicy istio-system/a-deny (DENY): no rule takes it
         rules[0]: the client's address 127.0.0.1 is none of from[0].source.remoteIpBlocks
policy   AuthorizationPolicy istio-system/b-allow (ALLOW): rules[1] takes it
policy   AuthorizationPolicy istio-system/c-trial (DENY, on trial): rules[0] takes it
direct   200 with 0 bytes
"
    );
    assert_eq!(fate(&get(&table, "http://shop.test/", &[])), "refused  403: no rule of the ALLOW policies takes it");
    let from =
        ExplainRequest { client: Some([203, 0, 113, 7].into()), ..request("GET", "http://shop.test/open/", &[]) };
    assert_eq!(
        fate(&explain(&table, &from).to_string()),
        "refused  403: AuthorizationPolicy istio-system/a-deny spec.rules[0] denies it"
    );
}

#[test]
fn connections_are_explained_by_what_policies_can_ask_them() {
    let yaml = "
kind: Gateway
metadata: {name: edge, namespace: default}
spec: {servers: [{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}]}
---
kind: AuthorizationPolicy
metadata: {name: p, namespace: istio-system}
spec: {action: DENY, rules: [{to: [{operation: {ports: ['9000'], paths: [/x]}}]}]}
";
    assert_eq!(
        get(&bare(yaml).table, "http://any:9000/", &[]),
        "server   Gateway default/edge servers[0]
policy   AuthorizationPolicy istio-system/p (DENY): rules[0] takes it
refused  without an answer: AuthorizationPolicy istio-system/p spec.rules[0] denies it, so the connection is closed
"
    );
}

#[test]
fn tokens_are_taken_at_their_word() {
    use base64::Engine as _;
    let part = |json: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
    let token = |payload: &str| format!("{}.{}.c2ln", part(r#"{"alg":"RS256"}"#), part(payload));
    let http = "[{match: [{headers: {'@request.auth.claims.group': {exact: admin}}}], directResponse: {status: 200}}, \
                {directResponse: {status: 204}}]";
    let yaml = virtual_service("reviews", 0, "[shop.test]", http)
        + "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: istio-system}
spec:
  jwtRules:
  - {issuer: 'https://i.test', audiences: [shop], outputClaimToHeaders: [{header: x-sub, claim: sub}]}
";
    let table = edge(&yaml).table;
    let good = token(r#"{"iss":"https://i.test","sub":"ann","aud":"shop","group":["dev","admin"],"exp":1}"#);
    assert_eq!(
        get(&table, &format!("http://shop.test/?access_token={good}"), &[("x-sub", "forged")]),
        "server   Gateway default/edge servers[0]
header   x-sub is taken as ann
token    query parameter `access_token` is taken at its word for https://i.test/ann, by RequestAuthentication istio-system/jwt jwtRules[0]; it is taken out
         request header: add x-sub `ann`
host     shop.test
  match  VirtualService default/reviews spec.http[0].match[0]
direct   200 with 0 bytes
"
    );
    let bearer = |payload: &str| format!("Bearer {}", token(payload));
    for (headers, want) in [
        (vec![], "direct   204 with 0 bytes"),
        (
            vec![("authorization", bearer(r#"{"iss":"https://other.test"}"#))],
            "refused  401: Jwt issuer is not configured; tokens are held against RequestAuthentication istio-system/jwt \
             jwtRules[0] for `https://i.test`",
        ),
        (
            vec![("authorization", bearer(r#"{"iss":"https://i.test","aud":"other"}"#))],
            "refused  403: Audiences in Jwt are not allowed; tokens are held against RequestAuthentication \
             istio-system/jwt jwtRules[0] for `https://i.test`",
        ),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(fate(&get(&table, "http://shop.test/", &headers)), want);
    }
    let none = get(&table, "http://shop.test/", &[("x-sub", "forged")]);
    assert!(none.contains("header   x-sub is dropped\n"), "{none}");
}

#[test]
fn custom_policies_are_asked_before_tokens_and_the_others_after_them() {
    let yaml = virtual_service("reviews", 0, "[shop.test]", "[{directResponse: {status: 204}}]")
        + "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: istio-system}
spec: {jwtRules: [{issuer: 'https://i.test'}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: istio-system}
spec: {action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {paths: [/admin]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: istio-system}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/closed]}}]}]}
";
    let table = edge(&yaml).table;
    let bad = [("authorization", "Bearer x.y.z")];
    assert_eq!(
        get(&table, "http://shop.test/admin", &bad),
        "server   Gateway default/edge servers[0]
host     shop.test
  match  VirtualService default/reviews spec.http[0]
policy   AuthorizationPolicy istio-system/ask (CUSTOM): rules[0] takes it
refused  403: AuthorizationPolicy istio-system/ask spec.rules[0] denies it (no external provider is asked yet)
"
    );
    assert!(fate(&get(&table, "http://shop.test/", &bad)).starts_with("refused  401: "));
    let passed = get(&table, "http://shop.test/", &[]);
    assert!(
        passed.contains("ask (CUSTOM): no rule takes it") && passed.contains("all (DENY): no rule takes it"),
        "{passed}"
    );
    assert_eq!(fate(&passed), "direct   204 with 0 bytes");
}

#[test]
fn policies_see_the_certificate_that_a_server_asks_for() {
    let files = "serverCertificate: /c, privateKey: /k, caCertificates: /ca";
    let yaml = format!(
        "
kind: Gateway
metadata: {{name: edge, namespace: default}}
spec:
  servers:
  - {{port: {{number: 443, name: a, protocol: HTTPS}}, hosts: [a.test], tls: {{mode: MUTUAL, {files}}}}}
  - {{port: {{number: 443, name: b, protocol: HTTPS}}, hosts: [b.test], tls: {{mode: SIMPLE, {files}}}}}
  - {{port: {{number: 443, name: c, protocol: TLS}}, hosts: [c.test], tls: {{mode: OPTIONAL_MUTUAL, {files}}}}}
  - {{port: {{number: 443, name: d, protocol: HTTPS}}, hosts: [d.test],
      tls: {{mode: MUTUAL, {files}, subjectAltNames: ['spiffe://td/ns/shop/sa/web']}}}}
---
kind: AuthorizationPolicy
metadata: {{name: p, namespace: istio-system}}
spec: {{rules: [{{from: [{{source: {{principals: [td/ns/shop/sa/web]}}}}]}}]}}
"
    );
    let table = bare(&(yaml + &virtual_service("v", 0, "['*.test']", "[{directResponse: {status: 200}}]"))).table;
    let (web, other) = ("spiffe://td/ns/shop/sa/web", "spiffe://td/ns/bank/sa/web");
    let denied = "refused  403: no rule of the ALLOW policies takes it";
    for (host, identity, ends) in [
        ("a", Some(web), "direct   200 with 0 bytes"),
        ("a", Some(other), denied),
        ("a", None, denied),
        ("b", Some(web), denied),
        // It passes, and there is no `tcp` rule.
        (
            "c",
            Some(web),
            "refused  without an answer: no VirtualService has a rule for this server, so the connection is closed",
        ),
        (
            "c",
            Some(other),
            "refused  without an answer: no rule of the ALLOW policies takes it, so the connection is closed",
        ),
        ("d", Some(web), "direct   200 with 0 bytes"),
        (
            "d",
            Some(other),
            "refused  without an answer: Gateway default/edge servers[3] takes certificates of subjectAltNames \
             spiffe://td/ns/shop/sa/web only, so the handshake fails",
        ),
    ] {
        let client_identity = identity.map(str::to_owned);
        let request = ExplainRequest { client_identity, ..request("GET", &format!("https://{host}.test/"), &[]) };
        assert_eq!(fate(&explain(&table, &request).to_string()), ends, "{host} {identity:?}");
    }
}

#[test]
fn a_connection_through_a_forward_proxy_says_what_that_is_asked() {
    let yaml = "
kind: Gateway
metadata: {name: edge, namespace: default}
spec: {servers: [{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}]}
---
kind: DestinationRule
metadata: {name: p, namespace: default}
spec: {host: p.test, trafficPolicy: {tunnel: {protocol: POST, targetHost: db.test, targetPort: 5432}}}
---
kind: VirtualService
metadata: {name: v, namespace: default}
spec: {hosts: ['*'], gateways: [edge], tcp: [{route: [{destination: {host: p.test, port: {number: 3128}}}]}]}
";
    assert_eq!(
        get(&bare(yaml).table, "http://any:9000/", &[]),
        "server   Gateway default/edge servers[0]
  match  VirtualService default/v spec.tcp[0]
connect  100.0% to outbound|3128||p.test, by POST db.test:5432
         the bytes are passed on as they come, HTTP or not
"
    );
}
