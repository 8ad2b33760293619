//! From `tcp` and `tls` rules to the routes of servers that do not speak HTTP.
//!
//! Few VirtualServices have such rules, so all of them are compiled again when one changes or a Gateway does. Routes
//! that come out the same stay the same allocation.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::finding::{Finding, Severity};
use super::gateway::{Plan, PlannedServer, RouteGroup, ServerKind};
use super::incremental::{gateways, hosts};
use super::matches::MatchScope;
use super::names::{Seniority, is_visible};
use super::rule::{Refused, RuleScope, TargetField, target};
use super::server_hosts::ServerHosts;
use super::targets::{Target, Targets};
use super::virtual_service::Context;
use crate::field::FieldPath;
use crate::kinds::VirtualService;
use crate::kinds::virtual_service::{RouteDestination, TcpMatch, TlsMatch};
use crate::meta::ResourceKey;
use crate::resource::Resource;
use crate::table::stream::{StreamDestination, StreamOrigin, StreamRoutes, StreamRule, Subnet};
use crate::table::{ClusterId, HostPattern};

/// The routes of all servers of TCP and of TLS that is not HTTP.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// The VirtualServices with `tcp` or `tls` rules.
    services: BTreeSet<ResourceKey>,
    /// By the name of their group.
    routes: HashMap<Arc<str>, Arc<StreamRoutes>>,
    uses: Vec<StreamUse>,
    findings: Vec<Finding>,
}

/// That a rule names a target, and where.
#[derive(Debug)]
pub(super) struct StreamUse {
    pub(super) id: ClusterId,
    pub(super) resource: ResourceKey,
    pub(super) path: FieldPath,
    /// Its connections ask for a server by name.
    pub(super) named: bool,
}

impl Streams {
    /// Takes note of a VirtualService; whether routes have to be compiled again.
    pub(super) fn note(&mut self, key: &ResourceKey, new: Option<&Arc<Resource>>) -> bool {
        let spec = new.and_then(|resource| resource.spec::<VirtualService>());
        let concerned = spec.is_some_and(|spec| !spec.tls.is_empty() || !spec.tcp.is_empty());
        let was_concerned = self.services.remove(key);
        if concerned {
            self.services.insert(key.clone());
        }
        concerned || was_concerned
    }

    /// Compiles the routes of all servers; whether any came out different.
    pub(super) fn update(&mut self, plan: &Plan, context: &Context<'_>, targets: &mut Targets) -> bool {
        let uses_before = std::mem::take(&mut self.uses);
        let mut routes_before = std::mem::take(&mut self.routes);
        self.findings.clear();
        let mut services: Vec<_> = self.services.iter().filter_map(|key| Service::new(key, context)).collect();
        services.sort_by(|a, b| a.seniority.cmp(&b.seniority));
        let mut changed = false;
        for (group, server) in plan.streams() {
            let (uses, findings) = (&mut self.uses, &mut self.findings);
            let mut builder = Builder { server, context, targets: &mut *targets, uses, findings };
            let built = builder.routes(group, &services);
            let built = match routes_before.remove(&group.name) {
                Some(known) if known.is_same(&built) => known,
                _ => {
                    changed = true;
                    Arc::new(built)
                }
            };
            self.routes.insert(group.name.clone(), built);
        }
        // Only now, so that what is named still keeps its number.
        for old in uses_before {
            targets.release(old.id);
        }
        changed || !routes_before.is_empty()
    }

    pub(super) fn routes(&self, group: &RouteGroup) -> Option<Arc<StreamRoutes>> {
        self.routes.get(&group.name).cloned()
    }

    pub(super) fn uses(&self) -> &[StreamUse] {
        &self.uses
    }

    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// A VirtualService that this proxy may use.
struct Service<'a> {
    key: &'a ResourceKey,
    spec: &'a VirtualService,
    seniority: Seniority,
    hosts: Vec<HostPattern>,
    gateways: Vec<Arc<str>>,
}

impl<'a> Service<'a> {
    fn new(key: &'a ResourceKey, context: &Context<'a>) -> Option<Self> {
        let resource = context.set.get(key)?;
        let spec = resource.spec::<VirtualService>()?;
        let visible = is_visible(
            &spec.export_to,
            context.mesh.virtual_service_export_to(),
            &key.namespace,
            &context.proxy.namespace,
        );
        visible.then(|| Self {
            key,
            spec,
            seniority: Seniority::of(resource),
            hosts: hosts(spec, &key.namespace),
            gateways: gateways(spec, &key.namespace),
        })
    }

