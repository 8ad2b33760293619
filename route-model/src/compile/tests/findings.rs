//! What is said about resources that are valid alone.

use super::*;

fn check(yaml: &str, want: &[&str]) {
    assert_eq!(edge(yaml).finding_lines(), want, "{yaml}");
}

/// The message of the only finding of a reason.
fn message(yaml: &str, reason: &str) -> String {
    let edge = edge(yaml);
    let mut found = edge.findings.iter().filter(|finding| finding.reason == reason);
    let finding = found.next().unwrap_or_else(|| panic!("no {reason} in {:?}", edge.findings));
    assert!(found.next().is_none());
    finding.message.clone()
}

const SERVICE: &str = "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: t, namespace: default}
spec: {hosts: [t.test], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 10.0.0.1}]}
";

fn declared(hosts: &str, http: &str) -> String {
    virtual_service("a", 0, hosts, http) + SERVICE
}

#[test]
fn what_is_in_order_has_no_findings() {
    check(
        &declared("['*']", &format!("[{}, {}]", to("[{uri: {prefix: /a/}}, {uri: {exact: /a}}]", "t"), to("[]", "t"))),
        &[],
    );
}

#[test]
fn references_that_lead_nowhere_are_named() {
    let rule = |destination: &str| format!("[{{route: [{{destination: {destination}}}]}}]");
    check(
        &declared("['*']", &rule("{host: t.test}"))
            .replace("gateways: [edge]", "gateways: [edge, nowhere, other/gone, mesh]"),
        &[
            "Unresolved GatewayNotFound VirtualService default/a spec.gateways[1]",
            "Unresolved GatewayNotFound VirtualService default/a spec.gateways[2]",
        ],
    );
    check(
        &declared("['*']", &rule("{host: u.test, port: {number: 80}}")),
        &["Warning HostNotDeclared VirtualService default/a spec.http[0].route[0].destination.host"],
    );
    check(
        &declared("['*']", &rule("{host: u.test}")),
        &["Rejected PortRequired VirtualService default/a spec.http[0].route[0].destination.port"],
    );
    check(
        &declared("['*']", &rule("{host: t.test, port: {number: 81}}")),
        &["Unresolved PortNotFound VirtualService default/a spec.http[0].route[0].destination.port"],
    );
    check(
        &declared("['*']", &rule("{host: t.test, subset: v1}")),
        &["Unresolved SubsetNotFound VirtualService default/a spec.http[0].route[0].destination.subset"],
    );
    let with_rule = declared("['*']", &rule("{host: t.test, subset: v9}"))
        + "
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: t, namespace: default}
spec: {host: t.test, subsets: [{name: v1}, {name: v2}]}
";
    assert_eq!(
        message(&with_rule, "SubsetNotFound"),
        "DestinationRule default/t, which is in force for `t.test`, declares no subset `v9`, so requests are answered \
         503; it declares: v1, v2"
    );
    check(&with_rule.replace("subset: v9", "subset: v2"), &[]);
    check(
        &declared("['*']", &rule("{host: t.test}"))
            .replace("resolution: STATIC, endpoints: [{address: 10.0.0.1}]", "resolution: NONE"),
        &["Warning NoEndpoints VirtualService default/a spec.http[0].route[0].destination.host"],
    );
}

#[test]
fn a_service_that_cannot_be_reached_is_told_why() {
    let yaml = declared("[h.test]", &format!("[{}]", to("[]", "t")));
    check(
        &yaml.replace("gateways: [edge]", "gateways: [edge]\n  exportTo: ['.']"),
        &["Rejected NotVisible VirtualService default/a spec.exportTo"],
    );
    // EDGE with another host.
    let narrow = format!("{EDGE}---{yaml}").replace("hosts: ['*']", "hosts: ['*.example', 'x/*']");
    let found = bare(&narrow);
    assert_eq!(found.finding_lines(), ["Unresolved HostNotServed VirtualService default/a spec.hosts[0]"]);
    assert_eq!(
        found.findings[0].message,
        "no server of Gateway default/edge admits host `h.test` from namespace default, so nothing is routed for it; \
         add the host to a server"
    );
    // A Gateway of other proxies is none of this one's business.
    assert_eq!(
        bare(&narrow.replace("{istio: ingressgateway}", "{istio: other}")).finding_lines(),
        Vec::<String>::new()
    );
}

