//! From what rules name to what is there: targets become clusters.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::destination_rule::{DestinationRules, Effective, PortPolicy};
use super::endpoints::{discovery, has_proxy, identities, is_in_mesh, no_endpoints};
use super::finding::{Finding, Severity};
use super::limits::Limits;
use super::locality::Preference;
use super::mesh::Mesh;
use super::names::namespace_of;
use super::services::{Service, Services};
use super::sidecar::Sidecar;
use super::targets::{Target, TargetPort, Targets};
use super::upstream_tls::Peers;
use super::{ProxyRole, ProxyScope, upstream, upstream_tls};
use crate::field::FieldPath;
use crate::kinds::TextDuration;
use crate::kinds::destination_rule::{H2UpgradePolicy, SimpleLoadBalancer};
use crate::kinds::protocol::Protocol;
use crate::kinds::service_entry::{Location, Resolution};
use crate::kinds::value::StringMap;
use crate::resource::ResourceSet;
use crate::table::cluster::{Discovery, DnsEndpoint, LoadBalancer, UpstreamProtocol};
use crate::table::upstream::UpstreamPolicy;
use crate::table::{Cluster, ClusterId, ClusterKey, HostPattern};

/// How long an unused connection to an upstream is kept, unless a DestinationRule says otherwise.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_hours(1);
/// What is wrong with a target; every rule that names it has this finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Below the destination.
    pub(super) field: &'static str,
    pub(super) severity: Severity,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The clusters that targets lead to.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    by_id: Vec<Option<Arc<Cluster>>>,
    problems: HashMap<ClusterId, Problem, RandomState>,
    /// What there is to say about the DestinationRules of clusters.
    findings: HashMap<ClusterId, Vec<Finding>, RandomState>,
    /// Those that secrets are read for.
    with_secrets: HashSet<ClusterId, RandomState>,
    /// One allocation for each key, and the same one for as long as it says the same.
    shared: HashMap<ClusterKey, Arc<Cluster>, RandomState>,
    by_host: HashMap<Arc<str>, HashSet<ClusterId>, RandomState>,
    /// The host that a number is filed under in `by_host`.
    hosts: HashMap<ClusterId, Arc<str>, RandomState>,
}

/// What clusters are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    pub(super) services: &'a Services,
    pub(super) rules: &'a DestinationRules,
    /// For secrets.
    pub(super) set: &'a ResourceSet,
    pub(super) mesh: &'a Mesh,
    pub(super) proxy: &'a ProxyScope,
    pub(super) limits: &'a Limits,
    /// For a sidecar.
    pub(super) sidecar: Option<&'a Sidecar>,
}

/// Clusters that are a sidecar's own, by the host that stands for them; no service can have such a name.
pub(super) type OwnClusters = HashMap<Arc<str>, Cluster, RandomState>;

/// For which targets the sources changed.
#[derive(Debug, Default)]
pub(super) struct DirtyTargets {
    pub(super) all: bool,
    pub(super) hosts: HashSet<Arc<str>>,
    /// Hosts of DestinationRules.
    pub(super) patterns: Vec<HostPattern>,
    /// Secrets changed.
    pub(super) secrets: bool,
}

impl Clusters {
    /// Indexed by [`ClusterId`].
    pub(super) fn table(&self) -> Vec<Option<Arc<Cluster>>> {
        self.by_id.clone()
    }

    /// What there is to say about the DestinationRules in force.
    pub(super) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.values().flatten()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Cluster> {
        self.by_id.iter().flatten().map(|cluster| &**cluster)
    }

    pub(super) fn get(&self, id: ClusterId) -> Option<&Cluster> {
        self.by_id.get(id.index())?.as_deref()
    }

    pub(super) fn problem(&self, id: ClusterId) -> Option<&Problem> {
        self.problems.get(&id)
    }

