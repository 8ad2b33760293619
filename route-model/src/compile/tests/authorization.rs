//! Who may do what.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::*;
use crate::meta::ResourceKey;
use crate::request::claims::Claims;
use crate::verdict::authorization::{Denial, Facts, Match, NOT_ALLOWED, Verdict};

/// Something to be judged.
#[derive(Clone, Debug)]
struct Case {
    /// `METHOD host path`; empty: a connection.
    request: String,
    headers: Vec<(&'static str, &'static str)>,
    peer: &'static str,
    client: &'static str,
    port: u16,
    sni: Option<&'static str>,
    principals: Vec<Box<str>>,
    claims: Option<Claims>,
    gateway: &'static str,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            request: "GET shop.test /".to_owned(),
            headers: Vec::new(),
            peer: "10.0.0.1",
            client: "10.0.0.1",
            port: 80,
            sni: None,
            principals: Vec::new(),
            claims: None,
            gateway: "edge",
        }
    }
}

fn get(request: &str) -> Case {
    Case { request: request.to_owned(), ..Case::default() }
}

fn connection() -> Case {
    get("")
}

fn from(peer: &'static str, client: &'static str) -> Case {
    Case { peer, client, ..Case::default() }
}

fn presenting(name: &str) -> Case {
    Case { principals: vec![name.into()], ..Case::default() }
}

fn with_claims(claims: Value) -> Case {
    let Value::Object(payload) = claims else { panic!("claims are an object") };
    Case { claims: Some(Claims::new(payload, &[])), ..Case::default() }
}

fn with_headers(headers: &[(&'static str, &'static str)]) -> Case {
    Case { headers: headers.to_vec(), ..Case::default() }
}

impl Case {
    fn with<R>(&self, judge: impl FnOnce(&Facts<'_>) -> R) -> R {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let facts = Facts {
            head: None,
            peer: ip(self.peer),
            client: ip(self.client),
            destination: ip("192.0.2.80"),
            port: self.port,
            sni: self.sni,
            principals: &self.principals,
        };
        if self.request.is_empty() {
            return judge(&facts);
        }
        head("http", &self.request, &self.headers, |head| {
            let head = RequestHead { claims: self.claims.as_ref(), ..*head };
            judge(&Facts { head: Some(&head), ..facts })
        })
    }

    /// `allowed`, `allowed by NAME[RULE]`, `denied by NAME[RULE]`, `denied`; what policies on trial say in brackets.
    fn verdict(&self, edge: &Edge) -> String {
        let authorization = &edge.table.authorization;
        let named = |found: Match<'_>| {
            let policy = &authorization.policies()[found.policy];
            format!("{}[{}]", policy.resource.name, found.rule.number)
        };
        let denied = |denial: Denial<'_>| match denial {
            Denial::By(found) => format!("denied by {}", named(found)),
            Denial::NotAllowed => "denied".to_owned(),
        };
        let gateway = ResourceKey::new(Kind::Gateway, "default", self.gateway);
        self.with(|facts| {
            let Verdict { denied: denial, allowed, audited, trial_denied, trial_allowed } =
                authorization.judge(std::iter::once(&gateway), facts);
            let mut text = match (denial, allowed) {
                (Some(denial), None) => denied(denial),
                (None, Some(allowed)) => format!("allowed by {}", named(allowed)),
                (None, None) => "allowed".to_owned(),
                (Some(_), Some(_)) => panic!("denied and allowed"),
            };
            if let Some(audited) = audited {
                let _ = write!(text, ", audited by {}", named(audited));
            }
            if let Some(denial) = trial_denied {
                let _ = write!(text, " [{}]", denied(denial));
            }
            if let Some(allowed) = trial_allowed {
                let _ = write!(text, " [allowed by {}]", named(allowed));
            }
            // Whom no policy concerns is not even held against them.
            assert!(text == "allowed" || authorization.concerns(std::iter::once(&gateway)), "{text}");
            text
        })
    }
}

fn policy(place: &str, spec: &str) -> String {
    let (namespace, name) = place.split_once('/').unwrap_or(("istio-system", place));
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"
    )
}

fn check(policies: &str, cases: &[(Case, &str)]) {
    let edge = edge(policies);
    for (case, want) in cases {
        assert_eq!(case.verdict(&edge), *want, "{case:?} under {policies}");
    }
}

