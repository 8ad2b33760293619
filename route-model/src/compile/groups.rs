//! The virtual hosts of one route configuration, kept from table to table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::finding::Finding;
use super::gateway::RouteGroup;
use super::server_hosts::ServerHosts;
use super::virtual_service::CompiledVirtualService;
use crate::analyze::shadow;
use crate::meta::ResourceKey;
use crate::table::authentication::HostAuthentication;
use crate::table::{HostIndex, HostPattern, HttpRoutes, Route, VirtualHost};

/// A set of servers that share routes, and the virtual hosts there.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) plan: RouteGroup,
    /// One for each server of the plan.
    hosts_of_servers: Vec<ServerHosts>,
    hosts: HashMap<HostPattern, Host, RandomState>,
    dirty: Vec<HostPattern>,
    /// Another one than that of `routes`.
    new_authentication: Option<HostAuthentication>,
    routes: Arc<HttpRoutes>,
}

#[derive(Debug, Default)]
struct Host {
    members: Vec<Member>,
    /// A server lists this very host and redirects to https.
    listed_redirect: bool,
    is_dirty: bool,
    built: Option<Arc<VirtualHost>>,
    findings: Vec<Finding>,
}

/// A VirtualService that adds routes to a host.
#[derive(Clone, Debug)]
struct Member {
    /// Index of the server in the plan.
    server: usize,
    compiled: Arc<CompiledVirtualService>,
}

impl Group {
    /// A group without members; what `previous` built is reused where it turns out the same.
    pub(super) fn new(plan: RouteGroup, previous: Option<Self>) -> Self {
        let hosts_of_servers: Vec<_> = plan.servers.iter().map(|server| ServerHosts::new(&server.hosts)).collect();
        let routes = previous.as_ref().map_or_else(
            || Arc::new(HttpRoutes { name: plan.name.clone(), ..HttpRoutes::default() }),
            |previous| previous.routes.clone(),
        );
        let (hosts, dirty, new_authentication) = (HashMap::default(), Vec::new(), None);
        let mut group = Self { plan, hosts_of_servers, hosts, dirty, new_authentication, routes };
        for (domain, host) in previous.into_iter().flat_map(|previous| previous.hosts) {
            group.hosts.insert(
                domain.clone(),
                Host { built: host.built, findings: host.findings, is_dirty: true, ..Host::default() },
            );
            group.dirty.push(domain);
        }
        let redirecting = group.plan.servers.iter().zip(&group.hosts_of_servers).filter(|(s, _)| s.https_redirect);
        let listed: Vec<_> = redirecting.flat_map(|(_, hosts)| hosts.iter().cloned()).collect();
        for domain in listed {
            group.touch(&domain).listed_redirect = true;
        }
        group
    }

    fn touch(&mut self, domain: &HostPattern) -> &mut Host {
        let host = self.hosts.entry(domain.clone()).or_default();
        if !std::mem::replace(&mut host.is_dirty, true) {
            self.dirty.push(domain.clone());
        }
        host
    }

    /// The hosts of a server that a VirtualService with these hosts adds routes to.
    pub(super) fn intersect(&self, server: usize, hosts: &[HostPattern], namespace: &str) -> Vec<HostPattern> {
        let mut found = Vec::new();
        for host in hosts {
            self.hosts_of_servers[server].intersect(host, namespace, &mut found);
        }
        found
    }

    /// Whether a server lets VirtualServices of a namespace serve a host, or a part of it.
    pub(super) fn admits(&self, server: usize, host: &HostPattern, namespace: &str) -> bool {
        let mut found = Vec::new();
        self.hosts_of_servers[server].intersect(host, namespace, &mut found);
        !found.is_empty()
    }

    /// Adds a VirtualService's routes to a host.
    pub(super) fn attach(&mut self, domain: &HostPattern, server: usize, compiled: &Arc<CompiledVirtualService>) {
        self.touch(domain).members.push(Member { server, compiled: compiled.clone() });
    }

