//! What there is to say about the resources of a set.

use super::{Attached, Compiler};
use crate::analyze;
use crate::compile::backend::BackendPolicies;
use crate::compile::delegate;
use crate::compile::finding::{Finding, Severity};
use crate::compile::gateway::ServerPlace;
use crate::compile::groups::Group;
use crate::compile::names::{MESH, is_visible, qualify_gateway};
use crate::field::FieldPath;
use crate::kind::Kind;
use crate::kinds::VirtualService;
use crate::meta::ResourceKey;
use crate::table::HostPattern;
use crate::table::cluster::Discovery;

impl Compiler {
    /// Finds out what there is to say about a VirtualService.
    pub(super) fn report(&mut self, key: &ResourceKey) {
        let findings = self.virtual_service_findings(key);
        if findings.is_empty() {
            self.findings.remove(key);
        } else {
            self.findings.insert(key.clone(), findings);
        }
    }

    /// What there is to say about all resources, sorted.
    pub(super) fn all_findings(&self) -> Vec<Finding> {
        let of_hosts = self.groups.values().flat_map(Group::findings);
        let own = self.findings.values().flatten();
        let mut all: Vec<Finding> =
            own.chain(&self.plan_findings).chain(&self.settings_findings).chain(of_hosts).cloned().collect();
        all.extend(self.limits.findings(&self.set));
        all.extend(BackendPolicies::findings(&self.set));
        let serves_streams = self.plan.offers.values().any(|offer| offer.tls || offer.tcp);
        all.extend(self.policies.findings(&self.set, &self.scope, &self.mesh, serves_streams));
        all.extend_from_slice(self.authentications.findings());
        all.extend(self.stream_findings());
        all.extend(self.untunnelled());
        all.extend(self.clusters.findings().cloned());
        all.sort();
        all.dedup();
        all
    }

    /// What there is to say about `tcp` and `tls` rules and the services that they name.
    fn stream_findings(&self) -> impl Iterator<Item = Finding> {
        let problems = self.streams.uses().iter().filter_map(|used| {
            let problem = self.clusters.problem(used.id)?;
            Some(Finding {
                resource: used.resource.clone(),
                path: used.path.field(problem.field),
                severity: problem.severity,
                reason: problem.reason,
                message: problem.message.clone(),
            })
        });
        let nameless = self.streams.uses().iter().filter(|used| !used.named).filter_map(|used| {
            let cluster = self.clusters.get(used.id)?;
            matches!(cluster.discovery, Discovery::Dynamic(_)).then(|| Finding {
                resource: used.resource.clone(),
                path: used.path.field("host"),
                severity: Severity::Warning,
                reason: "NameUnknown",
                message: format!(
                    "which host of `{}` a connection is for is told by the server name of its TLS handshake, and \
                     connections of a server with protocol TCP have none, so they are closed; use a server with \
                     protocol TLS, or name one host",
                    cluster.key.host
                ),
            })
        });
        self.streams.findings().iter().cloned().chain(problems).chain(nameless)
    }

    fn virtual_service_findings(&self, key: &ResourceKey) -> Vec<Finding> {
        let spec = self.set.get(key).and_then(|resource| resource.spec::<VirtualService>());
        let (Some(spec), Some(attached)) = (spec, self.virtual_services.get(key)) else { return Vec::new() };
        // A delegate is reported on with its roots; one of the mesh alone is none of a gateway's business.
        if spec.hosts.is_empty() || attached.gateways.is_empty() {
            return Vec::new();
        }
        let mut findings = self.missing_gateways(key, spec);
        if !attached.gateways.iter().any(|gateway| self.plan.gateways.contains_key(gateway)) {
            return findings;
        }
        let default_export_to = self.mesh.virtual_service_export_to();
        let namespace = &self.scope.namespace;
        if !is_visible(&spec.export_to, default_export_to, &key.namespace, namespace) {
            findings.push(Finding {
                resource: key.clone(),
                path: FieldPath::new("spec").field("exportTo"),
                severity: Severity::Rejected,
                reason: "NotVisible",
                message: format!(
                    "the gateway runs in namespace {namespace}, which this VirtualService is not exported to, so it is \
                     not used; add `{namespace}` or `*` to exportTo"
                ),
            });
            return findings;
        }
        findings.extend(self.unused_rules(key, spec, attached));
        findings.extend(self.homeless_hosts(key, attached));
        let expanded = delegate::expand(key, spec, &self.set, default_export_to);
        findings.extend(expanded.findings);
        findings.extend(analyze::prefix::findings(&expanded.rules, key));
        let counts = attached.compiled.iter().map(|compiled| compiled.rule_count());
        findings.extend(analyze::shadow::behind_catch_all(&expanded.rules, key, counts));
        findings.extend(attached.compiled.iter().flat_map(|compiled| compiled.findings()).cloned());
        findings.extend(self.target_problems(attached));
        findings
    }

