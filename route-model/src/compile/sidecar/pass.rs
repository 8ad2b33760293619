//! One compilation: what it may look at, and what it takes over from the one before.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::StatusCode;

use super::rules::MeshService;
use crate::compile::clusters::OwnClusters;
use crate::compile::finding::Finding;
use crate::compile::names::MESH;
use crate::compile::targets::{Target, Targets};
use crate::compile::virtual_service::{Binding, CompiledVirtualService, Context};
use crate::matching::{Predicates, UriMatch};
use crate::meta::ResourceKey;
use crate::table::authentication::HostAuthentication;
use crate::table::headers::HeaderOps;
use crate::table::retry::RetryPolicy;
use crate::table::route::{DirectResponse, RouteOrigin};
use crate::table::{
    Action, Cluster, ClusterId, Destination, Forward, HostIndex, HostPattern, HttpRoutes, InboundPort, MutualTls,
    PortRoutes, Route, Speaks, StreamRoutes, VirtualHost,
};

/// What a compilation made. Names are those of route configurations, of which there are no two alike.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// By port, too, which conditions may ask for.
    compiled: HashMap<(ResourceKey, u16), Arc<CompiledVirtualService>, RandomState>,
    plain: HashMap<Plain, Arc<Route>, RandomState>,
    hosts: HashMap<(Arc<str>, HostPattern), Arc<VirtualHost>, RandomState>,
    http: HashMap<Arc<str>, Arc<HttpRoutes>, RandomState>,
    streams: HashMap<Arc<str>, Arc<StreamRoutes>, RandomState>,
    ports: HashMap<Arc<str>, Arc<PortRoutes>, RandomState>,
    inbound: HashMap<Arc<str>, Arc<InboundPort>, RandomState>,
    /// The clusters that are named by no VirtualService's `http` rules; once for each time.
    uses: Vec<ClusterId>,
}

/// A route that nobody wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Plain {
    pub(super) name: &'static str,
    /// The resource because of which it is there.
    pub(super) origin: ResourceKey,
    pub(super) leads: Leads,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Leads {
    To {
        cluster: ClusterId,
        /// By the mesh's default.
        retries: bool,
        max_request_body: Option<u64>,
    },
    /// 502, as Istio answers where only what is declared can be reached.
    Nowhere,
}

/// What a compilation is made with.
pub(super) struct Pass<'a> {
    pub(super) context: Context<'a>,
    targets: &'a mut Targets,
    before: Kept,
    now: Kept,
    pub(super) own: OwnClusters,
    pub(super) findings: Vec<Finding>,
}

/// What was there before, if it is the same.
pub(super) fn keep<T>(before: Option<&Arc<T>>, now: T, same: impl FnOnce(&T, &T) -> bool) -> Arc<T> {
    match before {
        Some(before) if same(before, &now) => before.clone(),
        _ => Arc::new(now),
    }
}

impl<'a> Pass<'a> {
    pub(super) fn new(context: Context<'a>, targets: &'a mut Targets, before: Kept) -> Self {
        Self { context, targets, before, now: Kept::default(), own: OwnClusters::default(), findings: Vec::new() }
    }

    /// Lets go of what is not in force any more.
    pub(super) fn finish(self) -> (Kept, OwnClusters, Vec<Finding>) {
        // Only now, so that what is named still keeps its number.
        for id in self.before.uses {
            self.targets.release(id);
        }
        for compiled in self.before.compiled.values() {
            compiled.release(self.targets);
        }
        let mut findings = self.findings;
        findings.sort();
        findings.dedup();
        (self.now, self.own, findings)
    }

    /// The number of a target, which counts as a use of it.
    pub(super) fn cluster(&mut self, target: Target) -> ClusterId {
        let id = self.targets.intern(target);
        self.now.uses.push(id);
        id
    }

    /// A cluster that is the sidecar's own.
    pub(super) fn own_cluster(&mut self, cluster: Cluster) -> ClusterId {
        let host = cluster.key.host.clone();
        self.own.insert(host.clone(), cluster);
        self.cluster(Target::own(host))
    }

    /// The routes of a VirtualService for a port.
    pub(super) fn virtual_service(&mut self, service: &MeshService<'_>, port: u16) -> Arc<CompiledVirtualService> {
        let key = (service.resource.key.clone(), port);
        if let Some(known) = self.now.compiled.get(&key) {
            return known.clone();
        }
        let binding = Binding { gateway: MESH.into(), port, tls: false };
        let previous = self.before.compiled.get(&key).map(Arc::as_ref);
        let compiled =
            CompiledVirtualService::new(service.resource, service.spec, binding, &self.context, self.targets, previous);
        let compiled = Arc::new(compiled);
        self.now.compiled.insert(key, compiled.clone());
        compiled
    }

    pub(super) fn plain(&mut self, plain: Plain) -> Arc<Route> {
        if let Some(known) = self.now.plain.get(&plain) {
            return known.clone();
        }
        let route = self.before.plain.get(&plain).cloned().unwrap_or_else(|| Arc::new(plain.route()));
        self.now.plain.insert(plain, route.clone());
        route
    }

