//! Which tokens are accepted for which hosts.

use super::*;
use crate::table::authentication::{Authentication, KeySource, TokenPlace};

/// A policy with a rule for the issuer `name`, and more of its spec and its rule.
fn policy(namespace: &str, name: &str, spec: &str, rule: &str) -> String {
    format!(
        "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{spec}jwtRules: [{{issuer: {name}, jwks: '{{\"keys\": []}}'{rule}}}]}}
"
    )
}

fn authentication(edge: &Edge, port: u16, authority: &str) -> Option<Arc<Authentication>> {
    edge.routes(port, None).expect("routes").authentication.of_authority(authority).cloned()
}

/// The issuers whose tokens are accepted.
fn issuers(edge: &Edge, port: u16, authority: &str) -> Vec<String> {
    let rules = authentication(edge, port, authority);
    let rules = rules.iter().flat_map(|authentication| authentication.rules.iter());
    rules.map(|rule| rule.issuer.as_deref().unwrap_or("any").to_owned()).collect()
}

#[test]
fn policies_of_the_root_and_of_the_gateways_namespace_are_one() {
    let yaml = policy("istio-system", "z-all", "", "")
        + &policy("istio-system", "a-selected", "selector: {matchLabels: {istio: ingressgateway}}, ", "")
        + &policy("istio-system", "other", "selector: {matchLabels: {istio: egressgateway}}, ", "")
        + &policy("default", "workloads", "", "")
        + &policy("default", "elsewhere", "selector: {matchLabels: {istio: ingressgateway}}, ", "");
    let edge = edge(&yaml);
    assert_eq!(issuers(&edge, 80, "a.test"), ["a-selected", "z-all"]);
    assert_eq!(edge.finding_lines(), ["Warning NotAtGateway RequestAuthentication default/elsewhere spec"]);
    assert!(authentication(&super::edge(""), 80, "a.test").is_none());
    let empty = "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: empty, namespace: istio-system}
spec: {}
";
    assert!(authentication(&super::edge(empty), 80, "a.test").is_none());
}

#[test]
fn a_root_namespace_may_be_another() {
    let mesh = "
---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {rootNamespace: config}
";
    assert_eq!(issuers(&edge(&(policy("config", "i", "", "") + mesh)), 80, "a.test"), ["i"]);
    assert_eq!(issuers(&edge(&policy("config", "i", "", "")), 80, "a.test"), [""; 0]);
}

#[test]
fn gateways_are_targets_by_their_hosts() {
    let gateway = |name: &str, hosts: &str, port: u16| {
        format!(
            "
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: default}}
spec: {{servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: {hosts}}}]}}
"
        )
    };
    let target = |name: &str| format!("targetRefs: [{{group: networking.istio.io, kind: Gateway, name: {name}}}], ");
    let yaml = gateway("wide", "['*.test']", 80)
        + &gateway("narrow", "['default/a.test', b.test]", 80)
        + &gateway("apart", "['*']", 81)
        + &policy("default", "of-wide", &target("wide"), "")
        + &policy("default", "of-narrow", &target("narrow"), "")
        + &policy("istio-system", "all", "", "");
    let edge = bare(&yaml);
    assert_eq!(edge.finding_lines(), [""; 0]);
    for (port, authority, want) in [
        (80, "a.test", &["all", "of-narrow", "of-wide"][..]),
        (80, "A.test:80", &["all", "of-narrow", "of-wide"]),
        (80, "c.test", &["all", "of-wide"]),
        (80, "elsewhere", &["all"]),
        (81, "a.test", &["all"]),
    ] {
        assert_eq!(issuers(&edge, port, authority), want, "{port} {authority}");
    }
}

#[test]
fn targets_that_lead_nowhere_are_told() {
    let targets = "targetRefs: [{group: networking.istio.io, kind: Gateway, name: gone}, \
                   {group: gateway.networking.k8s.io, kind: Gateway, name: edge}, {kind: Service, name: s}], ";
    let edge = edge(&policy("default", "p", targets, ""));
    assert_eq!(
        edge.finding_lines(),
        [
            "Unresolved TargetNotFound RequestAuthentication default/p spec.targetRefs[0]",
            "Unresolved TargetNotFound RequestAuthentication default/p spec.targetRefs[1]",
            "Unresolved TargetNotFound RequestAuthentication default/p spec.targetRefs[2]",
        ]
    );
    assert_eq!(issuers(&edge, 80, "a.test"), [""; 0]);
}

#[test]
fn a_rule_has_its_fields_or_their_defaults() {
    let edge = super::edge(&policy("istio-system", "i", "", ""));
    let rules = authentication(&edge, 80, "a.test").expect("authentication");
    let rule = &rules.rules[0];
    assert_eq!(rule.places[..], [TokenPlace::Bearer, TokenPlace::Param("access_token".into())]);
    assert_eq!((rule.timeout.as_secs(), rule.forward), (5, false));
    assert_eq!(rule.keys, KeySource::Inline("{\"keys\": []}".into()));
    assert!(rules.written.is_empty());

    let more = ", audiences: [a], fromHeaders: [{name: X-Jwt, prefix: 'jwt '}], fromParams: [p], fromCookies: [c], \
                outputPayloadToHeader: X-Payload, outputClaimToHeaders: [{header: X-Sub, claim: user.id}], \
                forwardOriginalToken: true, timeout: 1s, spaceDelimitedClaims: [roles]";
    let edge = super::edge(&policy("istio-system", "i", "", more));
    let rules = authentication(&edge, 80, "a.test").expect("authentication");
    let rule = &rules.rules[0];
    let header = TokenPlace::Header { name: HeaderName::from_static("x-jwt"), prefix: "jwt ".into() };
    assert_eq!(rule.places[..], [header, TokenPlace::Param("p".into()), TokenPlace::Cookie("c".into())]);
    assert_eq!((rule.timeout.as_secs(), rule.forward), (1, true));
    assert_eq!((&*rule.audiences[0], &*rule.space_delimited[0]), ("a", "roles"));
    assert_eq!(rules.written[..], [HeaderName::from_static("x-payload"), HeaderName::from_static("x-sub")]);
}

#[test]
fn keys_are_where_the_rule_or_its_issuer_says() {
    for (rule, keys, findings) in [
        ("issuer: a, jwksUri: 'https://k.test/x'", KeySource::Url("https://k.test/x".into()), &[][..]),
        ("jwks_uri: 'http://k.test'", KeySource::Url("http://k.test".into()), &[]),
        (
            "issuer: 'https://i.test/realm/'",
            KeySource::Discovery("https://i.test/realm/.well-known/openid-configuration".into()),
            &[],
        ),
        (
            "issuer: someone@i.test",
            KeySource::None,
            &["Unresolved NoKeys RequestAuthentication istio-system/p spec.jwtRules[0]"],
        ),
    ] {
        let edge = super::edge(&format!(
            "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: p, namespace: istio-system}}
spec: {{jwtRules: [{{{rule}}}]}}
"
        ));
        assert_eq!(authentication(&edge, 80, "a.test").expect("authentication").rules[0].keys, keys);
        assert_eq!(edge.finding_lines(), findings);
    }
}