    /// Looks again at the targets whose sources changed, and at numbers that mean something else now. Answers the
    /// numbers whose problems differ.
    pub(super) fn update(
        &mut self,
        targets: &mut Targets,
        sources: Sources<'_>,
        dirty: &DirtyTargets,
    ) -> Vec<ClusterId> {
        let renewed = targets.take_renewed();
        for id in &renewed {
            self.refile(*id, targets.get(*id));
        }
        self.by_id.resize(targets.len(), None);
        let mut ids: HashSet<ClusterId, RandomState> = renewed.into_iter().collect();
        if dirty.all {
            ids.extend(targets.iter().map(|(id, _)| id));
        }
        for host in &dirty.hosts {
            ids.extend(self.by_host.get(host).into_iter().flatten());
        }
        for pattern in &dirty.patterns {
            if pattern.suffix().is_none() {
                ids.extend(self.by_host.get(pattern.as_str()).into_iter().flatten());
            } else {
                let covered = self.by_host.iter().filter(|(host, _)| HostPattern::new(host).is_subset_of(pattern));
                ids.extend(covered.flat_map(|(_, ids)| ids));
            }
        }
        if dirty.secrets {
            ids.extend(&self.with_secrets);
        }
        let mut changed = Vec::new();
        for &id in &ids {
            let (resolved, problem) = match targets.get(id) {
                Some(target) => resolve(target, sources),
                None => (None, None),
            };
            let Resolved { cluster, findings, reads_secrets } = resolved.unwrap_or_default();
            self.by_id[id.index()] = cluster.map(|cluster| self.share(cluster));
            if findings.is_empty() {
                self.findings.remove(&id);
            } else {
                self.findings.insert(id, findings);
            }
            if reads_secrets {
                self.with_secrets.insert(id);
            } else {
                self.with_secrets.remove(&id);
            }
            let before = match problem.clone() {
                Some(problem) => self.problems.insert(id, problem),
                None => self.problems.remove(&id),
            };
            if before != problem {
                changed.push(id);
            }
        }
        if !ids.is_empty() {
            // Beside this map nobody holds it any more, not even the table before.
            self.shared.retain(|_, cluster| Arc::strong_count(cluster) > 1);
        }
        changed
    }

    fn refile(&mut self, id: ClusterId, target: Option<&Target>) {
        if let Some(host) = self.hosts.remove(&id)
            && let Some(ids) = self.by_host.get_mut(&host)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_host.remove(&host);
            }
        }
        if let Some(target) = target {
            self.by_host.entry(target.host.clone()).or_default().insert(id);
            self.hosts.insert(id, target.host.clone());
        }
    }

    fn share(&mut self, cluster: Cluster) -> Arc<Cluster> {
        if let Some(known) = self.shared.get(&cluster.key)
            && **known == cluster
        {
            return known.clone();
        }
        let cluster = Arc::new(cluster);
        self.shared.insert(cluster.key.clone(), cluster.clone());
        cluster
    }
}

pub(super) fn problem(field: &'static str, severity: Severity, reason: &'static str, message: String) -> Problem {
    Problem { field, severity, reason, message }
}

/// A cluster, and what came up while it was made.
#[derive(Debug, Default)]
struct Resolved {
    cluster: Option<Cluster>,
    findings: Vec<Finding>,
    reads_secrets: bool,
}

fn resolve(target: &Target, sources: Sources<'_>) -> (Option<Resolved>, Option<Problem>) {
    let mesh = sources.mesh;
    if let Some(own) = sources.sidecar.and_then(|sidecar| sidecar.own().get(&target.host)) {
        return (Some(Resolved { cluster: Some(own.clone()), ..Resolved::default() }), None);
    }
    // A sidecar knows one service of each name, whoever leads there.
    let home = sources.sidecar.map(|sidecar| sidecar.homes().get(&target.host).unwrap_or(&sources.proxy.namespace));
    let preferred = home.unwrap_or(&target.namespace);
    let found = sources.services.find(&target.host, preferred, &sources.proxy.namespace, mesh.service_export_to());
    let resolved = match &found {
        Some(service) => declared(target, service, sources),
        None => undeclared(target, sources),
    };
    match resolved {
        Ok((resolved, problem)) => (Some(resolved), problem),
        Err(problem) => (None, Some(problem)),
    }
}

