//! Listeners out of merged servers, their routes and their TLS terms, kept from table to table.

use std::collections::HashMap;
use std::sync::Arc;

use super::ProxyScope;
use super::finding::Finding;
use super::gateway::{Plan, PlannedListener, RouteGroup, ServerKind, Servers};
use super::tls;
use crate::kinds::gateway::Gateway;
use crate::resource::ResourceSet;
use crate::table::tls::TlsTerms;
use crate::table::{
    HostIndex, HttpRoutes, Listener, ListenerProtocol, PassthroughServer, ServerRef, StreamRoutes, TlsChoice,
    TlsListener, TlsRoutes, TlsServer,
};

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
        for server in plan.all_groups().flat_map(|group| &group.servers).filter(|server| server.kind.terminates()) {
            let reference = &server.server;
            let spec = plan.gateways.get(&server.gateway).and_then(|resource| resource.spec::<Gateway>());
            let Some(settings) = spec.and_then(|spec| (*spec.servers).get(reference.index)?.tls.as_ref()) else {
                continue;
            };
            let mut terms = tls::terms(settings, reference, set, proxy, &mut findings);
            terms.http = server.kind == ServerKind::Https;
            let known = before.get(&(reference.gateway.clone(), reference.index)).filter(|known| ***known == terms);
            let terms = known.cloned().unwrap_or_else(|| Arc::new(terms));
            self.terms.push((reference.clone(), terms));
        }
        findings
    }

    /// Puts the listeners of a plan together; those that came out as they were stay the same allocation.
    pub(super) fn update(
        &mut self,
        plan: &Plan,
        routes: impl Fn(&RouteGroup) -> Option<Arc<HttpRoutes>>,
        streams: impl Fn(&RouteGroup) -> Option<Arc<StreamRoutes>>,
    ) {
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
            let Some(protocol) = protocol(planned, &routes, &streams, &terms) else { continue };
            let groups = match &planned.servers {
                Servers::Http(group) | Servers::Tcp(group) => vec![group.clone()],
                Servers::Tls(groups) => groups.clone(),
            };
            let same = known
                .get(&(planned.port, planned.bind))
                .filter(|(listener, before)| *before == groups && is_same(&listener.protocol, &protocol))
                .filter(|(listener, _)| listener.proxy_protocol == planned.topology.proxy_protocol);
            let listener = match same {
                Some((listener, _)) => listener.clone(),
                None => Arc::new(Listener {
                    bind: planned.bind,
                    port: planned.port,
                    servers: groups.iter().flat_map(|group| &group.servers).map(|s| s.server.clone()).collect(),
                    proxy_protocol: planned.topology.proxy_protocol,
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
    streams: &impl Fn(&RouteGroup) -> Option<Arc<StreamRoutes>>,
    terms: &impl Fn(&ServerRef) -> Option<Arc<TlsTerms>>,
) -> Option<ListenerProtocol> {
    let groups = match &planned.servers {
        Servers::Http(group) => return Some(ListenerProtocol::Http(routes(group)?)),
        Servers::Tcp(group) => return Some(ListenerProtocol::Tcp(streams(group)?)),
        Servers::Tls(groups) => groups,
    };
    let (mut servers, mut passthrough, mut by_sni) = (Vec::with_capacity(groups.len()), Vec::new(), Vec::new());
    for group in groups {
        let planned = group.servers.first()?;
        let server = planned.server.clone();
        let choice = if planned.kind == ServerKind::Passthrough {
            passthrough.push(Arc::new(PassthroughServer { server, routes: streams(group)? }));
            TlsChoice::PassThrough(passthrough.len() as u32 - 1)
        } else {
            let terms = terms(&server)?;
            let routes = match planned.kind {
                ServerKind::Https => TlsRoutes::Http(routes(group)?),
                _ => TlsRoutes::Tcp(streams(group)?),
            };
            servers.push(Arc::new(TlsServer { server, terms, routes }));
            TlsChoice::Terminate(servers.len() as u32 - 1)
        };
        by_sni.extend(planned.hosts.iter().map(|host| (host.pattern.clone(), choice)));
    }
    let by_sni = HostIndex::new(by_sni);
    Some(ListenerProtocol::Tls(Arc::new(TlsListener { servers, passthrough, by_sni })))
}

/// Whether two listeners made from the same servers serve the same.
fn is_same(a: &ListenerProtocol, b: &ListenerProtocol) -> bool {
    match (a, b) {
        (ListenerProtocol::Http(a), ListenerProtocol::Http(b)) => Arc::ptr_eq(a, b),
        (ListenerProtocol::Tcp(a), ListenerProtocol::Tcp(b)) => Arc::ptr_eq(a, b),
        (ListenerProtocol::Tls(a), ListenerProtocol::Tls(b)) => {
            let routes = |a: &TlsServer, b: &TlsServer| match (&a.routes, &b.routes) {
                (TlsRoutes::Http(a), TlsRoutes::Http(b)) => Arc::ptr_eq(a, b),
                (TlsRoutes::Tcp(a), TlsRoutes::Tcp(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            let mut servers = a.servers.iter().zip(&b.servers);
            let mut passthrough = a.passthrough.iter().zip(&b.passthrough);
            a.servers.len() == b.servers.len()
                && a.passthrough.len() == b.passthrough.len()
                && servers.all(|(a, b)| Arc::ptr_eq(&a.terms, &b.terms) && routes(a, b))
                && passthrough.all(|(a, b)| Arc::ptr_eq(&a.routes, &b.routes))
        }
        _ => false,
    }
}