/// One rule of a policy that denies.
fn denied_by(rule: &str, cases: &[(Case, bool)]) {
    let edge = edge(&policy("p", &format!("{{action: DENY, rules: [{rule}]}}")));
    for (case, want) in cases {
        assert_eq!(case.verdict(&edge), if *want { "denied by p[0]" } else { "allowed" }, "{case:?} under {rule}");
    }
}

#[test]
fn without_policies_everybody_may_do_everything() {
    check("", &[(get("GET a /"), "allowed"), (connection(), "allowed")]);
}

#[test]
fn what_is_left_out_means_nothing_or_everything() {
    for (spec, want) in [
        ("{}", "denied"),
        ("{action: ALLOW}", "denied"),
        ("{rules: []}", "denied"),
        ("{rules: [{}]}", "allowed by p[0]"),
        ("{action: DENY, rules: [{}]}", "denied by p[0]"),
        ("{action: AUDIT, rules: [{}]}", "allowed, audited by p[0]"),
        ("{action: CUSTOM, provider: {name: x}, rules: [{}]}", "denied by p[0]"),
    ] {
        check(&policy("p", spec), &[(get("GET a /"), want), (connection(), want)]);
    }
}

#[test]
fn custom_comes_before_deny_and_deny_before_allow() {
    let to = |path: &str| format!("[{{to: [{{operation: {{paths: ['{path}']}}}}]}}]");
    let policies = policy("a-allow", &format!("{{rules: {}}}", to("/*")))
        + &policy("b-deny", &format!("{{action: DENY, rules: {}}}", to("/admin*")))
        + &policy("c-custom", &format!("{{action: CUSTOM, provider: {{name: x}}, rules: {}}}", to("/admin/x")))
        + &policy("d-audit", &format!("{{action: AUDIT, rules: {}}}", to("/a*")));
    check(
        &policies,
        &[
            (get("GET a /"), "allowed by a-allow[0]"),
            (get("GET a /admin"), "denied by b-deny[0], audited by d-audit[0]"),
            (get("GET a /admin/x"), "denied by c-custom[0]"),
            (get("OPTIONS a *"), "denied"),
        ],
    );
}

#[test]
fn policies_on_trial_deny_nobody() {
    let trial = |name: &str, spec: &str| {
        policy(name, spec).replace("istio-system}", "istio-system, annotations: {istio.io/dry-run: 'true'}}")
    };
    let admin = "[{to: [{operation: {paths: [/admin]}}]}]";
    let deny = trial("deny", &format!("{{action: DENY, rules: {admin}}}"));
    check(&deny, &[(get("GET a /admin"), "allowed [denied by deny[0]]"), (get("GET a /"), "allowed")]);
    let allow = trial("allow", &format!("{{rules: {admin}}}"));
    check(&allow, &[(get("GET a /admin"), "allowed [allowed by allow[0]]"), (get("GET a /"), "allowed [denied]")]);
    let both = policy("real", "{rules: [{to: [{operation: {methods: [GET]}}]}]}") + &allow;
    check(
        &both,
        &[(get("GET a /"), "allowed by real[0] [denied]"), (get("POST a /admin"), "denied [allowed by allow[0]]")],
    );
    let audit = trial("audit", "{action: AUDIT, rules: [{}]}");
    check(&audit, &[(get("GET a /"), "allowed, audited by audit[0]")]);
}

#[test]
fn policies_are_for_the_workloads_of_their_namespace_that_they_select() {
    let deny = |place: &str, more: &str| policy(place, &format!("{{action: DENY, rules: [{{}}]{more}}}"));
    for (policy, want) in [
        (deny("istio-system/p", ""), "denied by p[0]"),
        (deny("istio-system/p", ", selector: {matchLabels: {istio: ingressgateway}}"), "denied by p[0]"),
        (deny("istio-system/p", ", selector: {matchLabels: {istio: egressgateway}}"), "allowed"),
        (deny("istio-system/p", ", selector: {matchLabels: {istio: ingressgateway, no: label}}"), "allowed"),
        (deny("default/p", ""), "allowed"),
        (deny("default/p", ", selector: {matchLabels: {istio: ingressgateway}}"), "allowed"),
    ] {
        check(&policy, &[(get("GET a /"), want)]);
    }
    let mesh = "
---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {rootNamespace: root}
";
    check(&(deny("root/p", "") + mesh), &[(get("GET a /"), "denied by p[0]")]);
    // The gateway's own namespace still counts.
    check(&(deny("istio-system/p", "") + mesh), &[(get("GET a /"), "denied by p[0]")]);
}