type Outcome = Result<(Resolved, Option<Problem>), Problem>;

fn declared(target: &Target, service: &Service<'_>, sources: Sources<'_>) -> Outcome {
    let host = &target.host;
    let port = match target.port {
        TargetPort::Number(number) => service.port(number),
        TargetPort::Listener(listener) => service.only_port().or_else(|| service.port(listener)),
    };
    let Some(port) = port else {
        let ports: Vec<_> = service.ports().map(|port| port.number.to_string()).collect();
        let message = match target.port {
            TargetPort::Number(number) => {
                format!(
                    "service `{host}` has no port {number}, so requests are answered 503; its ports: {}",
                    ports.join(", ")
                )
            }
            TargetPort::Listener(_) => format!(
                "service `{host}` has several ports, so requests are answered 503; name one of {} in port.number",
                ports.join(", ")
            ),
        };
        return Err(problem("port", Severity::Unresolved, "PortNotFound", message));
    };
    let pattern = HostPattern::new(host);
    let effective = sources.rules.effective(&pattern, service.namespace, sources.proxy, sources.mesh);
    let subset = subset(target, effective.as_ref())?;
    let policy = effective.as_ref().map(|rule| rule.policy(port.number, subset)).unwrap_or_default();
    let workloads = sources.services.workloads(service.namespace, port.entry);
    let no_labels = StringMap::new();
    let labels = subset.map_or(&no_labels, |subset| &*subset.labels);
    let preference = Preference::of(&policy, sources.mesh, sources.proxy);
    let is_sidecar = sources.proxy.role == ProxyRole::Sidecar;
    let asks_for_passthrough =
        policy.load_balancer.is_some_and(|block| *block.simple == SimpleLoadBalancer::Passthrough);
    let (discovery, problem) = if is_sidecar && (asks_for_passthrough || *port.entry.resolution == Resolution::None) {
        (Discovery::Original, None)
    } else {
        discovery(host, &workloads, port, labels, target.subset.as_deref(), &preference)
    };
    let protocol = port.protocol();
    let http2 = protocol.is_some_and(Protocol::is_http2);
    let problem = problem.or_else(|| notice(host, &policy, http2, is_sidecar, &preference));
    let key = ClusterKey {
        host: host.clone(),
        port: port.number,
        subset: target.subset.clone(),
        namespace: service.namespace.clone(),
    };
    // A sidecar's are its server's: what calls a service from elsewhere is under its limits there.
    let limits = sources.limits.of_service(service.declared_by(), host, port.number).filter(|_| !is_sidecar);
    let selected: Vec<_> = workloads.iter().filter(|workload| workload.has_labels(labels)).copied().collect();
    let peers = Peers {
        declared_by: Some(port.key),
        names: &port.entry.subject_alt_names,
        identities: identities(selected.iter().copied(), service.namespace, sources.mesh),
        in_mesh: identities(
            selected.iter().copied().filter(|workload| is_in_mesh(*workload, port)),
            service.namespace,
            sources.mesh,
        ),
    };
    let mut resolved = cluster(key, discovery, policy, http2, service.namespace.clone(), &peers, sources);
    let multiplexes = policy.connection_pool.and_then(|pool| pool.http.as_ref());
    let multiplexes = multiplexes.is_none_or(|http| *http.h2_upgrade_policy != H2UpgradePolicy::DoNotUpgrade);
    let multiplexed = multiplexes && protocol.is_none_or(Protocol::is_http);
    resolved.cluster = resolved.cluster.map(|cluster| Cluster { multiplexed, limits, ..cluster });
    if policy.tls.is_none() && *port.entry.location == Location::MeshExternal && selected.iter().any(|w| has_proxy(*w))
    {
        resolved.findings.push(Finding {
            resource: port.key.clone(),
            path: FieldPath::new("spec").field("location"),
            severity: Severity::Warning,
            reason: "EndpointsInMesh",
            message: format!(
                "endpoints of `{host}` have proxies of the mesh, but the service is MESH_EXTERNAL, so they are called \
                 in plain text; write location MESH_INTERNAL"
            ),
        });
    }
    Ok((resolved, problem))
}

