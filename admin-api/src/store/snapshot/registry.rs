//! The workloads of a view, and keeping what is generated from them in step with what people write.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use route_model::kind::Kind;
use route_model::kinds::{ServiceEntry, WorkloadGroup};
use route_model::meta::ResourceKey;
use serde_json::{Value, json};

use super::super::{Change, RegisteredWorkload, StoredObject};
use super::generate::{entry_key, host_of, service_entry, service_key, workload_entry};
use super::view::{View, typed};

/// The registered workloads, indexed by what is generated from them.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    /// By node.
    workloads: BTreeMap<String, Arc<RegisteredWorkload>>,
    /// The node of each WorkloadEntry.
    entries: BTreeMap<ResourceKey, String>,
    /// By ServiceEntry.
    services: BTreeMap<ResourceKey, Declared>,
    /// Why something is not generated as its workloads would have it.
    problems: BTreeMap<ResourceKey, Vec<String>>,
}

/// A host and the nodes that declare it.
#[derive(Clone, Debug)]
struct Declared {
    host: String,
    nodes: BTreeSet<String>,
}

impl Registry {
    /// Takes over a workload as it is now; adds to `dirty` what is generated from it.
    fn take(&mut self, registered: RegisteredWorkload, dirty: &mut BTreeSet<ResourceKey>) {
        let node = registered.registration.node.clone();
        if let Some(before) = self.workloads.remove(&node) {
            let entry = entry_key(&before.registration);
            self.entries.remove(&entry);
            dirty.insert(entry);
            for (service, _) in services(&before) {
                if let Some(declared) = self.services.get_mut(&service) {
                    declared.nodes.remove(&node);
                    if declared.nodes.is_empty() {
                        self.services.remove(&service);
                    }
                }
                dirty.insert(service);
            }
        }
        if registered.gone {
            return;
        }
        let entry = entry_key(&registered.registration);
        self.entries.insert(entry.clone(), node.clone());
        dirty.insert(entry);
        for (service, host) in services(&registered) {
            let declared = self.services.entry(service.clone());
            let declared = declared.or_insert_with(|| Declared { host, nodes: BTreeSet::new() });
            declared.nodes.insert(node.clone());
            dirty.insert(service);
        }
        self.workloads.insert(node, Arc::new(registered));
    }

    /// Adds to `dirty` what a change of what people wrote may make different.
    fn note(&self, change: &Change, dirty: &mut BTreeSet<ResourceKey>) {
        if self.workloads.is_empty() {
            return;
        }
        let key = &change.key;
        match key.kind {
            Kind::WorkloadGroup => {
                let of_group = self.workloads.values().map(|registered| &registered.registration);
                let of_group = of_group.filter(|registration| {
                    registration.namespace == *key.namespace && registration.workload.group == *key.name
                });
                dirty.extend(of_group.map(entry_key));
            }
            Kind::WorkloadEntry if self.entries.contains_key(key) => drop(dirty.insert(key.clone())),
            Kind::ServiceEntry => {
                let forms = change.before.iter().chain(&change.after);
                let hosts = forms.flat_map(|form| form.object["spec"]["hosts"].as_array().into_iter().flatten());
                let named =
                    hosts.filter_map(Value::as_str).map(|host| service_key(&key.namespace, &host.to_lowercase()));
                dirty.extend(named.chain([key.clone()]).filter(|key| self.services.contains_key(key)));
            }
            _ => {}
        }
    }

    /// The nodes that something is generated from.
    fn nodes_of<'a>(&'a self, key: &ResourceKey) -> Box<dyn Iterator<Item = &'a Arc<RegisteredWorkload>> + 'a> {
        let nodes: Vec<&String> = match self.entries.get(key) {
            Some(node) => vec![node],
            None => self.services.get(key).into_iter().flat_map(|declared| &declared.nodes).collect(),
        };
        Box::new(nodes.into_iter().filter_map(|node| self.workloads.get(node)))
    }
}

fn services(registered: &RegisteredWorkload) -> impl Iterator<Item = (ResourceKey, String)> {
    let registration = &registered.registration;
    registration.workload.services.iter().map(|service| {
        let host = host_of(registration, service);
        (service_key(&registration.namespace, &host), host)
    })
}

impl View {
    /// The workload that a node registered.
    pub fn workload(&self, node: &str) -> Option<&Arc<RegisteredWorkload>> {
        self.registry.workloads.get(node)
    }

    /// Why what is generated from a node's workload is not as it would have it.
    pub fn workload_problems(&self, node: &str) -> Vec<String> {
        let Some(registered) = self.workload(node) else { return Vec::new() };
        let keys = services(registered).map(|(key, _)| key).chain([entry_key(&registered.registration)]);
        keys.filter_map(|key| self.registry.problems.get(&key)).flatten().cloned().collect()
    }

    pub(super) fn has_workloads(&self) -> bool {
        !self.registry.workloads.is_empty()
    }

    /// Takes over workloads, and generates anew what they or the changes (which the view holds already) make different.
    pub(super) fn register(&mut self, workloads: Vec<RegisteredWorkload>, changes: &[Arc<Change>]) -> Vec<Change> {
        let mut dirty = BTreeSet::new();
        for change in changes {
            self.registry.note(change, &mut dirty);
        }
        if !workloads.is_empty() {
            let registry = Arc::make_mut(&mut self.registry);
            for registered in workloads {
                registry.take(registered, &mut dirty);
            }
        }
        if dirty.is_empty() {
            return Vec::new();
        }
        let by_hand = self.hosts_by_hand(&dirty);
        dirty.into_iter().filter_map(|key| self.generate(key, &by_hand)).collect()
    }

