//! Header operations at both levels: who wins.

use super::*;
use crate::table::headers::{Fact, FormatContext, HeaderOps};

struct NoContext(Headers);

impl FormatContext for NoContext {
    fn method(&self) -> &'static str {
        "GET"
    }
    fn scheme(&self) -> &'static str {
        "http"
    }
    fn authority(&self) -> &'static str {
        "h"
    }
    fn path_and_query(&self) -> &'static str {
        "/"
    }
    fn request_headers(&self) -> &Headers {
        &self.0
    }
    fn response_headers(&self) -> Option<&Headers> {
        None
    }
    fn append_fact(&self, _: Fact, _: &mut Vec<u8>) {}
}

/// The values of `x` after the evaluations.
fn after(evaluations: &[HeaderOps]) -> String {
    let mut headers = Headers::new();
    for ops in evaluations {
        let context = NoContext(headers.clone());
        ops.evaluate(&context).apply(&mut headers);
    }
    headers.get_all("x").map(|value| value.to_str().expect("text")).collect::<Vec<_>>().join(", ")
}

fn rule(route_ops: &str, destination_ops: &str, several: bool) -> String {
    let destination =
        format!("{{destination: {{host: a.test, port: {{number: 80}}}}, weight: 1, headers: {destination_ops}}}");
    let second = if several { ", {destination: {host: b.test, port: {number: 80}}, weight: 1}" } else { "" };
    virtual_service("a", 0, "['*']", &format!("[{{headers: {route_ops}, route: [{destination}{second}]}}]"))
}

#[test]
fn the_winner_depends_on_the_number_of_destinations() {
    for (route, destination, single, several) in [
        ("set: {x: r}", "set: {x: d}", "d", "r"),
        ("add: {x: r}", "set: {x: d}", "d, r", "d, r"),
        ("set: {x: r}", "add: {x: d}", "r, d", "r"),
        ("set: {x: r}", "remove: [x]", "r", "r"),
        ("remove: [x]", "set: {x: d}", "d", ""),
        ("set: {X: '1', x: '2'}", "{}", "2", "2"),
    ] {
        for (many, want) in [(false, single), (true, several)] {
            for direction in ["request", "response"] {
                let ops = |ops: &str| {
                    format!(
                        "{{{direction}: {{{}}}}}",
                        ops.trim_matches(['{', '}']).to_owned()
                            + if ops.contains('{') && ops != "{}" { "}" } else { "" }
                    )
                };
                let edge = edge(&rule(&ops(route), &ops(destination), many));
                let Action::Forward(forward) = &edge.route(80, "GET h /").action else { panic!("forward") };
                let destination_ops = &forward.destinations[0];
                let evaluations = if direction == "request" {
                    &destination_ops.request_headers
                } else {
                    &destination_ops.response_headers
                };
                assert_eq!(after(evaluations), want, "{route} {destination} several: {many} {direction}");
            }
        }
    }
}

#[test]
fn a_destination_of_weight_0_still_makes_them_several() {
    let yaml = rule("{request: {set: {x: r}}}", "{request: {set: {x: d}}}", true).replace("weight: 1}]", "weight: 0}]");
    let edge = edge(&yaml);
    let Action::Forward(forward) = &edge.route(80, "GET h /").action else { panic!("forward") };
    assert_eq!(forward.destinations.len(), 1);
    assert_eq!(after(&forward.destinations[0].request_headers), "r");
}

#[test]
fn the_authority_is_rewritten_in_order_of_precedence() {
    let set = |value: &str| format!("{{request: {{set: {{Host: {value}}}}}}}");
    let cases = [
        ("{}".to_owned(), "{}".to_owned(), "", None),
        ("{}".to_owned(), set("d"), "", Some("d")),
        (set("r"), set("d"), "", Some("r")),
        (set("r"), set("d"), "rewrite: {authority: w}, ", Some("w")),
        ("{request: {add: {':authority': r}}}".to_owned(), "{}".to_owned(), "", Some("r")),
        ("{request: {add: {host: a}, set: {HOST: s}}}".to_owned(), "{}".to_owned(), "", Some("s")),
        // Nobody can remove it, or set it on a response.
        ("{request: {remove: [host]}, response: {set: {host: x}}}".to_owned(), "{}".to_owned(), "", None),
    ];
    for (route, destination, rewrite, want) in cases {
        for several in [false, true] {
            let yaml = rule(&route, &destination, several).replace("[{headers:", &format!("[{{{rewrite}headers:"));
            let edge = edge(&yaml);
            let Action::Forward(forward) = &edge.route(80, "GET h /").action else { panic!("forward") };
            let first = &forward.destinations[0];
            let authority = first.authority.as_ref().and_then(|a| a.as_static()).map(|a| a.to_str().expect("text"));
            assert_eq!(authority, want, "{route} {destination} several: {several}");
            assert!(first.request_headers.is_empty() && first.response_headers.is_empty());
        }
    }
}

#[test]
fn replies_of_the_proxys_own_get_the_routes_response_operations() {
    for (several, want) in [(false, "d"), (true, "r")] {
        let edge = edge(&rule("{response: {set: {x: r}}}", "{response: {set: {x: d}}}", several));
        let Action::Forward(forward) = &edge.route(80, "GET h /").action else { panic!("forward") };
        assert_eq!(after(std::slice::from_ref(&forward.local_reply_headers)), want);
    }
}