    fn is_attached(&self, server: &PlannedServer, hosts: &ServerHosts) -> bool {
        let mut found = Vec::new();
        self.gateways.contains(&server.gateway)
            && self.hosts.iter().any(|host| {
                hosts.intersect(host, &self.key.namespace, &mut found);
                !found.is_empty()
            })
    }
}

/// What is compiled into, for one server.
struct Builder<'a, 'b> {
    server: &'a PlannedServer,
    context: &'a Context<'a>,
    targets: &'b mut Targets,
    uses: &'b mut Vec<StreamUse>,
    findings: &'b mut Vec<Finding>,
}

/// One rule of `tls` or `tcp`.
#[derive(Clone, Copy)]
struct Place<'a> {
    service: &'a Service<'a>,
    tls: bool,
    rule: usize,
}

/// What a match entry asks for at run time.
#[derive(Default)]
pub(super) struct Conditions {
    pub(super) match_index: Option<usize>,
    pub(super) sni: Box<[HostPattern]>,
    pub(super) destination_subnets: Box<[Subnet]>,
    pub(super) source_subnet: Option<Subnet>,
}

impl Conditions {
    /// Whether every connection meets them.
    pub(super) fn is_empty(&self) -> bool {
        self.sni.is_empty() && self.destination_subnets.is_empty() && self.source_subnet.is_none()
    }
}

/// The destinations that connections can go to, with their index and weight; of several those of weight 0 get none.
pub(super) fn planned_destinations(
    route: &[RouteDestination],
    namespace: &str,
    scope: &RuleScope<'_>,
) -> Result<Vec<(usize, Target, u32)>, Refused> {
    let single = route.len() == 1;
    let mut planned = Vec::with_capacity(route.len());
    for (index, entry) in route.iter().enumerate() {
        let weight = if single { 1 } else { (*entry.weight).max(0) as u32 };
        if weight > 0 {
            planned.push((
                index,
                target(entry.destination.as_ref(), TargetField::Route(index), namespace, scope)?,
                weight,
            ));
        }
    }
    if planned.is_empty() {
        return Err(Refused::new("route", "NoDestination", "the rule has no destination with a weight above 0"));
    }
    Ok(planned)
}

impl Builder<'_, '_> {
    fn routes(&mut self, group: &RouteGroup, services: &[Service<'_>]) -> StreamRoutes {
        let hosts = ServerHosts::new(&self.server.hosts);
        let attached = services.iter().filter(|service| service.is_attached(self.server, &hosts));
        if self.server.kind == ServerKind::Passthrough {
            let mut rules = Vec::new();
            for service in attached {
                for (rule, tls) in service.spec.tls.iter().enumerate() {
                    let admitted = tls.r#match.iter().enumerate().filter(|(_, entry)| self.admits_tls(service, entry));
                    let conditions: Vec<_> = admitted.map(|(index, entry)| tls_conditions(index, entry)).collect();
                    let place = Place { service, tls: true, rule };
                    self.add(place, conditions, &tls.route, &mut rules);
                }
            }
            return StreamRoutes::tls(group.name.clone(), rules);
        }
        let mut winner: Option<&Service<'_>> = None;
        let mut rules = Vec::new();
        for service in attached {
            let mut own = Vec::new();
            for (rule, tcp) in service.spec.tcp.iter().enumerate() {
                let admitted = tcp.r#match.iter().enumerate().filter(|(_, entry)| self.admits_tcp(service, entry));
                let mut conditions: Vec<_> = admitted.map(|(index, entry)| tcp_conditions(index, entry)).collect();
                if tcp.r#match.is_empty() {
                    conditions.push(Conditions::default());
                }
                if let (false, Some(winner)) = (conditions.is_empty(), winner) {
                    self.taken(Place { service, tls: false, rule }, winner);
                    continue;
                }
                self.add(Place { service, tls: false, rule }, conditions, &tcp.route, &mut own);
            }
            if winner.is_none() && !own.is_empty() {
                winner = Some(service);
                rules = own;
            }
        }
        StreamRoutes::tcp(group.name.clone(), rules)
    }

