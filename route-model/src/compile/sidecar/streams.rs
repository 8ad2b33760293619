//! Routes of connections that are not HTTP.

use std::sync::Arc;

use super::egress::Visible;
use super::http::destination;
use super::pass::Pass;
use super::rules::{MeshRules, MeshService};
use crate::compile::finding::{Finding, Severity};
use crate::compile::matches::MatchScope;
use crate::compile::names::MESH;
use crate::compile::rule::RuleScope;
use crate::compile::services::ServedPort;
use crate::compile::streams::{Conditions, planned_destinations, tcp_conditions, tls_conditions};
use crate::field::FieldPath;
use crate::kinds::value::StringMap;
use crate::kinds::virtual_service::RouteDestination;
use crate::meta::ResourceKey;
use crate::table::stream::{StreamDestination, StreamOrigin, StreamRoutes, StreamRule, Subnet};
use crate::table::{ClusterId, HostPattern, Speaks};

/// A port of a service whose connections are to be routed.
pub(super) struct Wanted<'v, 'a> {
    pub(super) service: &'v Visible<'a>,
    pub(super) port: ServedPort<'a>,
    pub(super) speaks: Speaks,
    /// Only connections to these addresses; empty: all that get here.
    pub(super) subnets: Vec<Subnet>,
}

/// A rule that is there because of a resource, and takes all.
pub(super) fn unconditional(origin: &ResourceKey, cluster: ClusterId) -> StreamRule {
    StreamRule {
        origin: StreamOrigin { virtual_service: origin.clone(), tls: false, rule: 0, match_index: None },
        sni: Box::default(),
        destination_subnets: Box::default(),
        source_subnet: None,
        destinations: Box::new([StreamDestination { cluster, weight: 1 }]),
        total_weight: 1,
    }
}

/// The routes of an address that is one service's alone.
pub(super) fn of_service(
    pass: &mut Pass<'_>,
    name: &Arc<str>,
    wanted: &Wanted<'_, '_>,
    rules: &MeshRules<'_>,
) -> StreamRoutes {
    let found = rules_of(pass, wanted, rules, false);
    put_together(name, found, None)
}

/// The routes of a place that services share: by server name or network, and what is left to the oldest that takes all,
/// or else to where it was going.
pub(super) fn of_place(
    pass: &mut Pass<'_>,
    name: &Arc<str>,
    wanted: &[Wanted<'_, '_>],
    rules: &MeshRules<'_>,
    unknown: Option<&StreamRule>,
) -> StreamRoutes {
    let (mut narrow, mut wide) = (Vec::new(), Vec::new());
    let mut winner: Option<&Wanted<'_, '_>> = None;
    for wanted in wanted {
        let (own, mut all): (Vec<_>, Vec<_>) =
            rules_of(pass, wanted, rules, true).into_iter().partition(|rule| !takes_all(rule));
        narrow.extend(own);
        if all.is_empty() {
            continue;
        }
        match winner {
            None => {
                winner = Some(wanted);
                wide.append(&mut all);
            }
            Some(winner) => pass.findings.push(Finding {
                resource: wanted.port.key.clone(),
                path: FieldPath::new("spec").field("ports"),
                severity: Severity::Warning,
                reason: "PortTaken",
                message: format!(
                    "`{}` of {} is older and takes every connection to port {}, as neither has an address; give them \
                     addresses, or ports of their own",
                    winner.service.host, winner.port.key, wanted.port.number
                ),
            }),
        }
    }
    narrow.append(&mut wide);
    put_together(name, narrow, unknown)
}

fn takes_all(rule: &StreamRule) -> bool {
    rule.sni.is_empty() && rule.destination_subnets.is_empty() && rule.source_subnet.is_none()
}

/// Where some rules go by server names, the others take every name, and none.
fn put_together(name: &Arc<str>, mut rules: Vec<StreamRule>, unknown: Option<&StreamRule>) -> StreamRoutes {
    if !rules.iter().any(takes_all) {
        rules.extend(unknown.cloned());
    }
    let named = rules.iter().any(|rule| !rule.sni.is_empty());
    if named {
        for rule in rules.iter_mut().filter(|rule| rule.sni.is_empty()) {
            rule.sni = Box::new([HostPattern::new("*")]);
        }
    }
    let rules = rules.into_iter().map(Arc::new).collect();
    if named { StreamRoutes::tls(name.clone(), rules) } else { StreamRoutes::tcp(name.clone(), rules) }
}

