//! Services and their endpoints: ServiceEntries by host, WorkloadEntries by namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::names::{Seniority, is_visible};
use crate::kind::Kind;
use crate::kinds::protocol::Protocol;
use crate::kinds::service_entry::{ServiceEntry, ServicePort};
use crate::kinds::value::StringMap;
use crate::kinds::workload_entry::WorkloadEntry;
use crate::meta::ResourceKey;
use crate::resource::Resource;

/// All declared services, indexed by host.
#[derive(Debug, Default)]
pub(super) struct Services {
    by_host: HashMap<Arc<str>, Vec<Declaration>, RandomState>,
    /// ServiceEntries with a `workloadSelector`, by namespace.
    selecting: HashMap<Arc<str>, BTreeSet<ResourceKey>, RandomState>,
    workloads: HashMap<Arc<str>, BTreeMap<ResourceKey, Arc<Resource>>, RandomState>,
}

#[derive(Debug)]
struct Declaration {
    seniority: Seniority,
    resource: Arc<Resource>,
}

/// A service as one namespace declares it: several ServiceEntries may share a host, each with ports of its own.
#[derive(Debug)]
pub(super) struct Service<'a> {
    pub(super) namespace: &'a Arc<str>,
    /// Of the oldest ServiceEntry.
    pub(super) seniority: &'a Seniority,
    /// Oldest first.
    entries: Vec<(&'a ResourceKey, &'a ServiceEntry)>,
}

/// A port of a service and the ServiceEntry that declares it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServedPort<'a> {
    pub(super) key: &'a ResourceKey,
    pub(super) entry: &'a ServiceEntry,
    pub(super) port: &'a ServicePort,
    pub(super) number: u16,
}

/// An endpoint, written inside a ServiceEntry or as a WorkloadEntry of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload<'a> {
    pub(super) entry: &'a WorkloadEntry,
    /// The labels of the WorkloadEntry's metadata, which go before those of its spec.
    metadata: Option<&'a BTreeMap<String, String>>,
}

impl ServedPort<'_> {
    pub(super) fn protocol(&self) -> Option<Protocol> {
        port_protocol(self.port)
    }
}

/// As it is declared, else as the port's name begins; `None`: nobody says.
pub(super) fn port_protocol(port: &ServicePort) -> Option<Protocol> {
    Protocol::parse(&port.protocol).or_else(|| Protocol::of_port_name(&port.name))
}

impl<'a> Workload<'a> {
    pub(super) fn label(&self, key: &str) -> Option<&'a str> {
        let own = self.metadata.and_then(|labels| labels.get(key));
        own.or_else(|| (*self.entry.labels).get(key)).map(String::as_str)
    }

    pub(super) fn has_labels(&self, wanted: &StringMap) -> bool {
        wanted.iter().all(|(key, value)| self.label(key) == Some(value))
    }

    /// Relative; at least 1.
    pub(super) fn weight(&self) -> u32 {
        (*self.entry.weight).max(1)
    }
}

impl Services {
    /// Takes over a changed ServiceEntry or WorkloadEntry; adds the hosts whose services may differ now to `dirty`.
    pub(super) fn change(
        &mut self,
        old: Option<&Arc<Resource>>,
        new: Option<&Arc<Resource>>,
        dirty: &mut HashSet<Arc<str>>,
    ) {
        for (resource, present) in [(old, false), (new, true)] {
            let Some(resource) = resource else { continue };
            match resource.key.kind {
                Kind::ServiceEntry => self.change_service(resource, present, dirty),
                Kind::WorkloadEntry => self.change_workload(resource, present, dirty),
                _ => {}
            }
        }
    }

    fn change_service(&mut self, resource: &Arc<Resource>, present: bool, dirty: &mut HashSet<Arc<str>>) {
        let Some(spec) = resource.spec::<ServiceEntry>() else { return };
        for host in &spec.hosts {
            let host: Arc<str> = host.to_ascii_lowercase().into();
            let declarations = self.by_host.entry(host.clone()).or_default();
            declarations.retain(|declaration| declaration.resource.key != resource.key);
            if present {
                let seniority = Seniority::of(resource);
                let at = declarations.partition_point(|declaration| declaration.seniority < seniority);
                declarations.insert(at, Declaration { seniority, resource: resource.clone() });
            } else if declarations.is_empty() {
                self.by_host.remove(&host);
            }
            dirty.insert(host);
        }
        let selecting = self.selecting.entry(resource.key.namespace.clone()).or_default();
        if present && spec.workload_selector.is_some() {
            selecting.insert(resource.key.clone());
        } else {
            selecting.remove(&resource.key);
        }
    }