/// The subset that a target names, with its declaration.
fn subset<'a>(
    target: &Target,
    effective: Option<&Effective<'a>>,
) -> Result<Option<&'a crate::kinds::destination_rule::Subset>, Problem> {
    let Some(name) = &target.subset else { return Ok(None) };
    let host = &target.host;
    let unresolved = |message| Err(problem("subset", Severity::Unresolved, "SubsetNotFound", message));
    match effective {
        None => unresolved(format!(
            "no DestinationRule for `{host}` is in force here, so subset `{name}` does not exist and requests are \
             answered 503; create one that declares it"
        )),
        Some(rule) => {
            if let Some(subset) = rule.subset(name) {
                Ok(Some(subset))
            } else {
                let names: Vec<_> = rule.subset_names().collect();
                let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                unresolved(format!(
                    "{}, which is in force for `{host}`, declares no subset `{name}`, so requests are answered 503; it \
                 declares: {known}",
                    rule.key()
                ))
            }
        }
    }
}

/// What is worth knowing of a cluster that works.
fn notice(
    host: &str,
    policy: &PortPolicy<'_>,
    http2: bool,
    is_sidecar: bool,
    preference: &Preference<'_>,
) -> Option<Problem> {
    let warn = |reason, message| Some(problem("host", Severity::Warning, reason, message));
    let asks_for_passthrough =
        policy.load_balancer.is_some_and(|block| *block.simple == SimpleLoadBalancer::Passthrough);
    if asks_for_passthrough && !is_sidecar {
        let message = format!(
            "the DestinationRule of `{host}` asks for PASSTHROUGH, to the address that the client wanted to reach, \
             which only a sidecar knows; the gateway uses LEAST_REQUEST"
        );
        return warn("NotSupported", message);
    }
    if preference.is_lost() {
        let message = format!(
            "the DestinationRule of `{host}` prefers near endpoints, but this gateway does not know where it is, so \
             all are the same to it; start it with --gateway-locality region/zone/subzone"
        );
        return warn("LocalityUnknown", message);
    }
    if policy.tunnel.is_some() && http2 {
        let message = format!(
            "the port of `{host}` speaks HTTP/2, and the tunnel of its DestinationRule is asked for over HTTP/1.1; give the \
             port the protocol TCP if the proxy knows that too"
        );
        return warn("TunnelOverHttp1", message);
    }
    None
}

/// A host that no ServiceEntry declares: a name in DNS, as written first, then expanded.
fn undeclared(target: &Target, sources: Sources<'_>) -> Outcome {
    let host = &target.host;
    let short = target.short.then(|| host.split('.').next().unwrap_or(host));
    let written = short.unwrap_or(host);
    let TargetPort::Number(port) = target.port else {
        let message = format!(
            "no ServiceEntry that is visible here declares `{written}`, so its port is not known and requests are \
             answered 503; set port.number or declare the host"
        );
        return Err(problem("port", Severity::Rejected, "PortRequired", message));
    };
    if !sources.mesh.resolves_undeclared_hosts() {
        let message = format!(
            "no ServiceEntry that is visible here declares `{written}`, and MeshConfig undeclaredHosts is Refuse, so \
             requests are answered 503; declare the host"
        );
        return Err(problem("host", Severity::Unresolved, "HostNotDeclared", message));
    }
    let pattern = HostPattern::new(host);
    let home = namespace_of(host).unwrap_or(&target.namespace);
    let effective = sources.rules.effective(&pattern, home, sources.proxy, sources.mesh);
    let subset = subset(target, effective.as_ref())?;
    let policy = effective.as_ref().map(|rule| rule.policy(port, subset)).unwrap_or_default();
    // The cluster's namespace tells apart the same short name in two namespaces.
    let namespace: Arc<str> = if target.short { target.namespace.clone() } else { Arc::default() };
    let key = ClusterKey { host: host.clone(), port, subset: target.subset.clone(), namespace: namespace.clone() };
    let wildcard = host.starts_with('*');
    let labelled = subset.is_some_and(|subset| !subset.labels.is_empty());
    let (discovery, problem) = if wildcard || labelled {
        (Discovery::None, Some(no_endpoints(written, target.subset.as_deref())))
    } else {
        let names = short.map(Arc::from).into_iter().chain([host.clone()]);
        let endpoints = names.map(|name: Arc<str>| DnsEndpoint::new(name, port, 1)).collect();
        let message = format!(
            "no ServiceEntry that is visible here declares `{written}`, so the gateway looks it up in DNS; declare it \
             to silence this"
        );
        (Discovery::Undeclared(endpoints), Some(problem("host", Severity::Warning, "HostNotDeclared", message)))
    };
    let unknown = || Arc::from("unknown");
    let service_namespace = if namespace.is_empty() { unknown() } else { namespace };
    Ok((cluster(key, discovery, policy, false, service_namespace, &Peers::default(), sources), problem))
}