#[test]
fn rules_in_a_shadow_are_named_with_what_casts_it() {
    let shadowed = |first: &str, second: &str| {
        let yaml = declared(
            "[h.test]",
            &format!("[{}, {}, {}]", to(first, "t"), to(second, "t"), to("[{uri: {exact: /unrelated}}]", "t")),
        );
        edge(&yaml)
            .finding_lines()
            .iter()
            .any(|line| line == "Warning RuleShadowed VirtualService default/a spec.http[1].match[0]")
    };
    for (first, second, want) in [
        ("[{uri: {prefix: /a}}]", "[{uri: {prefix: /ab}}]", true),
        ("[{uri: {prefix: /a}}]", "[{uri: {exact: /ab}}]", true),
        ("[{uri: {prefix: /a}}]", "[{uri: {regex: '/a/[0-9]+'}}]", true),
        ("[{uri: {prefix: /a}}]", "[{uri: {regex: '/[ab]'}}]", false),
        ("[{uri: {regex: '/a.*'}}]", "[{uri: {prefix: /ab}}]", true),
        ("[{uri: {regex: '/a[0-9]'}}]", "[{uri: {exact: /a1}}]", true),
        ("[{uri: {regex: '/a[0-9]'}}]", "[{uri: {regex: '/a[0-9]'}}]", true),
        ("[{uri: {regex: '/a[0-9]'}}]", "[{uri: {prefix: /a1}}]", false),
        ("[{uri: {prefix: /ab}}]", "[{uri: {prefix: /a}}]", false),
        ("[{uri: {exact: /a}}]", "[{uri: {prefix: /a}}]", false),
        ("[{uri: {prefix: /A}, ignoreUriCase: true}]", "[{uri: {prefix: /a/b}}]", true),
        ("[{uri: {prefix: /a}}]", "[{uri: {prefix: /a/b}, ignoreUriCase: true}]", false),
        ("[{uri: {prefix: /1}}]", "[{uri: {prefix: /1/2}, ignoreUriCase: true}]", true),
        // Conditions of the first must follow from those of the second.
        ("[{uri: {prefix: /a}, method: {exact: GET}}]", "[{uri: {prefix: /ab}}]", false),
        ("[{uri: {prefix: /a}, method: {exact: GET}}]", "[{uri: {prefix: /ab}, method: {exact: GET}}]", true),
        ("[{uri: {prefix: /a}, method: {regex: 'GET|POST'}}]", "[{uri: {prefix: /ab}, method: {exact: GET}}]", true),
        ("[{uri: {prefix: /a}, headers: {x: {}}}]", "[{uri: {prefix: /ab}, headers: {x: {exact: '1'}}}]", true),
        (
            "[{uri: {prefix: /a}, headers: {x: {prefix: a}}}]",
            "[{uri: {prefix: /ab}, headers: {x: {prefix: ab}, y: {}}}]",
            true,
        ),
        ("[{uri: {prefix: /a}, headers: {x: {exact: '1'}}}]", "[{uri: {prefix: /ab}, headers: {x: {}}}]", false),
        ("[{uri: {prefix: /a}, withoutHeaders: {x: {}}}]", "[{uri: {prefix: /ab}, withoutHeaders: {x: {}}}]", true),
        (
            "[{uri: {prefix: /a}, queryParams: {q: {exact: '1'}}}]",
            "[{uri: {prefix: /ab}, queryParams: {q: {exact: '2'}}}]",
            false,
        ),
    ] {
        assert_eq!(shadowed(first, second), want, "{first} {second}");
    }
    let yaml = declared(
        "[h.test]",
        &format!("[{}, {}]", to("[{uri: {prefix: /a/}}]", "t"), to("[{uri: {prefix: /a/b/}}]", "t")),
    );
    assert_eq!(
        message(&yaml, "RuleShadowed"),
        "never takes a request for host `h.test`: spec.http[0].match[0] comes first and takes all of them; move the \
         narrower rule up or remove it"
    );
    // Entries of one rule may overlap.
    check(&declared("[h.test]", &format!("[{}]", to("[{uri: {prefix: /a/}}, {uri: {prefix: /a/b/}}]", "t"))), &[]);
}

#[test]
fn another_virtual_service_may_cast_the_shadow() {
    let yaml = declared("[h.test]", &format!("[{}]", to("[{uri: {prefix: /a/}}]", "t")))
        + &virtual_service("b", 1, "[h.test, other.test]", &format!("[{}]", to("[{uri: {exact: /a/b}}]", "t")));
    assert_eq!(
        message(&yaml, "RuleShadowed"),
        "never takes a request for host `h.test`: spec.http[0].match[0] of VirtualService default/a comes first and takes \
         all of them; move the narrower rule up or remove it"
    );
}

#[test]
fn rules_behind_a_catch_all_are_not_even_emitted() {
    check(
        &declared("[h.test]", &format!("[{}, {}]", to("[]", "t"), to("[{uri: {exact: /a}}]", "t"))),
        &["Warning RuleShadowed VirtualService default/a spec.http[1]"],
    );
}

#[test]
fn prefixes_that_end_inside_a_segment_are_pointed_out() {
    let yaml = declared(
        "['*']",
        &format!(
            "[{}, {}]",
            to("[{uri: {prefix: /foo}}, {uri: {prefix: /bar/}}]", "t"),
            to("[{uri: {prefix: /}}]", "t")
        ),
    );
    check(&yaml, &["Warning PrefixWithoutSlash VirtualService default/a spec.http[0].match[0].uri.prefix"]);
    assert_eq!(
        message(&yaml, "PrefixWithoutSlash"),
        "prefix `/foo` also takes `/foobar`, as prefixes are plain text; if only `/foo` and what is below it is meant, \
         match exact `/foo` and prefix `/foo/`"
    );
}

#[test]
fn services_of_the_mesh_alone_are_left_in_peace() {
    let yaml = declared("[h.test]", &format!("[{}]", to("[{uri: {prefix: /foo}}]", "nowhere")))
        .replace("gateways: [edge]", "gateways: [mesh]");
    check(&yaml, &[]);
}
