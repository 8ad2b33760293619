//! Compiling: 10,000 VirtualServices within a second, an edit within 10 ms among 10,000 hosts and within 30 ms among
//! 10,000 routes of one host.

mod support;

use std::sync::Arc;
use std::time::Duration;

use route_model::compile::{Changed, Compiler};
use route_model::kind::Kind;
use route_model::resource::{Resource, ResourceSet};
use serde_json::json;
use support::{
    best_of, finish, gateway, many_hosts, many_hosts_service, path_rules, report, resource, rule, scope, service,
    timed, virtual_service,
};

const COUNT: usize = 10_000;
const FULL: Duration = Duration::from_secs(1);
const EDIT_OF_HOSTS: Duration = Duration::from_millis(10);
const EDIT_OF_ROUTES: Duration = Duration::from_millis(30);

fn main() {
    let mut ok = true;
    let hosts = many_hosts(COUNT);
    let full = best_of(3, || timed(|| Compiler::new(scope()).update(&hosts, &Changed::Everything)).0);
    ok &= report("compile 10,000 VirtualServices from scratch", full, FULL);

    let rule_for = |n: usize, round: usize| many_hosts_service(n, if round.is_multiple_of(2) { "/new/" } else { "/" });
    let subset = |round: usize| {
        let labels = json!({"version": format!("v{round}")});
        resource(
            Kind::DestinationRule,
            "r",
            &json!({"host": "s7.example.com", "subsets": [{"name": "v1", "labels": labels}]}),
        )
    };
    ok &= edits("edit a VirtualService of 10,000", &hosts, EDIT_OF_HOSTS, |round| rule_for(5_000, round));
    ok &= edits("add a VirtualService with a host to 10,000", &hosts, EDIT_OF_HOSTS, |round| {
        many_hosts_service(COUNT + round, "/")
    });
    ok &=
        edits("edit the endpoints of a service", &hosts, EDIT_OF_HOSTS, |round| service(7, &format!("10.0.1.{round}")));
    ok &= edits("edit a DestinationRule", &hosts, EDIT_OF_HOSTS, subset);
    ok &= edits("edit a Gateway that 10,000 hosts hang on", &hosts, EDIT_OF_HOSTS, |round| {
        let server = |port: usize| json!({"port": {"number": port, "name": format!("p{port}"), "protocol": "HTTP"}, "hosts": ["*.example"]});
        let servers = json!([{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}, server(8_000 + round)]);
        resource(Kind::Gateway, "edge", &json!({"selector": {"istio": "ingressgateway"}, "servers": servers}))
    });

    let services = || (0..100).map(|n| service(n, "10.0.0.1"));
    let one_of_many_rules = |round: usize| {
        let mut rules = path_rules(COUNT);
        rules[COUNT / 2] = rule(&json!({"exact": format!("/edited/{round}")}), 0);
        virtual_service("v", "shop.example.com", &rules)
    };
    let one: ResourceSet = [gateway(), one_of_many_rules(0)].into_iter().chain(services()).collect();
    ok &= edits("edit one of 10,000 rules of one VirtualService", &one, EDIT_OF_ROUTES, |round| {
        one_of_many_rules(round + 1)
    });
    ok &= edits("insert a rule before 10,000 of one VirtualService", &one, EDIT_OF_ROUTES, |round| {
        let first = rule(&json!({"exact": format!("/first/{round}")}), 0);
        let rules: Vec<_> = std::iter::once(first).chain(path_rules(COUNT)).collect();
        virtual_service("v", "shop.example.com", &rules)
    });

    let part = |n: usize, round: usize| {
        let mut rules = path_rules(COUNT)[n * 100..(n + 1) * 100].to_vec();
        rules[50] = rule(&json!({"exact": format!("/edited/{n}/{round}")}), 0);
        virtual_service(&format!("v{n:03}"), "shop.example.com", &rules)
    };
    let many: ResourceSet = std::iter::once(gateway()).chain((0..100).map(|n| part(n, 0))).chain(services()).collect();
    ok &= edits("edit one of 100 VirtualServices with 10,000 routes of one host", &many, EDIT_OF_ROUTES, |round| {
        part(50, round + 1)
    });
    finish(ok);
}

/// Times updates after one edit each.
fn edits(what: &str, set: &ResourceSet, budget: Duration, edit: impl Fn(usize) -> Arc<Resource>) -> bool {
    let mut set = set.clone();
    let mut compiler = Compiler::new(scope());
    let mut last = compiler.update(&set, &Changed::Everything);
    let mut round = 0;
    let best = best_of(9, || {
        let edited = edit(round);
        round += 1;
        let key = edited.key.clone();
        set.insert(edited);
        let (time, compiled) = timed(|| compiler.update(&set, &Changed::Keys(vec![key])));
        // Dropping the table before is the proxy's affair.
        last = compiled;
        time
    });
    assert_eq!(last.table.listeners[0].port, 80);
    report(what, best, budget)
}