#[test]
fn policies_can_be_for_one_gateway() {
    let target = "targetRefs: [{group: networking.istio.io, kind: Gateway, name: edge}]";
    let policies = policy("default/p", &format!("{{rules: [{{to: [{{operation: {{paths: [/ok]}}}}]}}], {target}}}"))
        + &policy("all", "{rules: [{to: [{operation: {paths: [/all]}}]}]}");
    let other = |request| Case { gateway: "other", ..get(request) };
    check(
        &policies,
        &[
            (get("GET a /ok"), "allowed by p[0]"),
            (get("GET a /all"), "allowed by all[0]"),
            (get("GET a /"), "denied"),
            (other("GET a /ok"), "denied"),
            (other("GET a /all"), "allowed by all[0]"),
        ],
    );
    let edge = edge(&policies);
    let with = |name: &str| edge.finding_lines().into_iter().filter(|line| line.contains(name)).count();
    assert_eq!(with("default/p"), 0);
}

#[test]
fn each_field_asks_what_it_says() {
    let source = |fields: &str| format!("{{from: [{{source: {{{fields}}}}}]}}");
    let operation = |fields: &str| format!("{{to: [{{operation: {{{fields}}}}}]}}");
    let spiffe = |rest: &str| presenting(&format!("spiffe://{rest}"));

    let rule = source("principals: [cluster.local/ns/shop/sa/web]");
    denied_by(
        &rule,
        &[
            (spiffe("cluster.local/ns/shop/sa/web"), true),
            (spiffe("other.local/ns/shop/sa/web"), false),
            (presenting("cluster.local/ns/shop/sa/web"), false),
            (get("GET a /"), false),
        ],
    );
    denied_by(
        &source("principals: ['*']"),
        &[(spiffe("a/ns/b/sa/c"), true), (presenting("CN=client"), true), (get("GET a /"), false)],
    );
    denied_by(
        &source("principals: ['*/sa/web']"),
        &[(spiffe("a/ns/b/sa/web"), true), (presenting("x/sa/web"), false), (spiffe("a/ns/b/sa/webb"), false)],
    );
    denied_by(
        &source("notPrincipals: ['cluster.local/ns/shop/*']"),
        &[(spiffe("cluster.local/ns/shop/sa/x"), false), (spiffe("a/ns/b/sa/c"), true), (get("GET a /"), true)],
    );
    denied_by(
        &source("namespaces: [shop, 'team-*']"),
        &[
            (spiffe("a/ns/shop/sa/x"), true),
            (spiffe("a/ns/team-a/sa/x"), true),
            (spiffe("a/ns/shops/sa/x"), false),
            (presenting("spiffe://a/workload"), false),
            (get("GET a /"), false),
        ],
    );
    denied_by(&source("notNamespaces: [shop]"), &[(spiffe("a/ns/shop/sa/x"), false), (get("GET a /"), true)]);
    denied_by(
        &source("serviceAccounts: [web, shop/api]"),
        &[
            (spiffe("a/ns/istio-system/sa/web"), true),
            (spiffe("a/ns/shop/sa/web"), false),
            (spiffe("b/ns/shop/sa/api"), true),
        ],
    );
    denied_by(
        &source("trustDomains: [a, 'b*']"),
        &[(spiffe("a/ns/shop/sa/x"), true), (spiffe("bc/ns/shop/sa/x"), true), (spiffe("c/ns/shop/sa/x"), false)],
    );
    denied_by(
        &source("ipBlocks: [10.0.0.0/24, '2001:db8::/32']"),
        &[
            (from("10.0.0.7", "1.1.1.1"), true),
            (from("::ffff:10.0.0.7", "1.1.1.1"), true),
            (from("10.0.1.7", "10.0.0.7"), false),
            (from("2001:db8::1", "1.1.1.1"), true),
        ],
    );
    denied_by(
        &source("remoteIpBlocks: [10.0.0.0/24], notRemoteIpBlocks: [10.0.0.1]"),
        &[(from("1.1.1.1", "10.0.0.7"), true), (from("1.1.1.1", "10.0.0.1"), false), (from("10.0.0.7", "::1"), false)],
    );
    let token = |subject| with_claims(json!({"iss": "issuer", "sub": subject}));
    denied_by(
        &source("requestPrincipals: ['issuer/*']"),
        &[(token("me"), true), (with_claims(json!({"iss": "x", "sub": "me"})), false), (get("GET a /"), false)],
    );
    denied_by(&source("notRequestPrincipals: ['*']"), &[(token("me"), false), (get("GET a /"), true)]);

    denied_by(
        &operation("hosts: [Shop.Test, 'shop.test:*', '*.example']"),
        &[
            (get("GET SHOP.test /"), true),
            (get("GET shop.test:8080 /"), true),
            (get("GET a.Example /"), true),
            (get("GET a.example:80 /"), false),
            (get("GET shop.tests /"), false),
        ],
    );
    denied_by(
        &operation("methods: [GET], ports: ['80', '443']"),
        &[
            (get("GET a /"), true),
            (get("get a /"), false),
            (get("POST a /"), false),
            (Case { port: 81, ..get("GET a /") }, false),
        ],
    );
    denied_by(
        &operation("paths: [/a, '/b/*', '*.ico', '/{*}/x/{**}'], notPaths: [/b/c], notPorts: ['443']"),
        &[
            (get("GET a /a"), true),
            (get("GET a /a?x=/b"), true),
            (get("GET a /A"), false),
            (get("GET a /b/d"), true),
            (get("GET a /b/c"), false),
            (get("GET a /z/favicon.ico"), true),
            (get("GET a /z/x/y/z"), true),
            (get("GET a /z/x"), false),
            (Case { port: 443, ..get("GET a /a") }, false),
        ],
    );
    denied_by(&operation("notMethods: [GET, HEAD]"), &[(get("POST a /"), true), (get("HEAD a /"), false)]);
    denied_by(&operation("notHosts: ['*.test']"), &[(get("GET a.test /"), false), (get("GET a /"), true)]);
}

