//! Which rule takes a request, and what it does with it.

use super::*;

/// A case: rules by VirtualService (`name, created, hosts, rules`) and requests with their fates.
fn check(services: &[(&str, u32, &str, String)], requests: &[(&str, &str)]) {
    let yaml: String =
        services.iter().map(|(name, created, hosts, http)| virtual_service(name, *created, hosts, http)).collect();
    let edge = edge(&yaml);
    for (request, want) in requests {
        assert_eq!(edge.send(80, request, &[]), *want, "{request} of\n{yaml}");
    }
}

fn rules(list: &[String]) -> String {
    format!("[{}]", list.join(", "))
}

#[test]
fn the_first_rule_in_list_order_wins() {
    check(
        &[(
            "a",
            0,
            "['*']",
            rules(&[
                to("[{uri: {prefix: /a}}]", "prefix"),
                to("[{uri: {exact: /ab}}]", "shadowed"),
                to("[{uri: {exact: /x}, method: {exact: POST}}]", "post"),
                to("[{uri: {exact: /x}}, {uri: {prefix: /y}}]", "either"),
                to("[{uri: {regex: '/z[0-9]+'}}]", "regex"),
                to("[{uri: {prefix: /CASE}, ignoreUriCase: true}]", "case"),
                to("[{queryParams: {v: {exact: '2'}}}]", "query"),
            ]),
        )],
        &[
            ("GET h /ab", "prefix"),
            ("POST h /x", "post"),
            ("GET h /x", "either"),
            ("GET h /yy", "either"),
            ("GET h /z1", "regex"),
            ("GET h /z1a", "404 no route in *"),
            ("GET h /case/1", "case"),
            ("GET h /?v=2", "query"),
            ("GET h /", "404 no route in *"),
        ],
    );
}

#[test]
fn several_virtual_services_of_a_host_are_put_together_by_age() {
    check(
        &[
            (
                "young",
                9,
                "[h.test]",
                rules(&[to("[{uri: {prefix: /a}}]", "young-a"), to("[{uri: {prefix: /b}}]", "young-b")]),
            ),
            ("old", 1, "[h.test]", rules(&[to("[{uri: {prefix: /a}}]", "old-a")])),
            // Equal ages go by name.
            ("old2", 1, "[h.test]", rules(&[to("[{uri: {prefix: /b}}]", "old2-b")])),
        ],
        &[("GET h.test /a", "old-a"), ("GET h.test /b", "old2-b"), ("GET other.test /a", "404 no host")],
    );
}

#[test]
fn catch_alls_go_last() {
    let first = |rule: String| {
        [
            ("old", 1, "[h.test]", rules(&[rule])),
            ("young", 2, "[h.test]", rules(&[to("[{uri: {exact: /x}}]", "young")])),
        ]
    };
    // These are catch-alls by Istio's definition …
    for entry in [
        "[{uri: {prefix: /}}]",
        "[{uri: {regex: '.*'}}]",
        "[{uri: {prefix: /}, ignoreUriCase: true}]",
        "[{name: only-a-name}]",
        "[]",
    ] {
        check(&first(to(entry, "old")), &[("GET h.test /x", "young"), ("GET h.test /y", "old")]);
    }
    // … and these are not, although some take every path.
    for entry in [
        "[{uri: {prefix: ''}}]",
        "[{uri: {regex: '/.*'}}]",
        "[{uri: {prefix: /}, method: {exact: GET}}]",
        "[{uri: {prefix: /}, scheme: {exact: http}}]",
        "[{uri: {prefix: /}, authority: {exact: h.test}}]",
        "[{withoutHeaders: {x: {}}}]",
    ] {
        check(&first(to(entry, "old")), &[("GET h.test /x", "old")]);
    }
    // Of several catch-alls the oldest wins.
    check(
        &[
            ("young", 2, "[h.test]", rules(&[to("[]", "young")])),
            ("old", 1, "[h.test]", rules(&[to("[{uri: {prefix: /}}]", "old")])),
        ],
        &[("GET h.test /", "old")],
    );
}

#[test]
fn nothing_follows_a_catch_all_in_its_virtual_service() {
    // The second entry of the rule and the second rule are not emitted, so the younger service's rule comes first.
    check(
        &[
            (
                "old",
                1,
                "[h.test]",
                rules(&[to("[{uri: {prefix: /}}, {uri: {exact: /x}}]", "old"), to("[{uri: {exact: /x}}]", "never")]),
            ),
            ("young", 2, "[h.test]", rules(&[to("[{uri: {exact: /x}}]", "young")])),
        ],
        &[("GET h.test /x", "young")],
    );
}