    /// A host of a route configuration.
    pub(super) fn host(&mut self, routes: &Arc<str>, domain: &HostPattern, list: Vec<Arc<Route>>) -> Arc<VirtualHost> {
        let key = (routes.clone(), domain.clone());
        let host = match self.now.hosts.get(&key).or_else(|| self.before.hosts.get(&key)) {
            Some(known) if known.routes().iter().map(Arc::as_ptr).eq(list.iter().map(Arc::as_ptr)) => known.clone(),
            Some(before) => Arc::new(VirtualHost::after(before, false, list)),
            None => Arc::new(VirtualHost::new(domain.clone(), false, list)),
        };
        self.now.hosts.insert(key, host.clone());
        host
    }

    /// A route configuration; where a pattern is given twice, the first stands.
    pub(super) fn http(&mut self, name: &Arc<str>, hosts: Vec<(HostPattern, Arc<VirtualHost>)>) -> Arc<HttpRoutes> {
        self.authenticated(name, hosts, HostAuthentication::default())
    }

    /// One whose tokens are looked at.
    pub(super) fn authenticated(
        &mut self,
        name: &Arc<str>,
        hosts: Vec<(HostPattern, Arc<VirtualHost>)>,
        authentication: HostAuthentication,
    ) -> Arc<HttpRoutes> {
        if let Some(known) = self.now.http.get(name) {
            return known.clone();
        }
        let before = self.before.http.get(name).filter(|before| {
            before.hosts.len() == hosts.len()
                && before.hosts.iter().zip(&hosts).all(|((a, x), (b, y))| a == b && Arc::ptr_eq(x, y))
                && before.authentication == authentication
        });
        let routes = before.cloned().unwrap_or_else(|| {
            Arc::new(HttpRoutes { name: name.clone(), hosts: HostIndex::new(hosts), authentication })
        });
        self.now.http.insert(name.clone(), routes.clone());
        routes
    }

    /// Where no HTTP is expected.
    pub(super) fn no_http(&mut self) -> Arc<HttpRoutes> {
        self.http(&Arc::default(), Vec::new())
    }

    pub(super) fn streams(&mut self, routes: StreamRoutes) -> Arc<StreamRoutes> {
        let name = routes.name.clone();
        let routes = keep(self.before.streams.get(&name), routes, StreamRoutes::is_same);
        self.now.streams.insert(name, routes.clone());
        routes
    }

    /// The routes of a place of this name.
    pub(super) fn port(
        &mut self,
        name: &Arc<str>,
        speaks: Speaks,
        http: Arc<HttpRoutes>,
        streams: Option<Arc<StreamRoutes>>,
    ) -> Arc<PortRoutes> {
        let same = |a: &PortRoutes, b: &PortRoutes| {
            a.speaks == b.speaks
                && Arc::ptr_eq(&a.http, &b.http)
                && a.streams.as_ref().map(Arc::as_ptr) == b.streams.as_ref().map(Arc::as_ptr)
        };
        let routes = keep(self.before.ports.get(name), PortRoutes { speaks, http, streams }, same);
        self.now.ports.insert(name.clone(), routes.clone());
        routes
    }

    pub(super) fn inbound(
        &mut self,
        name: &Arc<str>,
        mutual_tls: MutualTls,
        routes: Arc<PortRoutes>,
    ) -> Arc<InboundPort> {
        let same = |a: &InboundPort, b: &InboundPort| a.mutual_tls == b.mutual_tls && Arc::ptr_eq(&a.routes, &b.routes);
        let port = keep(self.before.inbound.get(name), InboundPort { mutual_tls, routes }, same);
        self.now.inbound.insert(name.clone(), port.clone());
        port
    }
}

impl Plain {
    fn route(&self) -> Route {
        let action = match self.leads {
            Leads::To { cluster, retries, max_request_body } => Action::Forward(Arc::new(Forward {
                destinations: Box::new([Destination {
                    cluster,
                    weight: 1,
                    authority: None,
                    request_headers: Box::default(),
                    response_headers: Box::default(),
                }]),
                total_weight: 1,
                path_rewrite: None,
                timeout: None,
                retry: retries.then(RetryPolicy::mesh_default),
                mirrors: Box::default(),
                max_request_body,
                local_reply_headers: HeaderOps::default(),
            })),
            Leads::Nowhere => Action::Direct(Arc::new(DirectResponse {
                status: StatusCode::BAD_GATEWAY,
                body: bytes::Bytes::new(),
                content_type: None,
                response_headers: HeaderOps::default(),
            })),
        };
        let virtual_service = self.origin.clone();
        let origin = RouteOrigin { virtual_service, rule: 0, match_index: None, delegate: None };
        Route::new(self.name.into(), origin, UriMatch::everything(), Predicates::default(), action)
    }
}