    fn missing_gateways(&self, key: &ResourceKey, spec: &VirtualService) -> Vec<Finding> {
        let named = spec.gateways.iter().enumerate().filter(|(_, name)| *name != MESH);
        let missing = named.filter_map(|(index, name)| {
            let qualified = qualify_gateway(name, &key.namespace);
            let gateway = qualified.split_once('/').map(|(ns, name)| ResourceKey::new(Kind::Gateway, ns, name));
            if gateway.is_some_and(|gateway| self.set.get(&gateway).is_some()) {
                return None;
            }
            Some(Finding {
                resource: key.clone(),
                path: FieldPath::new("spec").field("gateways").index(index),
                severity: Severity::Unresolved,
                reason: "GatewayNotFound",
                message: format!(
                    "Gateway {qualified} does not exist, so nothing is routed from it; create it or correct the name"
                ),
            })
        });
        missing.collect()
    }

    /// Rules of a protocol that no server of the VirtualService's Gateways speaks.
    fn unused_rules(&self, key: &ResourceKey, spec: &VirtualService, attached: &Attached) -> Vec<Finding> {
        let offers: Vec<_> = attached.gateways.iter().filter_map(|gateway| self.plan.offers.get(gateway)).collect();
        if offers.is_empty() || spec.gateways.iter().any(|name| name == MESH) {
            return Vec::new();
        }
        let kinds = [
            ("http", spec.http.is_empty(), offers.iter().any(|offer| offer.http), "protocol HTTP or HTTPS"),
            ("tls", spec.tls.is_empty(), offers.iter().any(|offer| offer.tls), "TLS mode PASSTHROUGH"),
            ("tcp", spec.tcp.is_empty(), offers.iter().any(|offer| offer.tcp), "protocol TCP or TLS"),
        ];
        let unused = kinds.into_iter().filter(|(_, absent, offered, _)| !absent && !offered);
        unused
            .map(|(field, _, _, server)| Finding {
                resource: key.clone(),
                path: FieldPath::new("spec").field(field),
                severity: Severity::Warning,
                reason: "RulesNotUsed",
                message: format!(
                    "no server of its Gateways looks at `{field}` rules, so they are not used; that takes a server of \
                     {server}"
                ),
            })
            .collect()
    }

    /// Hosts that no server of the VirtualService's Gateways admits. A Gateway without any server in force has findings
    /// of its own.
    fn homeless_hosts(&self, key: &ResourceKey, attached: &Attached) -> Vec<Finding> {
        let offers: Vec<_> = attached.gateways.iter().filter_map(|gateway| self.plan.offers.get(gateway)).collect();
        if !attached.has_homeless_host || offers.is_empty() {
            return Vec::new();
        }
        let admits = |server: &ServerPlace, host: &HostPattern| {
            self.groups.get(&server.group).is_some_and(|group| group.admits(server.index, host, &key.namespace))
        };
        let gateways = attached.gateways.iter().filter(|gateway| self.plan.gateways.contains_key(*gateway));
        let gateways = gateways.map(|gateway| &**gateway).collect::<Vec<_>>().join(", ");
        let hosts = attached.hosts.iter().enumerate();
        hosts
            .filter(|(_, host)| !self.servers(attached).any(|server| admits(server, host)))
            .filter(|(_, host)| !offers.iter().any(|offer| offer.admits(host, &key.namespace)))
            .map(|(index, host)| Finding {
                resource: key.clone(),
                path: FieldPath::new("spec").field("hosts").index(index),
                severity: Severity::Unresolved,
                reason: "HostNotServed",
                message: format!(
                    "no server of Gateway {gateways} admits host `{host}` from namespace {}, so nothing is \
                     routed for it; add the host to a server",
                    key.namespace
                ),
            })
            .collect()
    }

    /// What is wrong with the services that the rules name.
    fn target_problems(&self, attached: &Attached) -> Vec<Finding> {
        let uses = attached.compiled.iter().flat_map(|compiled| compiled.targets());
        let problems = uses.filter_map(|(id, place)| Some((self.clusters.problem(id)?, place)));
        problems
            .map(|(problem, place)| Finding {
                resource: place.resource.clone(),
                path: place.path().field(problem.field),
                severity: problem.severity,
                reason: problem.reason,
                message: problem.message.clone(),
            })
            .collect()
    }

    /// `http` rules that lead to a service behind a tunnel.
    fn untunnelled(&self) -> Vec<Finding> {
        if !self.clusters.iter().any(|cluster| cluster.policy.tunnel.is_some()) {
            return Vec::new();
        }
        let compiled = self.virtual_services.values().flat_map(|attached| &attached.compiled);
        let uses = compiled.flat_map(|compiled| compiled.targets());
        let untunnelled = uses.filter_map(|(id, place)| {
            let cluster = self.clusters.get(id).filter(|cluster| cluster.policy.tunnel.is_some())?;
            Some(Finding {
                resource: place.resource.clone(),
                path: place.path().field("host"),
                severity: Severity::Warning,
                reason: "NotTunnelled",
                message: format!(
                    "the DestinationRule of `{}` has a tunnel, which is for `tcp` and `tls` rules; requests of `http` \
                     rules go to its endpoints without",
                    cluster.key.host
                ),
            })
        });
        untunnelled.collect()
    }
}