#[test]
fn the_host_is_chosen_before_any_rule() {
    check(
        &[
            ("wide", 1, "['*.foo.com']", rules(&[to("[{uri: {prefix: /wide}}]", "wide")])),
            ("narrow", 2, "[a.foo.com]", rules(&[to("[{uri: {prefix: /narrow}}]", "narrow")])),
        ],
        &[
            ("GET a.foo.com /narrow", "narrow"),
            ("GET A.Foo.com:8080 /narrow", "narrow"),
            // No fall-back to the wider host.
            ("GET a.foo.com /wide", "404 no route in a.foo.com"),
            ("GET b.foo.com /wide", "wide"),
            ("GET foo.com /wide", "404 no host"),
            ("GET a.foo.com. /narrow", "404 no host"),
        ],
    );
}

#[test]
fn a_short_host_is_a_service_of_the_namespace() {
    check(
        &[("a", 0, "[reviews]", rules(&[to("[]", "reviews")]))],
        &[("GET reviews.default.svc.cluster.local /", "reviews"), ("GET reviews /", "404 no host")],
    );
}

#[test]
fn what_concerns_the_proxy_is_decided_at_once() {
    check(
        &[(
            "a",
            0,
            "['*']",
            rules(&[
                to("[{uri: {exact: /1}, port: 80}]", "port"),
                to("[{uri: {exact: /1}, port: 81}]", "other-port"),
                to("[{uri: {exact: /2}, port: 81}]", "other-port"),
                to("[{uri: {exact: /3}, sourceLabels: {istio: ingressgateway}}]", "labels"),
                to("[{uri: {exact: /4}, sourceLabels: {istio: egressgateway}}]", "other-labels"),
                to("[{uri: {exact: /5}, sourceNamespace: istio-system}]", "namespace"),
                to("[{uri: {exact: /6}, sourceNamespace: default}]", "other-namespace"),
                to("[{uri: {exact: /7}, gateways: [edge]}]", "gateway"),
                to("[{uri: {exact: /8}, gateways: [mesh]}]", "mesh"),
                // Where gateways are named, the source is not looked at.
                to("[{uri: {exact: /9}, gateways: [default/edge], sourceLabels: {no: such}}]", "either-or"),
            ]),
        )],
        &[
            ("GET h /1", "port"),
            ("GET h /2", "404 no route in *"),
            ("GET h /3", "labels"),
            ("GET h /4", "404 no route in *"),
            ("GET h /5", "namespace"),
            ("GET h /6", "404 no route in *"),
            ("GET h /7", "gateway"),
            ("GET h /8", "404 no route in *"),
            ("GET h /9", "either-or"),
        ],
    );
}

#[test]
fn without_a_rule_for_the_gateway_there_is_no_host() {
    check(
        &[
            ("narrow", 0, "[a.foo.com]", rules(&[to("[{gateways: [mesh]}]", "mesh")])),
            ("wide", 1, "['*.foo.com']", rules(&[to("[]", "wide")])),
        ],
        &[("GET a.foo.com /", "wide")],
    );
}

#[test]
fn headers_are_matched() {
    let edge = edge(&virtual_service(
        "a",
        0,
        "['*']",
        &rules(&[
            to("[{headers: {end-user: {exact: jason}}}]", "jason"),
            to("[{headers: {x: {}}, withoutHeaders: {y: {}}}]", "x-not-y"),
            // Documented as ignored: there are fields for these.
            to("[{uri: {prefix: /ignored}, headers: {method: {exact: POST}}}]", "ignored"),
            to("[{headers: {'@request.auth.claims.group': {exact: dev}}}]", "claim"),
            to("[{withoutHeaders: {z: {regex: '*'}}}]", "no-z"),
        ]),
    ));
    for (request, headers, want) in [
        ("GET h /", &[("end-user", "jason")][..], "jason"),
        ("GET h /", &[("end-user", "bob"), ("x", "")], "x-not-y"),
        ("GET h /", &[("x", "1"), ("y", "1")], "no-z"),
        ("GET h /", &[("x", "1"), ("y", "1"), ("z", "")], "404 no route in *"),
        ("GET h /ignored", &[], "ignored"),
        ("GET h /", &[], "no-z"),
    ] {
        assert_eq!(edge.send(80, request, headers), want, "{headers:?}");
    }
}