    /// Takes a VirtualService's routes from a host.
    pub(super) fn detach(&mut self, domain: &HostPattern, virtual_service: &ResourceKey) {
        if self.hosts.contains_key(domain) {
            self.touch(domain).members.retain(|member| member.compiled.key() != virtual_service);
        }
    }

    /// Has the requests of the group under this.
    pub(super) fn authenticate(&mut self, authentication: HostAuthentication) {
        self.new_authentication = (self.routes.authentication != authentication).then_some(authentication);
    }

    /// Builds what was touched. Hosts and routes that came out as they were are the same allocations as before.
    pub(super) fn build(&mut self) -> &Arc<HttpRoutes> {
        let mut same_domains = true;
        let mut changed = Vec::new();
        for domain in std::mem::take(&mut self.dirty) {
            let Some(host) = self.hosts.get_mut(&domain) else { continue };
            host.is_dirty = false;
            let was_built = host.built.is_some();
            if host.members.is_empty() && !host.listed_redirect {
                self.hosts.remove(&domain);
                same_domains &= !was_built;
                continue;
            }
            same_domains &= was_built;
            if let Some(built) = host.build(&domain, &self.plan) {
                changed.push((domain, built));
            }
        }
        let hosts = if !same_domains || self.routes.name != self.plan.name {
            let built = |(domain, host): (&HostPattern, &Host)| Some((domain.clone(), host.built.clone()?));
            HostIndex::new(self.hosts.iter().filter_map(built))
        } else if !changed.is_empty() || self.new_authentication.is_some() {
            let mut hosts = self.routes.hosts.clone();
            for (domain, built) in changed {
                hosts.replace(&domain, built);
            }
            hosts
        } else {
            return &self.routes;
        };
        let authentication = self.new_authentication.take().unwrap_or_else(|| self.routes.authentication.clone());
        self.routes = Arc::new(HttpRoutes { name: self.plan.name.clone(), hosts, authentication });
        &self.routes
    }

    /// What [`Group::build`] built last.
    pub(super) fn routes(&self) -> &Arc<HttpRoutes> {
        &self.routes
    }

    pub(super) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.hosts.values().flat_map(|host| &host.findings)
    }
}

impl Host {
    /// The virtual host, if it differs from the one before.
    fn build(&mut self, domain: &HostPattern, plan: &RouteGroup) -> Option<Arc<VirtualHost>> {
        // Server by server, and for each the older VirtualService first.
        self.members.sort_by(|a, b| (a.server, &a.compiled.seniority).cmp(&(b.server, &b.compiled.seniority)));
        let redirects = |member: &Member| plan.servers[member.server].https_redirect;
        let https_redirect = self.listed_redirect || self.members.iter().any(redirects);
        let routes = self.routes();
        let built = match &self.built {
            Some(built) => {
                let same = built.https_redirect == https_redirect
                    && built.routes().len() == routes.len()
                    && built.routes().iter().zip(&routes).all(|(a, b)| Arc::ptr_eq(a, b));
                if same {
                    return None;
                }
                VirtualHost::after(built, https_redirect, routes)
            }
            None => VirtualHost::new(domain.clone(), https_redirect, routes),
        };
        self.findings = shadow::findings(&built);
        let built = Arc::new(built);
        self.built = Some(built.clone());
        Some(built)
    }

    /// All routes, with the catch-alls moved to the end, each part in the order of the members.
    fn routes(&self) -> Vec<Arc<Route>> {
        let mut members: Vec<_> = self.members.iter().map(|member| &member.compiled).collect();
        if self.members.first().map(|member| member.server) != self.members.last().map(|member| member.server) {
            // Two servers of one Gateway may both lead a VirtualService here; its routes count once.
            let mut seen = HashSet::new();
            members.retain(|compiled| seen.insert(Arc::as_ptr(compiled)));
        }
        let pick = |catch_all: bool| {
            let routes = members.iter().flat_map(|compiled| compiled.routes());
            routes.filter(move |route| route.catch_all == catch_all).map(|route| route.route.clone())
        };
        pick(false).chain(pick(true)).collect()
    }
}
