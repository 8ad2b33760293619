//! How long the bodies of requests may be.

use super::*;

/// A policy of the namespace `default`.
fn policy(name: &str, targets: &str, bytes: u64) -> String {
    format!(
        "
---
apiVersion: fairway.dev/v1
kind: BackendPolicy
metadata: {{name: {name}, namespace: default}}
spec: {{targetRefs: {targets}, requestBody: {{maxBytes: {bytes}}}}}
"
    )
}

fn services() -> String {
    let destination = "route: [{destination: {host: a.test, port: {number: 80}}}]";
    let upload = format!("{{name: upload, match: [{{uri: {{exact: /upload}}}}], {destination}}}");
    virtual_service("a", 0, "['a.test']", &format!("[{upload}, {{{destination}}}]"))
        + &virtual_service("b", 1, "['b.test']", &format!("[{{{destination}}}]"))
}

fn limit(edge: &Edge, request: &str) -> Option<u64> {
    match &edge.route(80, request).action {
        Action::Forward(forward) => forward.max_request_body,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_closest_policy_holds_and_then_the_meshs_default() {
    let mesh = "
---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {maxRequestBodyBytes: 1000}
";
    let gateway = policy("gateway", "[{kind: Gateway, name: edge}]", 100);
    let service = policy("service", "[{kind: VirtualService, name: a}]", 50);
    let rule = policy("rule", "[{kind: VirtualService, name: a, sectionName: upload}]", 5000);
    let same = policy("same", "[{kind: VirtualService, name: a}]", 40);
    let free = policy("free", "[{kind: VirtualService, name: b}]", 0);
    let twice = policy("twice", "[{kind: Gateway, name: edge}, {kind: VirtualService, name: b}]", 7);
    let requests = ["GET a.test /upload", "GET a.test /", "GET b.test /"];
    for (policies, want) in [
        (String::new(), [None, None, None]),
        (mesh.to_owned(), [Some(1000), Some(1000), Some(1000)]),
        (gateway.clone() + mesh, [Some(100), Some(100), Some(100)]),
        (gateway.clone() + &service, [Some(50), Some(50), Some(100)]),
        (gateway.clone() + &service + &rule, [Some(5000), Some(50), Some(100)]),
        (service + &same + &free + mesh, [Some(40), Some(40), None]),
        (gateway + &twice, [Some(7), Some(7), Some(7)]),
    ] {
        let edge = edge(&(services() + &policies));
        assert_eq!(requests.map(|request| limit(&edge, request)), want, "{policies}");
    }
}

#[test]
fn what_is_not_there_is_said() {
    let lost = policy("p", "[{kind: VirtualService, name: x}, {kind: VirtualService, name: a, sectionName: x}]", 1);
    assert_eq!(
        edge(&(services() + &lost))
            .finding_lines()
            .into_iter()
            .filter(|line| line.contains("Policy"))
            .collect::<Vec<_>>(),
        [
            "Unresolved TargetNotFound BackendPolicy default/p spec.targetRefs[0]",
            "Unresolved SectionNotFound BackendPolicy default/p spec.targetRefs[1].sectionName",
        ]
    );
}