#[test]
fn routes_that_do_the_same_share_what_they_do() {
    let rules =
        [to("[{uri: {prefix: /1}}, {uri: {prefix: /2}}]", "a"), to("[{uri: {prefix: /3}}]", "a"), to("[]", "b")];
    let edge = edge(&virtual_service("s", 0, "['*']", &format!("[{}]", rules.join(", "))));
    let actions = ["/1", "/2", "/3", "/4"].map(|path| match &edge.route(80, &format!("GET h {path}")).action {
        Action::Forward(forward) => Arc::clone(forward),
        other => panic!("{other:?}"),
    });
    let [first, second, third, other] = &actions;
    assert!(Arc::ptr_eq(first, second) && Arc::ptr_eq(first, third) && !Arc::ptr_eq(first, other));
}

#[test]
fn weights_are_shares_of_any_sum() {
    let destination = |host: &str, weight: u32| {
        format!("{{destination: {{host: {host}.test, port: {{number: 80}}}}, weight: {weight}}}")
    };
    let rule =
        |uri: &str, list: &[String]| format!("{{match: [{{uri: {{exact: {uri}}}}}], route: [{}]}}", list.join(", "));
    let edge = edge(&virtual_service(
        "a",
        0,
        "['*']",
        &rules(&[
            rule("/split", &[destination("a", 80), destination("b", 20)]),
            rule("/odd", &[destination("a", 1), destination("b", 2)]),
            rule("/zero", &[destination("a", 5), destination("b", 0)]),
            rule("/single", &[destination("a", 0)]),
        ]),
    ));
    for (path, want, total) in
        [("/split", "a*80 + b*20", 100), ("/odd", "a*1 + b*2", 3), ("/zero", "a", 5), ("/single", "a", 0)]
    {
        assert_eq!(edge.send(80, &format!("GET h {path}"), &[]), want);
        let Action::Forward(forward) = &edge.route(80, &format!("GET h {path}")).action else { panic!("forward") };
        assert_eq!(forward.total_weight, total);
    }
}

#[test]
fn paths_are_rewritten() {
    let rule = |entry: &str, rewrite: &str| {
        format!(
            "{{match: [{entry}], rewrite: {rewrite}, route: [{{destination: {{host: t.test, port: {{number: 80}}}}}}]}}"
        )
    };
    check(
        &[(
            "a",
            0,
            "['*']",
            rules(&[
                rule("{uri: {prefix: /foo/}}", "{uri: /}"),
                rule("{uri: {prefix: /foo}}", "{uri: /}"),
                rule("{uri: {exact: /exact}}", "{uri: /whole}"),
                rule("{uri: {regex: '/re[0-9]+/.*'}}", "{uri: /whole}"),
                rule("{uri: {prefix: /CASE}, ignoreUriCase: true}", "{uri: /x}"),
                rule("{uri: {prefix: /r/}}", r"{uriRegexRewrite: {match: '/r/([a-z]+)/', rewrite: '/\1-'}}"),
                rule("{uri: {prefix: /q}}", "{uri: '/new?q=1'}"),
                rule("{uri: {prefix: /host}}", "{authority: other.test}"),
                rule("{method: {exact: PUT}}", "{uri: /put}"),
            ]),
        )],
        &[
            ("GET h /foo/bar", "t as /bar"),
            // No repair of slashes.
            ("GET h /foobar", "t as /bar"),
            ("GET h /foo", "t as /"),
            ("GET h /exact", "t as /whole"),
            ("GET h /re1/2", "t as /whole"),
            ("GET h /case/1", "t as /x/1"),
            ("GET h /r/abc/d/r/e/", "t as /abc-d/e-"),
            ("GET h /q/a", "t as /new?q=1/a"),
            ("GET h /host/a", "t"),
            // Without a path to match, the prefix is the slash.
            ("PUT h /z", "t as /putz"),
        ],
    );
    let edge = edge(&virtual_service("a", 0, "['*']", &rules(&[rule("{uri: {prefix: /}}", "{authority: 'x%y'}")])));
    let Action::Forward(forward) = &edge.route(80, "GET h /").action else { panic!("forward") };
    let authority = forward.destinations[0].authority.as_ref().and_then(|a| a.as_static()).expect("fixed");
    assert_eq!(authority, "x%y");
}