#[test]
fn conditions_look_at_keys() {
    let when = |condition: &str| format!("{{when: [{{{condition}}}]}}");
    denied_by(
        &when("key: 'request.headers[X-Token]', values: [a, 'b*']"),
        &[
            (with_headers(&[("x-token", "a")]), true),
            (with_headers(&[("x-token", "bc")]), true),
            (with_headers(&[("x-token", "c")]), false),
            (with_headers(&[("x-token", "b"), ("x-token", "c")]), true),
            (with_headers(&[("x-token", "a"), ("x-token", "c")]), false),
            (get("GET a /"), false),
        ],
    );
    denied_by(
        &when("key: 'request.headers[x-token]', notValues: ['*']"),
        &[(with_headers(&[("x-token", "a")]), false), (get("GET a /"), true)],
    );
    denied_by(
        &when("key: 'request.headers[:authority]', values: [Shop.test]"),
        &[(get("GET Shop.test /"), true), (get("GET shop.test /"), false)],
    );
    denied_by(&when("key: source.ip, values: [10.0.0.1]"), &[(get("GET a /"), true), (from("1.1.1.1", "::"), false)]);
    denied_by(&when("key: remote.ip, notValues: [10.0.0.1]"), &[(get("GET a /"), false), (from("::", "::"), true)]);
    denied_by(&when("key: destination.ip, values: [192.0.2.0/24]"), &[(get("GET a /"), true)]);
    denied_by(&when("key: destination.port, values: ['81']"), &[(get("GET a /"), false)]);
    denied_by(
        &when("key: connection.sni, values: ['*.Shop.test']"),
        &[(Case { sni: Some("a.shop.test"), ..Case::default() }, true), (get("GET a /"), false)],
    );
    let certificate = presenting("spiffe://cluster.local/ns/shop/sa/web");
    denied_by(&when("key: source.principal, values: ['*/ns/shop/*']"), &[(certificate.clone(), false)]);
    denied_by(&when("key: source.principal, values: [cluster.local/ns/shop/*]"), &[(certificate.clone(), true)]);
    denied_by(&when("key: source.namespace, values: [shop]"), &[(certificate.clone(), true)]);
    denied_by(&when("key: source.serviceAccount, values: [shop/web]"), &[(certificate.clone(), true)]);
    denied_by(&when("key: source.trustDomain, notValues: [cluster.local]"), &[(certificate, false)]);
    let token = || {
        with_claims(json!({
            "iss": "i", "sub": "s", "aud": ["one", "two"], "azp": "app", "groups": ["dev", "ops"], "scope": "read write",
            "realm": {"role": "admin"}, "level": 7,
        }))
    };
    for (condition, want) in [
        ("request.auth.principal, values: [i/s]", true),
        ("request.auth.audiences, values: [two]", true),
        ("request.auth.audiences, notValues: [one]", false),
        ("request.auth.presenter, values: [app]", true),
        ("'request.auth.claims[groups]', values: [ops]", true),
        ("'request.auth.claims[groups]', values: [root]", false),
        ("'request.auth.claims[groups]', notValues: [root]", true),
        ("'request.auth.claims[realm][role]', values: ['adm*']", true),
        ("'request.auth.claims[scope]', values: [write]", true),
        ("'request.auth.claims[level]', values: ['7']", false),
        ("'request.auth.claims[none]', notValues: [x]", true),
    ] {
        denied_by(&when(&format!("key: {condition}")), &[(token(), want)]);
    }
    denied_by(&when("key: 'request.auth.claims[groups]', values: ['*']"), &[(get("GET a /"), false)]);
    denied_by(&when("key: experimental.envoy.filters.a.b, values: ['*']"), &[(get("GET a /"), false)]);
    denied_by(&when("key: experimental.envoy.filters.a.b, notValues: ['*']"), &[(get("GET a /"), true)]);
}