    fn change_workload(&mut self, resource: &Arc<Resource>, present: bool, dirty: &mut HashSet<Arc<str>>) {
        let namespace = &resource.key.namespace;
        let workloads = self.workloads.entry(namespace.clone()).or_default();
        if present {
            workloads.insert(resource.key.clone(), resource.clone());
        } else {
            workloads.remove(&resource.key);
        }
        let Some(selecting) = self.selecting.get(namespace) else { return };
        if selecting.is_empty() {
            return;
        }
        let Some(spec) = resource.spec::<WorkloadEntry>() else { return };
        let workload = Workload { entry: spec, metadata: Some(&resource.meta.labels) };
        for (host, declarations) in &self.by_host {
            let selects = |declaration: &Declaration| {
                selecting.contains(&declaration.resource.key)
                    && declaration
                        .resource
                        .spec::<ServiceEntry>()
                        .and_then(|spec| spec.workload_selector.as_ref())
                        .is_some_and(|selector| workload.has_labels(&selector.labels))
            };
            if declarations.iter().any(selects) {
                dirty.insert(host.clone());
            }
        }
    }

    /// The service of a host as a rule in `preferred` sees it through a gateway in `viewer`: one of the rule's own
    /// namespace if there is a visible one, else the oldest visible one.
    pub(super) fn find<'a>(
        &'a self,
        host: &str,
        preferred: &str,
        viewer: &str,
        default_export_to: &[String],
    ) -> Option<Service<'a>> {
        self.pick(host, preferred, |key, spec| is_visible(&spec.export_to, default_export_to, &key.namespace, viewer))
    }

    /// The service of a host out of those that `admits` takes: of a preferred namespace, else the oldest.
    pub(super) fn pick<'a>(
        &'a self,
        host: &str,
        preferred: &str,
        admits: impl Fn(&ResourceKey, &ServiceEntry) -> bool,
    ) -> Option<Service<'a>> {
        let declarations = self.by_host.get(host)?;
        let admitted = || {
            declarations.iter().filter_map(|declaration| {
                let spec = declaration.resource.spec::<ServiceEntry>()?;
                let key = &declaration.resource.key;
                admits(key, spec).then_some((key, spec, &declaration.seniority))
            })
        };
        let homes = || admitted().map(|(key, ..)| &key.namespace);
        let namespace = homes().find(|home| ***home == *preferred).or_else(|| homes().next())?;
        let own = || admitted().filter(|(key, ..)| key.namespace == *namespace);
        let seniority = own().next().map(|(.., seniority)| seniority)?;
        Some(Service { namespace, seniority, entries: own().map(|(key, spec, _)| (key, spec)).collect() })
    }

    /// All hosts that are declared, in no order.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_host.keys()
    }

    /// The ServiceEntries of a namespace that select their endpoints.
    pub(super) fn selecting(&self, namespace: &str) -> impl Iterator<Item = &ResourceKey> {
        self.selecting.get(namespace).into_iter().flatten()
    }

    /// The endpoints of a port's ServiceEntry.
    pub(super) fn workloads<'a>(&'a self, namespace: &str, entry: &'a ServiceEntry) -> Vec<Workload<'a>> {
        let Some(selector) = &entry.workload_selector else {
            return entry.endpoints.iter().map(|entry| Workload { entry, metadata: None }).collect();
        };
        let all = self.workloads.get(namespace).into_iter().flat_map(BTreeMap::values);
        all.filter_map(|resource| {
            let workload = Workload { entry: resource.spec()?, metadata: Some(&resource.meta.labels) };
            workload.has_labels(&selector.labels).then_some(workload)
        })
        .collect()
    }
}

impl<'a> Service<'a> {
    pub(super) fn port(&self, number: u16) -> Option<ServedPort<'a>> {
        self.ports().find(|port| port.number == number)
    }

    /// The port, if the service has exactly one.
    pub(super) fn only_port(&self) -> Option<ServedPort<'a>> {
        let first = self.ports().next()?;
        self.ports().all(|port| port.number == first.number).then_some(first)
    }

    /// The ServiceEntries that declare the host.
    pub(super) fn declared_by(&self) -> impl Iterator<Item = &'a ResourceKey> {
        self.entries.iter().map(|(key, _)| *key)
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = ServedPort<'a>> {
        self.entries.iter().flat_map(|(key, entry)| {
            entry.ports.iter().filter_map(|port| {
                let number = u16::try_from(*port.number).ok().filter(|number| *number > 0)?;
                Some(ServedPort { key, entry, port, number })
            })
        })
    }
}