#[test]
fn redirects_and_direct_responses_answer_at_once() {
    let rule = |uri: &str, action: &str| format!("{{match: [{{uri: {{prefix: {uri}}}}}], {action}}}");
    check(
        &[(
            "a",
            0,
            "['*']",
            rules(&[
                rule("/1", "redirect: {uri: /new, authority: n.test}"),
                rule("/2", "redirect: {prefixRewrite: /q, redirectCode: 308}"),
                rule("/3", "redirect: {scheme: https, redirectCode: 302}"),
                rule("/4", "redirect: {port: 8443, redirectCode: 307}"),
                rule("/8", "directResponse: {status: 503, body: {string: closed}}"),
                rule("/9", "directResponse: {status: 204}"),
                "{redirect: {prefixRewrite: /q}}".to_owned(),
            ]),
        )],
        &[
            ("GET h /1/a", "301 http://n.test/new"),
            ("GET h:81 /2/a?b", "308 http://h:81/q/a?b"),
            ("GET h:80 /3", "302 https://h/3"),
            ("GET h:81 /4", "307 http://h:8443/4"),
            ("GET h /8", "503 \"closed\""),
            ("GET h /9", "204 \"\""),
            ("GET h /z", "301 http://h/qz"),
        ],
    );
}

#[test]
fn a_redirect_writes_a_port_unless_it_is_the_schemes_own() {
    let server = |port: u16, protocol: &str, tls: &str| {
        format!("{{port: {{number: {port}, name: p{port}, protocol: {protocol}}}, hosts: ['*']{tls}}}")
    };
    let tls = ", tls: {mode: SIMPLE, credentialName: cert}";
    let servers =
        [server(80, "HTTP", ""), server(8080, "HTTP", ""), server(443, "HTTPS", tls), server(8443, "HTTPS", tls)];
    let gateway = format!(
        "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: edge, namespace: default}},
          spec: {{selector: {{istio: ingressgateway}}, servers: [{}]}}}}\n",
        servers.join(", ")
    );
    let rule =
        |path: &str, redirect: &str| format!("{{match: [{{uri: {{exact: {path}}}}}], redirect: {{{redirect}}}}}");
    let http = rules(&[
        rule("/request-port", "derivePort: FROM_REQUEST_PORT, uri: /"),
        rule("/request-port-https", "derivePort: FROM_REQUEST_PORT, scheme: https, uri: /"),
        rule("/request-port-elsewhere", "derivePort: FROM_REQUEST_PORT, authority: n.test, uri: /"),
        rule("/protocol-default", "derivePort: FROM_PROTOCOL_DEFAULT, uri: /"),
        rule("/protocol-default-https", "derivePort: FROM_PROTOCOL_DEFAULT, scheme: https, uri: /"),
        rule("/80", "port: 80, uri: /"),
        rule("/443", "port: 443, uri: /"),
    ]);
    let edge = bare(&(gateway + &virtual_service("a", 0, "['*']", &http)));
    for (port, request, location) in [
        (80, "GET h /request-port", "http://h/"),
        (80, "GET h:99 /request-port", "http://h:99/"),
        (8080, "GET h:99 /request-port", "http://h:8080/"),
        (443, "GET h /request-port", "https://h/"),
        (8443, "GET h /request-port", "https://h:8443/"),
        (80, "GET h /request-port-https", "https://h:80/"),
        (8080, "GET h /request-port-https", "https://h:8080/"),
        (443, "GET h:99 /request-port-https", "https://h:99/"),
        (80, "GET h:99 /request-port-elsewhere", "http://n.test/"),
        (8443, "GET h:99 /request-port-elsewhere", "https://n.test:8443/"),
        (8080, "GET h:99 /protocol-default", "http://h:99/"),
        (8080, "GET h:80 /protocol-default-https", "https://h/"),
        (8080, "GET h:99 /protocol-default-https", "https://h:99/"),
        (80, "GET h:99 /80", "http://h:99/"),
        (443, "GET h:99 /80", "https://h:80/"),
        (80, "GET h:99 /443", "http://h:443/"),
        (8443, "GET h /443", "https://h/"),
    ] {
        let fate = if port % 1000 == 443 { edge.send_tls(port, "h", request) } else { edge.send(port, request, &[]) };
        assert_eq!(fate, format!("301 {location}"), "{port} {request}");
    }
    // A hop that is trusted may have taken the request over TLS: what is written does not depend on it.
    let routes = edge.routes(80, None).expect("a listener");
    assert_eq!(edge.lookup(routes, "https", "GET h:99 /443", &[]), "301 https://h:443/");
}