    /// The hosts of ServiceEntries that people wrote, with their namespaces; none where nobody asks.
    fn hosts_by_hand(&self, dirty: &BTreeSet<ResourceKey>) -> HashSet<(Arc<str>, String), RandomState> {
        if dirty.iter().all(|key| key.kind != Kind::ServiceEntry) {
            return HashSet::default();
        }
        let by_hand = self.resources.specs::<ServiceEntry>().filter(|(resource, _)| !self.is_generated(&resource.key));
        let hosts = by_hand.flat_map(|(resource, entry)| {
            entry.hosts.iter().map(|host| (resource.key.namespace.clone(), host.to_ascii_lowercase()))
        });
        hosts.collect()
    }

    /// Brings one generated object in line.
    fn generate(&mut self, key: ResourceKey, by_hand: &HashSet<(Arc<str>, String), RandomState>) -> Option<Change> {
        let mut problems = Vec::new();
        let wanted = self.wanted(&key, by_hand, &mut problems);
        let before = self.get(&key).cloned();
        if before.as_ref().is_some_and(|object| !object.generated) {
            if wanted.is_some() {
                problems.push(format!(
                    "{key} is written by hand, so none is generated under this name; name it otherwise or delete it"
                ));
            }
            self.note_problems(&key, problems);
            return None;
        }
        let after = wanted.and_then(|object| self.shown(&key, object, before.as_deref(), &mut problems));
        self.note_problems(&key, problems);
        match (&before, &after) {
            (None, None) => return None,
            (Some(before), Some(after)) if Arc::ptr_eq(before, after) => return None,
            (Some(_), None) => self.remove(&key),
            (_, Some(after)) => self.put_generated(after.clone()),
        }
        let (resource_version, revision) = (self.head.resource_version, self.head.revision);
        Some(Change { resource_version, revision, key, before, after })
    }

    fn wanted(
        &self,
        key: &ResourceKey,
        by_hand: &HashSet<(Arc<str>, String), RandomState>,
        problems: &mut Vec<String>,
    ) -> Option<Value> {
        if key.kind == Kind::ServiceEntry {
            let declared = self.registry.services.get(key)?;
            if by_hand.contains(&(key.namespace.clone(), declared.host.clone())) {
                return None;
            }
            let mut workloads: Vec<&RegisteredWorkload> = self.registry.nodes_of(key).map(Arc::as_ref).collect();
            workloads.sort_by(|a, b| (a.since, &a.registration.node).cmp(&(b.since, &b.registration.node)));
            return service_entry(key, &declared.host, &workloads, problems);
        }
        let registered = self.registry.nodes_of(key).next()?;
        let name = &registered.registration.workload.group;
        let group = ResourceKey::new(Kind::WorkloadGroup, key.namespace.clone(), name.as_str());
        let group = self.resources.get(&group).and_then(|group| group.spec::<WorkloadGroup>());
        if !name.is_empty() && group.is_none() {
            problems.push(format!("there is no WorkloadGroup {}/{name}, so its template is not used", key.namespace));
        }
        let meant = group.and_then(|group| group.template.as_ref()).map_or("", |template| &*template.service_account);
        let is = &*registered.registration.service_account;
        if !meant.is_empty() && !is.is_empty() && meant != is {
            problems.push(format!(
                "WorkloadGroup {}/{name} is for the service account {meant}, and the sidecar's identity is {is}, which counts",
                key.namespace
            ));
        }
        registered.registration.workload.ready.then(|| workload_entry(key, registered, group))
    }

    /// The object as it is stored nowhere but here; the one of before if nothing differs.
    fn shown(
        &self,
        key: &ResourceKey,
        mut object: Value,
        before: Option<&StoredObject>,
        problems: &mut Vec<String>,
    ) -> Option<Arc<StoredObject>> {
        if let Some(before) = before {
            object["metadata"]["resourceVersion"] = json!(before.resource_version.to_string());
            if *before.object == object {
                return self.get(key).cloned();
            }
        }
        let resource_version = self.head.resource_version;
        object["metadata"]["resourceVersion"] = json!(resource_version.to_string());
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().into();
        let stored = StoredObject {
            key: key.clone(),
            uid,
            generation: 1,
            resource_version,
            object: Arc::new(object),
            fault: None,
            generated: true,
        };
        match typed(&stored) {
            Ok(_) => Some(Arc::new(stored)),
            Err(errors) => {
                let first = errors.first().map(ToString::to_string).unwrap_or_default();
                problems.push(format!("{key} would not be valid: {first}"));
                None
            }
        }
    }

    fn note_problems(&mut self, key: &ResourceKey, problems: Vec<String>) {
        if self.registry.problems.get(key).map_or(&[][..], Vec::as_slice) == problems {
            return;
        }
        for problem in &problems {
            tracing::warn!(resource = %key, problem, "a workload is not shown as it registered");
        }
        let known = &mut Arc::make_mut(&mut self.registry).problems;
        if problems.is_empty() {
            known.remove(key);
        } else {
            known.insert(key.clone(), problems);
        }
    }
}