#[test]
fn alternatives_are_one_of_from_and_one_of_to_and_all_of_when() {
    let rule = "{from: [{source: {ipBlocks: [10.0.0.1]}}, {source: {ipBlocks: [10.0.0.2]}}], \
                to: [{operation: {methods: [GET], paths: [/a]}}, {operation: {paths: [/b]}}], \
                when: [{key: 'request.headers[x]', values: ['1']}, {key: 'request.headers[y]', values: ['1']}]}";
    let case = |peer, request: &str, headers: &[(&'static str, &'static str)]| Case {
        peer,
        headers: headers.to_vec(),
        ..get(request)
    };
    let both = [("x", "1"), ("y", "1")];
    denied_by(
        rule,
        &[
            (case("10.0.0.1", "GET a /a", &both), true),
            (case("10.0.0.2", "POST a /b", &both), true),
            (case("10.0.0.2", "POST a /a", &both), false),
            (case("10.0.0.3", "GET a /a", &both), false),
            (case("10.0.0.1", "GET a /a", &both[..1]), false),
        ],
    );
}

#[test]
fn the_meshs_own_trust_domain_has_two_names() {
    let mesh = "
---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: corp.example}
";
    let deny = policy("p", "{action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}]}]}");
    check(
        &(deny + mesh),
        &[
            (presenting("spiffe://corp.example/ns/a/sa/b"), "denied by p[0]"),
            (presenting("spiffe://cluster.local/ns/a/sa/b"), "denied by p[0]"),
            (presenting("spiffe://other/ns/a/sa/b"), "allowed"),
        ],
    );
}

#[test]
fn what_names_one_of_the_meshs_trust_domains_is_meant_of_all() {
    let mesh = "
---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: corp.example, trustDomainAliases: [old.example]}
";
    for named in ["old.example/ns/a/sa/b", "corp.example/ns/a/sa/b", "cluster.local/ns/a/sa/b"] {
        let deny =
            policy("p", &format!("{{action: DENY, rules: [{{from: [{{source: {{principals: [{named}]}}}}]}}]}}"));
        check(
            &(deny + mesh),
            &[
                (presenting("spiffe://corp.example/ns/a/sa/b"), "denied by p[0]"),
                (presenting("spiffe://old.example/ns/a/sa/b"), "denied by p[0]"),
                (presenting("spiffe://other/ns/a/sa/b"), "allowed"),
                (presenting("spiffe://old.example/ns/a/sa/c"), "allowed"),
            ],
        );
    }
}

#[test]
fn connections_are_asked_what_they_can_show() {
    let rules = "[{to: [{operation: {paths: [/a], ports: ['80']}}]}, {from: [{source: {ipBlocks: [10.0.0.9]}}]}]";
    let allow = policy("p", &format!("{{rules: {rules}}}"));
    check(
        &allow,
        &[
            (get("GET a /a"), "allowed by p[0]"),
            (connection(), "denied"),
            (Case { peer: "10.0.0.9", ..connection() }, "allowed by p[1]"),
        ],
    );
    for action in ["DENY", "AUDIT"] {
        let policy = policy("p", &format!("{{action: {action}, rules: {rules}}}"));
        let want = if action == "DENY" { "denied by p[0]" } else { "allowed, audited by p[0]" };
        check(
            &policy,
            &[(get("GET a /b"), "allowed"), (connection(), want), (Case { port: 81, ..connection() }, "allowed")],
        );
    }
    let only_http = policy("p", "{action: DENY, rules: [{to: [{operation: {hosts: [a]}}]}]}");
    check(&only_http, &[(get("GET b /"), "allowed"), (connection(), "denied by p[0]")]);
}