    fn scope(&self) -> MatchScope<'_> {
        MatchScope { gateway: &self.server.gateway, port: self.server.port, proxy: self.context.proxy }
    }

    fn admits_tls(&self, service: &Service<'_>, entry: &TlsMatch) -> bool {
        let TlsMatch { port, gateways, source_labels, source_namespace, .. } = entry;
        self.scope().admits_connection(**port, gateways, source_labels, source_namespace, &service.key.namespace)
    }

    fn admits_tcp(&self, service: &Service<'_>, entry: &TcpMatch) -> bool {
        let TcpMatch { port, gateways, source_labels, source_namespace, .. } = entry;
        self.scope().admits_connection(**port, gateways, source_labels, source_namespace, &service.key.namespace)
    }

    /// Adds a rule for each of its match entries. What cannot be in force is left out with a finding.
    fn add(
        &mut self,
        place: Place<'_>,
        conditions: Vec<Conditions>,
        route: &[RouteDestination],
        rules: &mut Vec<Arc<StreamRule>>,
    ) {
        if conditions.is_empty() {
            return;
        }
        let Some(destinations) = self.destinations(place, route) else { return };
        let total_weight = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
        for Conditions { match_index, sni, destination_subnets, source_subnet } in conditions {
            let virtual_service = place.service.key.clone();
            let origin = StreamOrigin { virtual_service, tls: place.tls, rule: place.rule, match_index };
            rules.push(Arc::new(StreamRule {
                origin,
                sni,
                destination_subnets,
                source_subnet,
                destinations: destinations.clone().into(),
                total_weight,
            }));
        }
    }

    fn destinations(&mut self, place: Place<'_>, route: &[RouteDestination]) -> Option<Vec<StreamDestination>> {
        let scope = RuleScope { matches: self.scope(), tls: false, gateway: &None, max_request_body: None };
        let planned = match planned_destinations(route, &place.service.key.namespace, &scope) {
            Ok(planned) => planned,
            Err(refused) => {
                let message = format!("{}; the rule is left out", refused.message);
                self.report(place, &refused.field, Severity::Rejected, refused.reason, message);
                return None;
            }
        };
        let mut destinations = Vec::with_capacity(planned.len());
        for (index, target, weight) in planned {
            let id = self.targets.intern(target);
            let path = place.path().field(&TargetField::Route(index).to_string());
            let named = self.server.kind != ServerKind::Tcp;
            self.uses.push(StreamUse { id, resource: place.service.key.clone(), path, named });
            destinations.push(StreamDestination { cluster: id, weight });
        }
        Some(destinations)
    }

    /// Connections carry nothing to tell VirtualServices apart by, so that the oldest has them all.
    fn taken(&mut self, place: Place<'_>, winner: &Service<'_>) {
        let PlannedServer { server, port, .. } = self.server;
        let message = format!(
            "{} is older and takes every connection to {} servers[{}] (port {port}); give the rule a port of its own",
            winner.key, server.gateway, server.index
        );
        self.report(place, "", Severity::Warning, "ServerTaken", message);
    }

    fn report(&mut self, place: Place<'_>, field: &str, severity: Severity, reason: &'static str, message: String) {
        let path = if field.is_empty() { place.path() } else { place.path().field(field) };
        self.findings.push(Finding { resource: place.service.key.clone(), path, severity, reason, message });
    }
}

impl Place<'_> {
    fn path(&self) -> FieldPath {
        FieldPath::new("spec").field(if self.tls { "tls" } else { "tcp" }).index(self.rule)
    }
}

pub(super) fn tls_conditions(index: usize, entry: &TlsMatch) -> Conditions {
    Conditions {
        match_index: Some(index),
        sni: entry.sni_hosts.iter().map(|host| HostPattern::new(host)).collect(),
        destination_subnets: subnets(&entry.destination_subnets),
        source_subnet: None,
    }
}

pub(super) fn tcp_conditions(index: usize, entry: &TcpMatch) -> Conditions {
    Conditions {
        match_index: Some(index),
        sni: Box::default(),
        destination_subnets: subnets(&entry.destination_subnets),
        source_subnet: Subnet::parse(&entry.source_subnet),
    }
}

/// Validation keeps what is no subnet from being stored.
fn subnets(texts: &[String]) -> Box<[Subnet]> {
    texts.iter().filter_map(|text| Subnet::parse(text)).collect()
}
