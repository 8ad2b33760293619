//! Virtual hosts for services.

use std::collections::HashSet;
use std::sync::Arc;

use super::domains;
use super::egress::{Visible, addresses};
use super::pass::{Leads, Pass, Plain};
use super::rules::MeshRules;
use crate::compile::targets::{Target, TargetPort};
use crate::table::{HostPattern, HttpRoutes, Route, VirtualHost};

/// The route configuration of a place: the hosts of its services, each with the port that they are called on, `others`
/// that only VirtualServices know, and `unknown` for all that are left. No domain stands twice: whole names go before
/// short forms, and of equal ones the older service's.
pub(super) fn of_place(
    pass: &mut Pass<'_>,
    name: &Arc<str>,
    services: &[(&Visible<'_>, u16)],
    others: &[(HostPattern, u16)],
    rules: &MeshRules<'_>,
    unknown: &Arc<VirtualHost>,
) -> Arc<HttpRoutes> {
    let viewer = pass.context.proxy.namespace.clone();
    let (mut whole, mut short) = (Vec::new(), Vec::new());
    for (service, number) in services {
        let host = of_service(pass, name, service, *number, rules);
        short.extend(domains::forms(&service.host, &viewer).into_iter().map(|form| (form, host.clone())));
        for port in service.ports.iter().filter(|port| port.number == *number) {
            let (addresses, _) = addresses(port);
            short.extend(addresses.into_iter().map(|address| (address.to_string(), host.clone())));
        }
        whole.push((service.pattern.clone(), host));
    }
    for (pattern, number) in others {
        let Some(host) = of_host(pass, name, pattern, *number, rules) else { continue };
        short.extend(domains::forms(pattern.as_str(), &viewer).into_iter().map(|form| (form, host.clone())));
        whole.push((pattern.clone(), host));
    }
    let short = short.into_iter().map(|(form, host)| (HostPattern::new(&form), host));
    let any = [(HostPattern::new("*"), unknown.clone())];
    let mut taken = HashSet::new();
    let hosts = whole.into_iter().chain(short).chain(any).filter(|(domain, _)| taken.insert(domain.clone()));
    let hosts = hosts.collect();
    pass.http(name, hosts)
}

/// The host of a service: the routes of its VirtualService, else one to the service.
pub(super) fn of_service(
    pass: &mut Pass<'_>,
    name: &Arc<str>,
    service: &Visible<'_>,
    number: u16,
    rules: &MeshRules<'_>,
) -> Arc<VirtualHost> {
    if let Some(host) = of_host(pass, name, &service.pattern, number, rules) {
        return host;
    }
    let cluster = pass.cluster(destination(service, number));
    let leads = Leads::To { cluster, retries: true, max_request_body: pass.context.mesh.max_request_body() };
    let origin = service.ports.iter().find(|port| port.number == number).map(|port| port.key.clone());
    let route = origin.map(|origin| pass.plain(Plain { name: "default", origin, leads }));
    pass.host(name, &service.pattern, route.into_iter().collect())
}

/// A host as the VirtualServices with the most specific host for it have it: the oldest that has rules for the port.
pub(super) fn of_host(
    pass: &mut Pass<'_>,
    name: &Arc<str>,
    host: &HostPattern,
    number: u16,
    rules: &MeshRules<'_>,
) -> Option<Arc<VirtualHost>> {
    let routes = rules.of_host(host).find_map(|service| {
        let compiled = pass.virtual_service(service, number);
        let routes: Vec<Arc<Route>> = compiled.routes().map(|route| route.route.clone()).collect();
        (!routes.is_empty()).then_some(routes)
    })?;
    Some(pass.host(name, host, routes))
}

/// A service as a destination.
pub(super) fn destination(service: &Visible<'_>, port: u16) -> Target {
    Target {
        host: service.host.clone(),
        short: false,
        port: TargetPort::Number(port),
        subset: None,
        namespace: service.service.namespace.clone(),
    }
}
