//! Which rate limits a request is under.

use super::*;

/// A policy of the namespace `default` with one rule.
fn policy(name: &str, targets: &str, more: &str) -> String {
    format!(
        "
---
apiVersion: fairway.dev/v1
kind: RateLimitPolicy
metadata: {{name: {name}, namespace: default}}
spec: {{targetRefs: {targets}, rules: [{{name: r, limit: {{requests: 5, per: 1s}}{more}}}]}}
"
    )
}

fn services() -> String {
    let http = "[{name: reviews, match: [{uri: {exact: /reviews}}], directResponse: {status: 200}}, \
                {directResponse: {status: 200}}]";
    virtual_service("a", 0, "['a.test']", http) + &virtual_service("b", 1, "['b.test']", http)
}

/// The names of the policies that a request is under.
fn policies(edge: &Edge, request: &str) -> Vec<String> {
    let route = edge.route(80, request);
    let policies = route.limits.iter().flat_map(|limits| limits.policies.iter());
    policies.map(|policy| policy.resource.name.to_string()).collect()
}

#[test]
fn policies_of_all_levels_apply_from_the_outermost_in() {
    let yaml = services()
        + &policy("z-gateway", "[{kind: Gateway, name: edge}]", "")
        + &policy("y-service", "[{kind: VirtualService, name: a}]", "")
        + &policy("x-rule", "[{kind: VirtualService, name: a, sectionName: reviews}]", "")
        + &policy("twice", "[{kind: VirtualService, name: b}, {kind: Gateway, name: edge}]", "");
    let edge = edge(&yaml);
    assert_eq!(edge.finding_lines(), [""; 0]);
    for (request, want) in [
        ("GET a.test /reviews", &["twice", "z-gateway", "y-service", "x-rule"][..]),
        ("GET a.test /", &["twice", "z-gateway", "y-service"]),
        ("GET b.test /reviews", &["twice", "z-gateway"]),
    ] {
        assert_eq!(policies(&edge, request), want, "{request}");
    }
}

#[test]
fn without_a_policy_a_route_has_nothing_to_ask() {
    assert!(edge(&services()).route(80, "GET a.test /").limits.is_none());
}

#[test]
fn what_a_policy_leaves_out_has_its_default() {
    let edge = edge(&(services() + &policy("p", "[{kind: VirtualService, name: a}]", ", key: [{clientIP: {}}]")));
    let route = edge.route(80, "GET a.test /");
    let limits = route.limits.as_ref().expect("limits");
    let policy = &limits.policies[0];
    let rule = &policy.rules[0];
    assert!(policy.enforced && !policy.per_route);
    assert_eq!((rule.rate.burst, rule.cost), (5, 1));
    assert_eq!(rule.key[..], [crate::verdict::limits::KeyPart::ClientIp { v4: 32, v6: 64 }]);
    assert_eq!(rule.advertised, "\"r\";q=5;w=1");
    assert_eq!((policy.refusal.status.as_u16(), &policy.refusal.body[..]), (429, &b"local_rate_limited"[..]));
    assert_eq!(&*limits.route, "VirtualService default/a 1");
}

#[test]
fn what_leads_nowhere_is_told() {
    let targets = "[{kind: VirtualService, name: gone}, {kind: Gateway, name: edge}, \
                   {kind: VirtualService, name: a, sectionName: nope}]";
    let edge = edge(&(services() + &policy("p", targets, "")));
    assert_eq!(
        edge.finding_lines(),
        [
            "Unresolved TargetNotFound RateLimitPolicy default/p spec.targetRefs[0]",
            "Unresolved SectionNotFound RateLimitPolicy default/p spec.targetRefs[2].sectionName",
        ]
    );
}

/// The names of the policies of the services that a request may go to.
fn of_services(edge: &Edge, request: &str) -> Vec<Vec<String>> {
    let Action::Forward(forward) = &edge.route(80, request).action else { panic!("forward") };
    let clusters = forward.destinations.iter().map(|to| edge.table.cluster(to.cluster).expect("a cluster"));
    clusters
        .map(|cluster| {
            let policies = cluster.limits.iter().flat_map(|limits| limits.policies.iter());
            policies.map(|policy| policy.resource.name.to_string()).collect()
        })
        .collect()
}

#[test]
fn a_policy_on_a_service_is_for_every_route_that_leads_to_a_host_of_it() {
    let entry = "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: s, namespace: default}
spec:
  hosts: [s.test, t.test]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.1}]
";
    let to = |host: &str| format!("[{{route: [{{destination: {{host: {host}, port: {{number: 80}}}}}}]}}]");
    let yaml = entry.to_owned()
        + &virtual_service("a", 0, "['a.test']", &to("s.test"))
        + &virtual_service("b", 1, "['b.test']", &to("t.test"))
        + &virtual_service("c", 2, "['c.test']", &to("u.test"))
        + &policy("service", "[{kind: ServiceEntry, name: s}]", "")
        + &policy("gone", "[{kind: ServiceEntry, name: nope}]", "");
    let edge = edge(&yaml);
    for (host, want) in [("a.test", &["service"][..]), ("b.test", &["service"]), ("c.test", &[])] {
        assert_eq!(of_services(&edge, &format!("GET {host} /")), [want], "{host}");
        assert!(policies(&edge, &format!("GET {host} /")).is_empty());
    }
    let lines = edge.finding_lines();
    assert!(lines.iter().any(|line| line.contains("TargetNotFound RateLimitPolicy default/gone")), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("default/service")), "{lines:?}");
}