#[test]
fn a_rule_that_cannot_be_in_force_is_left_out_and_the_rest_stands() {
    let edge = edge(&virtual_service(
        "a",
        0,
        "['*']",
        &rules(&[
            "{match: [{uri: {prefix: /a}}], redirect: {uri: /x, redirectCode: 304}}".to_owned(),
            "{match: [{uri: {prefix: /b}}], directResponse: {status: 600}}".to_owned(),
            to("[{uri: {regex: '('}}]", "regex"),
            "{match: [{uri: {prefix: /c}}]}".to_owned(),
            "{match: [{uri: {prefix: /d}}], headers: {request: {set: {x: '%NOPE%'}}}, route: [{destination: {host: d.test, port: {number: 80}}}]}".to_owned(),
            to("[]", "rest"),
        ]),
    ));
    for path in ["/a", "/b", "/c", "/d", "/e"] {
        assert_eq!(edge.send(80, &format!("GET h {path}"), &[]), "rest");
    }
    let rejected: Vec<_> = edge.finding_lines().into_iter().filter(|line| line.starts_with("Rejected")).collect();
    assert_eq!(
        rejected,
        [
            "Rejected InvalidRedirect VirtualService default/a spec.http[0].redirect.redirectCode",
            "Rejected InvalidDirectResponse VirtualService default/a spec.http[1].directResponse.status",
            "Rejected InvalidRegex VirtualService default/a spec.http[2].match[0].uri",
            "Rejected NoDestination VirtualService default/a spec.http[3].route",
            "Rejected InvalidHeaderOperation VirtualService default/a spec.http[4].headers.request.set[x]",
        ]
    );
}

#[test]
fn rules_are_delegated() {
    let delegate = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: team, namespace: team, creationTimestamp: '2026-03-01T00:00:00Z'}
spec:
  http:
  - {match: [{uri: {prefix: /team/a}}], name: a, route: [{destination: {host: short, port: {number: 80}}}]}
  - {match: [{uri: {prefix: /other}}], name: conflict, route: [{destination: {host: never.test, port: {number: 80}}}]}
  - {name: rest, route: [{destination: {host: rest.test, port: {number: 80}}}]}
";
    let root = |namespace: &str| {
        virtual_service(
            "root",
            0,
            "['*']",
            &rules(&[
                format!(
                    "{{name: root, match: [{{uri: {{prefix: /team}}}}], delegate: {{name: team, namespace: {namespace}}}, timeout: 3s}}"
                ),
                to("[]", "fallback"),
            ]),
        )
    };
    let found = edge(&(root("team") + delegate));
    // A short name is the delegate's.
    assert_eq!(found.send(80, "GET h /team/a/1", &[]), "outbound|80||short.team.svc.cluster.local");
    assert_eq!(found.send(80, "GET h /team/b", &[]), "rest");
    assert_eq!(found.send(80, "GET h /other", &[]), "fallback");
    let route = found.route(80, "GET h /team/a/1");
    assert_eq!(&*route.name, "root-a");
    assert_eq!(
        route.origin.delegate.as_ref().map(|(key, rule)| (key.to_string(), *rule)),
        Some(("VirtualService team/team".to_owned(), 0))
    );
    let Action::Forward(forward) = &route.action else { panic!("forward") };
    assert_eq!(forward.timeout, Some(std::time::Duration::from_secs(3)));
    assert!(
        found
            .finding_lines()
            .contains(&"Rejected DelegateConflict VirtualService team/team spec.http[1].match".to_owned())
    );

    let missing = edge(&(root("nowhere") + delegate));
    assert_eq!(missing.send(80, "GET h /team/a/1", &[]), "fallback");
    assert!(
        missing
            .finding_lines()
            .contains(&"Unresolved DelegateNotFound VirtualService default/root spec.http[0].delegate".to_owned())
    );
}

#[test]
fn a_match_names_what_its_requests_are_counted_under() {
    let edge = edge(&virtual_service(
        "a",
        0,
        "['*']",
        "[{match: [{uri: {prefix: /pay}, statPrefix: checkout}, {uri: {prefix: /x}}], directResponse: {status: 200}}]",
    ));
    assert_eq!(edge.route(80, "GET h /pay").stat_prefix.as_deref(), Some("checkout"));
    assert_eq!(edge.route(80, "GET h /x").stat_prefix, None);
}
