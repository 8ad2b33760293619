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