#[test]
fn of_several_rules_the_first_by_name_is_named() {
    let deny = |name: &str| policy(name, "{action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}, {}]}");
    check(&(deny("b") + &deny("a")), &[(get("GET a /x"), "denied by a[0]"), (get("GET a /y"), "denied by a[1]")]);
    let edge = edge(&deny("a"));
    let rule = &edge.table.authorization.policies()[0].http[0];
    assert_eq!(&*rule.denial, "rbac_access_denied_matched_policy[ns[istio-system]-policy[a]-rule[0]]");
    assert_eq!(NOT_ALLOWED, "rbac_access_denied_matched_policy[none]");
}

#[test]
fn what_is_wrong_with_a_policy_is_said() {
    let tcp = "
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: raw, namespace: default}
spec: {servers: [{port: {number: 81, name: tcp, protocol: TCP}, hosts: ['*']}]}
";
    let rule = "rules: [{to: [{operation: {paths: [/a]}}]}]";
    let target = |group: &str, name: &str| format!("targetRefs: [{{group: {group}, kind: Gateway, name: {name}}}]");
    let policies = policy("custom", "{action: CUSTOM, provider: {name: x}, rules: [{}]}")
        + &policy("odd", "{rules: [{when: [{key: experimental.envoy.filters.x, values: [a]}]}]}")
        + &policy("default/gone", &format!("{{{}}}", target("networking.istio.io", "gone")))
        + &policy("default/other", &format!("{{{}}}", target("gateway.networking.k8s.io", "edge")))
        + &policy("default/far", "{selector: {matchLabels: {istio: ingressgateway}}, rules: [{}]}")
        + &policy("default/not-ours", "{selector: {matchLabels: {app: web}}, rules: [{}]}")
        + &policy("default/all", "{rules: [{}]}")
        + &policy("allow", &format!("{{{rule}}}"))
        + &policy("deny", &format!("{{action: DENY, {rule}}}"));
    let found = edge(&(policies.clone() + tcp)).finding_lines();
    let key = "AuthorizationPolicy";
    let want = [
        format!("Unresolved TargetNotFound {key} default/gone spec.targetRefs[0]"),
        format!("Unresolved TargetNotSupported {key} default/other spec.targetRefs[0]"),
        format!("Warning ExternalAuthorizationNotSupported {key} istio-system/custom spec.action"),
        format!("Warning HttpFieldsForConnections {key} istio-system/allow spec.rules[0]"),
        format!("Warning HttpFieldsForConnections {key} istio-system/deny spec.rules[0]"),
        format!("Warning NotSupported {key} istio-system/odd spec.rules[0].when[0].key"),
        format!("Warning SelectsOtherNamespace {key} default/far spec.selector"),
    ];
    let mut found_here: Vec<_> = found.into_iter().filter(|line| line.contains(key)).collect();
    found_here.sort();
    assert_eq!(found_here, want);
    // Without connections there is nothing to warn of.
    assert!(!edge(&policies).finding_lines().iter().any(|line| line.contains("HttpFields")));
}

#[test]
fn a_rule_says_why_it_does_not_take_a_request() {
    let edge = edge(&policy(
        "p",
        "{rules: [{from: [{source: {ipBlocks: [10.9.0.0/16]}}]}, {to: [{operation: {methods: [POST]}}]}, \
         {to: [{operation: {notPaths: [/]}}]}, {when: [{key: 'request.headers[x]', values: [a]}]}, {}]}",
    ));
    let rules = &edge.table.authorization.policies()[0].http;
    let failures: Vec<_> = get("GET a /").with(|facts| rules.iter().map(|rule| rule.failure(facts)).collect());
    assert_eq!(
        failures,
        [
            Some("the peer's address 10.0.0.1 is none of from[0].source.ipBlocks".to_owned()),
            Some("the method `GET` is none of to[0].operation.methods".to_owned()),
            Some("the path `/` is one of to[0].operation.notPaths".to_owned()),
            Some("header x, which when[0].values asks for, is absent".to_owned()),
            None,
        ]
    );
}

