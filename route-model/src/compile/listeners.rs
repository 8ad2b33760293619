//! Listeners out of merged servers, their routes and their TLS terms, kept from table to table.

use std::collections::HashMap;
use std::sync::Arc;

use super::ProxyScope;
use super::finding::Finding;
use super::gateway::{Plan, PlannedListener, RouteGroup, Servers};
use super::tls;
use crate::kinds::gateway::Gateway;
use crate::resource::ResourceSet;
use crate::table::tls::TlsTerms;
use crate::table::{HostIndex, HttpRoutes, Listener, ListenerProtocol, ServerRef, TlsListener, TlsServer};

/// The listeners of the last table.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    list: Vec<Arc<Listener>>,
    /// The servers each was made from.
    groups: Vec<Vec<RouteGroup>>,
    /// The TLS terms of every server, by Gateway and index.
    terms: Vec<(ServerRef, Arc<TlsTerms>)>,
}

impl Listeners {
    pub(super) fn list(&self) -> &[Arc<Listener>] {
        &self.list
    }

    /// Reads the TLS terms of all servers again. Equal terms stay the same allocation.
    pub(super) fn read_terms(&mut self, plan: &Plan, set: &ResourceSet, proxy: &ProxyScope) -> Vec<Finding> {
        let mut findings = Vec::new();
        let before: HashMap<_, _> =
            self.terms.drain(..).map(|(server, terms)| ((server.gateway, server.index), terms)).collect();
        for server in plan.groups().flat_map(|group| &group.servers).filter(|server| server.tls) {
            let reference = &server.server;
            let spec = plan.gateways.get(&server.gateway).and_then(|resource| resource.spec::<Gateway>());
            let Some(settings) = spec.and_then(|spec| (*spec.servers).get(reference.index)?.tls.as_ref()) else {
                continue;
            };
            let terms = tls::terms(settings, reference, set, proxy, &mut findings);
            let known = before.get(&(reference.gateway.clone(), reference.index)).filter(|known| ***known == terms);
            let terms = known.cloned().unwrap_or_else(|| Arc::new(terms));
            self.terms.push((reference.clone(), terms));
        }
        findings
    }

    /// Puts the listeners of a plan together; those that came out as they were stay the same allocation.
    pub(super) fn update(&mut self, plan: &Plan, routes: impl Fn(&RouteGroup) -> Option<Arc<HttpRoutes>>) {
        let before = std::mem::take(&mut self.list);
        let groups_before = std::mem::take(&mut self.groups);
        let known: HashMap<_, _> = before
            .into_iter()
            .zip(groups_before)
            .map(|(listener, groups)| ((listener.port, listener.bind), (listener, groups)))
            .collect();
        let terms: HashMap<_, _> =
            self.terms.iter().map(|(server, terms)| ((&server.gateway, server.index), terms)).collect();
        let terms = |server: &ServerRef| terms.get(&(&server.gateway, server.index)).map(|terms| Arc::clone(terms));
        for planned in &plan.listeners {
            let Some(protocol) = protocol(planned, &routes, &terms) else { continue };
            let groups = match &planned.servers {
                Servers::Http(group) => vec![group.clone()],
                Servers::Tls(groups) => groups.clone(),
            };
            let same = known
                .get(&(planned.port, planned.bind))
                .filter(|(listener, before)| *before == groups && is_same(&listener.protocol, &protocol));
            let listener = match same {
                Some((listener, _)) => listener.clone(),
                None => Arc::new(Listener {
                    bind: planned.bind,
                    port: planned.port,
                    servers: groups.iter().flat_map(|group| &group.servers).map(|s| s.server.clone()).collect(),
                    protocol,
                }),
            };
            self.list.push(listener);
            self.groups.push(groups);
        }
    }
}

fn protocol(
    planned: &PlannedListener,
    routes: &impl Fn(&RouteGroup) -> Option<Arc<HttpRoutes>>,
    terms: &impl Fn(&ServerRef) -> Option<Arc<TlsTerms>>,
) -> Option<ListenerProtocol> {
    match &planned.servers {
        Servers::Http(group) => Some(ListenerProtocol::Http(routes(group)?)),
        Servers::Tls(groups) => {
            let mut servers = Vec::with_capacity(groups.len());
            let mut by_sni = Vec::new();
            for group in groups {
                let server = group.servers.first()?;
                let index = servers.len() as u32;
                by_sni.extend(server.hosts.iter().map(|host| (host.pattern.clone(), index)));
                servers.push(Arc::new(TlsServer {
                    server: server.server.clone(),
                    terms: terms(&server.server)?,
                    routes: routes(group)?,
                }));
            }
            Some(ListenerProtocol::Tls(Arc::new(TlsListener { servers, by_sni: HostIndex::new(by_sni) })))
        }
    }
}

/// Whether two listeners made from the same servers serve the same.
fn is_same(a: &ListenerProtocol, b: &ListenerProtocol) -> bool {
    match (a, b) {
        (ListenerProtocol::Http(a), ListenerProtocol::Http(b)) => Arc::ptr_eq(a, b),
        (ListenerProtocol::Tls(a), ListenerProtocol::Tls(b)) => {
            a.servers.len() == b.servers.len()
                && a.servers
                    .iter()
                    .zip(&b.servers)
                    .all(|(a, b)| Arc::ptr_eq(&a.terms, &b.terms) && Arc::ptr_eq(&a.routes, &b.routes))
        }
        _ => false,
    }
}