/// A cluster of a sidecar's own, with default settings.
pub(super) fn own(name: &str, discovery: Discovery, protocol: UpstreamProtocol, mesh: &Mesh) -> Cluster {
    let name: Arc<str> = name.into();
    Cluster {
        key: ClusterKey { host: name.clone(), port: 0, subset: None, namespace: Arc::default() },
        name: name.clone(),
        discovery,
        load_balancer: LoadBalancer::default(),
        protocol,
        connect_timeout: mesh.connect_timeout(),
        idle_timeout: IDLE_TIMEOUT,
        policy: upstream::policy(&PortPolicy::default()),
        multiplexed: false,
        limits: None,
        service_name: name,
        service_namespace: "unknown".into(),
    }
}

fn cluster(
    key: ClusterKey,
    discovery: Discovery,
    policy: PortPolicy<'_>,
    http2: bool,
    service_namespace: Arc<str>,
    peers: &Peers<'_>,
    sources: Sources<'_>,
) -> Resolved {
    let subset = key.subset.as_deref().unwrap_or_default();
    let name = format!("outbound|{}|{subset}|{}", key.port, key.host).into();
    let tcp = policy.connection_pool.and_then(|pool| pool.tcp.as_ref());
    let http = policy.connection_pool.and_then(|pool| pool.http.as_ref());
    let connect_timeout = tcp.and_then(|tcp| tcp.connect_timeout.as_ref()).map(TextDuration::get);
    let idle_timeout = http.and_then(|http| http.idle_timeout.as_ref()).map(TextDuration::get);
    let protocol = if http.is_some_and(|http| *http.use_client_protocol) {
        UpstreamProtocol::Client
    } else if http2 || http.is_some_and(|http| *http.h2_upgrade_policy == H2UpgradePolicy::Upgrade) {
        UpstreamProtocol::Http2
    } else {
        UpstreamProtocol::Http1
    };
    let origination = upstream_tls::origination(policy.tls, &key, peers, sources);
    let cluster = Cluster {
        name,
        discovery,
        load_balancer: upstream::load_balancer(policy.load_balancer),
        protocol,
        connect_timeout: connect_timeout
            .filter(|time| !time.is_zero())
            .unwrap_or_else(|| sources.mesh.connect_timeout()),
        idle_timeout: idle_timeout.filter(|time| !time.is_zero()).unwrap_or(IDLE_TIMEOUT),
        policy: UpstreamPolicy { tls: origination.tls, ..upstream::policy(&policy) },
        multiplexed: false,
        limits: None,
        service_name: key.host.clone(),
        service_namespace,
        key,
    };
    Resolved { cluster: Some(cluster), findings: origination.findings, reads_secrets: origination.reads_secrets }
}