// What the policies say, read straight off them.

fn text_fits(pattern: &str, text: &str) -> bool {
    match (pattern, pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        ("*", ..) => !text.is_empty(),
        (_, Some(suffix), _) => text.ends_with(suffix),
        (_, _, Some(prefix)) => text.starts_with(prefix),
        _ => pattern == text,
    }
}

fn block_fits(block: &str, ip: &str) -> bool {
    let bits = |text: &str| text.parse::<std::net::Ipv4Addr>().expect("IPv4").to_bits();
    let (network, length) = block.split_once('/').unwrap_or((block, "32"));
    let ignored = 32 - length.parse::<u32>().expect("a length");
    (u64::from(bits(network)) >> ignored) == (u64::from(bits(ip)) >> ignored)
}

/// Whether a field and its opposite hold for the values that a request has.
fn field_holds(fields: &Value, name: &str, fits: impl Fn(&str) -> bool) -> bool {
    let opposite = format!("not{}{}", name[..1].to_uppercase(), &name[1..]);
    let any = |list: &Value| list.as_array().is_some_and(|list| list.iter().any(|value| fits(value.as_str().unwrap())));
    (fields[name].is_null() || any(&fields[name])) && !any(&fields[opposite])
}

fn rule_takes(rule: &Value, case: &Case) -> bool {
    let words: Vec<&str> = case.request.split(' ').collect();
    let (method, host, path) = (words[0], words[1], words[2]);
    let principals: Vec<&str> = case.principals.iter().filter_map(|name| name.strip_prefix("spiffe://")).collect();
    let one_of = |list: &Value, inside: &str, holds: &dyn Fn(&Value) -> bool| {
        list.as_array().is_none_or(|list| list.iter().any(|entry| holds(&entry[inside])))
    };
    one_of(&rule["from"], "source", &|source| {
        field_holds(source, "principals", |value| principals.iter().any(|name| text_fits(value, name)))
            && field_holds(source, "ipBlocks", |value| block_fits(value, case.peer))
            && field_holds(source, "remoteIpBlocks", |value| block_fits(value, case.client))
    }) && one_of(&rule["to"], "operation", &|operation| {
        field_holds(operation, "hosts", |value| text_fits(&value.to_lowercase(), &host.to_lowercase()))
            && field_holds(operation, "methods", |value| text_fits(value, method))
            && field_holds(operation, "ports", |value| value == case.port.to_string())
            && field_holds(operation, "paths", |value| match value.strip_suffix("/{**}") {
                Some(start) => path.strip_prefix(start).is_some_and(|rest| rest.starts_with('/')),
                None => text_fits(value, path),
            })
    }) && rule["when"].as_array().is_none_or(|conditions| {
        conditions.iter().all(|condition| {
            let name = condition["key"].as_str().unwrap().trim_start_matches("request.headers[").trim_end_matches(']');
            let value = case.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| *value);
            field_holds(condition, "values", |wanted| value.is_some_and(|value| text_fits(wanted, value)))
        })
    })
}

/// Policies as `(name, action, rules)`, sorted by name.
fn naive(policies: &[(String, &str, Vec<Value>)], case: &Case) -> String {
    let first = |action: &str| {
        let mut own = policies.iter().filter(|(_, own, _)| *own == action);
        own.find_map(|(name, _, rules)| {
            let taking = rules.iter().position(|rule| rule_takes(rule, case))?;
            Some(format!("{name}[{taking}]"))
        })
    };
    let verdict = if let Some(found) = first("DENY") {
        format!("denied by {found}")
    } else if let Some(found) = first("ALLOW") {
        format!("allowed by {found}")
    } else if policies.iter().any(|(_, action, _)| *action == "ALLOW") {
        "denied".to_owned()
    } else {
        "allowed".to_owned()
    };
    verdict + &first("AUDIT").map_or_else(String::new, |found| format!(", audited by {found}"))
}

fn list(values: &'static [&'static str]) -> impl Strategy<Value = Value> {
    vec(select(values), 1..4).prop_map(|values| json!(values))
}