/// The rules of one service: those of its VirtualServices, oldest first, and where these leave connections over the
/// service itself. `by_name`: its name is all that tells it from others on the port.
fn rules_of(pass: &mut Pass<'_>, wanted: &Wanted<'_, '_>, rules: &MeshRules<'_>, by_name: bool) -> Vec<StreamRule> {
    let (mut found, mut ended) = (Vec::new(), false);
    let is_tls = wanted.speaks == Speaks::Tls;
    'all: for service in rules.touching(&wanted.service.pattern) {
        if is_tls {
            for (index, rule) in service.spec.tls.iter().enumerate() {
                let admitted = rule.r#match.iter().enumerate().filter(|(_, entry)| {
                    let labels = &entry.source_labels;
                    admits(pass, wanted, service, *entry.port, &entry.gateways, labels, &entry.source_namespace)
                });
                let conditions: Vec<_> = admitted.map(|(at, entry)| tls_conditions(at, entry)).collect();
                add(pass, wanted, service, index, conditions, &rule.route, &mut found);
            }
            continue;
        }
        for (index, rule) in service.spec.tcp.iter().enumerate() {
            let admitted = rule.r#match.iter().enumerate().filter(|(_, entry)| {
                let labels = &entry.source_labels;
                admits(pass, wanted, service, *entry.port, &entry.gateways, labels, &entry.source_namespace)
            });
            let mut conditions: Vec<_> = admitted.map(|(at, entry)| tcp_conditions(at, entry)).collect();
            if rule.r#match.is_empty() {
                conditions.push(Conditions::default());
            }
            let ends = conditions.iter().any(Conditions::is_empty);
            ended = add(pass, wanted, service, index, conditions, &rule.route, &mut found) && ends;
            if ended {
                break 'all;
            }
        }
    }
    let left_over = if is_tls { found.is_empty() } else { !ended };
    if left_over {
        let cluster = pass.cluster(destination(wanted.service, wanted.port.number));
        let sni = if is_tls && by_name { Box::from([wanted.service.pattern.clone()]) } else { Box::default() };
        let destination_subnets = wanted.subnets.clone().into();
        found.push(StreamRule { sni, destination_subnets, ..unconditional(wanted.port.key, cluster) });
    }
    found
}

/// Whether a match entry is for this port and proxy.
fn admits(
    pass: &Pass<'_>,
    wanted: &Wanted<'_, '_>,
    service: &MeshService<'_>,
    port: u32,
    gateways: &[String],
    source_labels: &StringMap,
    source_namespace: &str,
) -> bool {
    let scope = MatchScope { gateway: MESH, port: wanted.port.number, proxy: pass.context.proxy };
    scope.admits_connection(port, gateways, source_labels, source_namespace, &service.resource.key.namespace)
}

/// Adds a rule for each of its match entries; whether it can be in force.
fn add(
    pass: &mut Pass<'_>,
    wanted: &Wanted<'_, '_>,
    service: &MeshService<'_>,
    index: usize,
    conditions: Vec<Conditions>,
    route: &[RouteDestination],
    rules: &mut Vec<StreamRule>,
) -> bool {
    if conditions.is_empty() {
        return false;
    }
    let key = &service.resource.key;
    let matches = MatchScope { gateway: MESH, port: wanted.port.number, proxy: pass.context.proxy };
    let scope = RuleScope { matches, tls: false, gateway: &None, max_request_body: None };
    // Validation keeps rules from being stored that lead nowhere.
    let Ok(planned) = planned_destinations(route, &key.namespace, &scope) else { return false };
    let destinations =
        planned.into_iter().map(|(_, target, weight)| StreamDestination { cluster: pass.cluster(target), weight });
    let destinations: Box<[_]> = destinations.collect();
    let total_weight = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    for Conditions { match_index, sni, destination_subnets, source_subnet } in conditions {
        let tls = wanted.speaks == Speaks::Tls;
        let origin = StreamOrigin { virtual_service: key.clone(), tls, rule: index, match_index };
        let destination_subnets =
            if destination_subnets.is_empty() { wanted.subnets.clone().into() } else { destination_subnets };
        let destinations = destinations.clone();
        rules.push(StreamRule { origin, sni, destination_subnets, source_subnet, destinations, total_weight });
    }
    true
}