/// An object of some fields and their opposites; at least one.
fn fields(known: &'static [(&'static str, &'static [&'static str])]) -> impl Strategy<Value = Value> {
    let field = select(known).prop_flat_map(|(name, values)| {
        (Just(name), list(values), proptest::bool::weighted(0.2)).prop_map(|(name, values, opposite)| {
            if opposite {
                (format!("not{}{}", name[..1].to_uppercase(), &name[1..]), values)
            } else {
                (name.to_owned(), values)
            }
        })
    });
    vec(field, 1..4).prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

fn rule() -> impl Strategy<Value = Value> {
    let source = fields(&[
        ("principals", &["td/ns/a/sa/x", "td/ns/b/sa/x", "*/sa/x", "td/ns/a/*", "*"]),
        ("ipBlocks", &["10.0.0.0/8", "10.0.0.0/30", "10.0.0.1", "10.0.1.2", "0.0.0.0/0", "192.168.0.0/31"]),
        ("remoteIpBlocks", &["10.0.0.1", "192.168.0.0/16", "10.0.1.0/24"]),
    ]);
    let operation = fields(&[
        ("hosts", &["a.test", "A.test", "*.test", "b.*", "b.test:80", "*"]),
        ("methods", &["GET", "POST", "P*", "*T"]),
        ("ports", &["80", "443"]),
        ("paths", &["/", "/a", "/a*", "/a/b", "*b", "/*", "*", "/a/{**}", "/b/{**}"]),
    ]);
    let condition = (select(&["x", "y"][..]), fields(&[("values", &["1", "2", "1*", "*2", "*"])])).prop_map(
        |(name, mut condition)| {
            condition["key"] = json!(format!("request.headers[{name}]"));
            condition
        },
    );
    let wrapped = |inside: &'static str| move |list: Vec<Value>| list.into_iter().map(|v| json!({inside: v})).collect();
    let from = option::of(vec(source, 1..3).prop_map(wrapped("source")));
    let to = option::of(vec(operation, 1..3).prop_map(wrapped("operation")));
    let when = option::weighted(0.3, vec(condition, 1..3).prop_map(Value::Array));
    (from, to, when).prop_map(|(from, to, when): (Option<Value>, Option<Value>, Option<Value>)| {
        let parts = [("from", from), ("to", to), ("when", when)];
        let parts = parts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(parts.collect::<Map<_, _>>())
    })
}

fn case() -> impl Strategy<Value = Case> {
    let request = (
        select(&["GET", "POST", "PUT"][..]),
        select(&["a.test", "A.TEST", "b.test", "b.test:80", "c"][..]),
        select(&["/", "/a", "/a/b", "/a/", "/ab", "/b/c", "/c/b"][..]),
    );
    let ips = || select(&["10.0.0.1", "10.0.0.2", "10.0.1.2", "192.168.0.1", "192.168.0.2", "8.8.8.8"][..]);
    let headers = vec((select(&["x", "y"][..]), select(&["1", "2", "12", ""][..])), 0..2);
    let principal =
        option::of(select(&["spiffe://td/ns/a/sa/x", "spiffe://td/ns/b/sa/x", "spiffe://td/ns/b/sa/y"][..]));
    (request, ips(), ips(), headers, principal, select(&[80_u16, 443, 81][..])).prop_map(
        |((method, host, path), peer, client, headers, principal, port)| Case {
            request: format!("{method} {host} {path}"),
            headers,
            peer,
            client,
            port,
            principals: principal.into_iter().map(Into::into).collect(),
            ..Case::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_a_look_at_every_rule_finds(
        policies in vec((select(&["ALLOW", "DENY", "DENY", "AUDIT"][..]), vec(rule(), 1..5)), 1..12),
        cases in vec(case(), 20),
    ) {
        let named = policies.into_iter().enumerate();
        let policies: Vec<_> = named.map(|(n, (action, rules))| (format!("p{n:02}"), action, rules)).collect();
        let resources = policies.iter().map(|(name, action, rules)| {
            let object = json!({
                "metadata": {"name": name, "namespace": "istio-system"}, "spec": {"action": action, "rules": rules},
            });
            Arc::new(Resource::from_object(Kind::AuthorizationPolicy, &object).expect("a policy"))
        });
        let (table, findings) = compile(&resources.collect(), &scope());
        let edge = Edge { table, findings };
        for case in &cases {
            prop_assert_eq!(case.verdict(&edge), naive(&policies, case), "{:?}", case);
        }
    }
}
