//! The workloads of a view, and keeping what is generated from them in step with what people write.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use push::declared::service_key;
use route_model::kind::Kind;
use route_model::kinds::{ServiceEntry, WorkloadGroup};
use route_model::meta::ResourceKey;
use serde_json::{Value, json};

use super::super::{Change, RegisteredWorkload, StoredObject};
use super::generate::{entry_key, host_of, service_entry, workload_entry};
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};
    use push::workload::{DeclaredService, Workload, WorkloadPort};
    use route_model::meta::Revision;

    use super::super::super::{Head, Registration};
    use super::*;

    const NODES: [&str; 4] = ["reviews-1", "reviews-2", "Ratings_1", "mine"];
    const NAMESPACES: [&str; 2] = ["shop", "bank"];
    const HOSTS: [&str; 4] = ["reviews", "reviews.shop.svc.cluster.local", "mine", "api.example.com"];

    /// Something that happens. Without a form it goes.
    #[derive(Clone, Debug)]
    enum Step {
        Workload(&'static str, Option<Registration>),
        Written(ResourceKey, Option<Value>),
    }

    fn registration() -> impl Strategy<Value = Registration> {
        let declared = subsequence(HOSTS.to_vec(), 0..=HOSTS.len());
        let port = select(vec![("http", 80), ("http", 81), ("tcp", 80)]);
        (select(NODES.to_vec()), select(NAMESPACES.to_vec()), declared, port, any::<bool>(), select(vec!["", "vms"]))
            .prop_map(|(node, namespace, hosts, (name, number), ready, group)| Registration {
                node: node.to_owned(),
                namespace: namespace.to_owned(),
                service_account: "books".to_owned(),
                workload: Workload {
                    address: "10.0.0.1".to_owned(),
                    ports: vec![WorkloadPort { name: name.to_owned(), number, ..WorkloadPort::default() }],
                    services: hosts
                        .into_iter()
                        .map(|host| DeclaredService { host: host.to_owned(), ports: Vec::new() })
                        .collect(),
                    group: group.to_owned(),
                    ready,
                    ..Workload::default()
                },
            })
    }

    fn step() -> impl Strategy<Value = Step> {
        let spec = |kind, host: &str| match kind {
            Kind::WorkloadEntry => json!({"address": "10.9.9.9"}),
            Kind::WorkloadGroup => json!({"template": {"labels": {"from": host}}}),
            _ => json!({
                "hosts": [host], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "resolution": "STATIC", "location": "MESH_INTERNAL",
            }),
        };
        let kinds = vec![Kind::WorkloadEntry, Kind::ServiceEntry, Kind::WorkloadGroup];
        let names = vec!["reviews-1", "reviews", "mine", "vms"];
        let hosts = vec!["reviews.shop.svc.cluster.local", "mine.bank.svc.cluster.local", "api.example.com"];
        let written = (select(kinds), select(NAMESPACES.to_vec()), select(names), select(hosts), any::<bool>())
            .prop_map(move |(kind, namespace, name, host, there)| {
                let key = ResourceKey::new(kind, namespace, name);
                let object = there.then(|| {
                    json!({
                        "apiVersion": key.kind.info().api_version(key.kind.info().preferred_version()),
                        "kind": key.kind.name(),
                        "metadata": {"name": name, "namespace": namespace},
                        "spec": spec(kind, host),
                    })
                });
                Step::Written(key, object)
            });
        let node = |registration: &Registration| {
            NODES.into_iter().find(|node| *node == registration.node).expect("one of them")
        };
        prop_oneof![
            3 => registration().prop_map(move |registration| Step::Workload(node(&registration), Some(registration))),
            1 => select(NODES.to_vec()).prop_map(|node| Step::Workload(node, None)),
            2 => written,
        ]
    }

    fn empty() -> View {
        View::empty(Head { store_id: "s".into(), resource_version: 0, revision: Revision(0), tokens: 0 })
    }

    /// All objects, without their resourceVersions, which say when a view came to them.
    fn shown(view: &View) -> BTreeMap<ResourceKey, (bool, Value)> {
        let plain = |object: &StoredObject| {
            let mut plain = Value::clone(&object.object);
            plain["metadata"]["resourceVersion"] = Value::Null;
            (object.generated, plain)
        };
        view.objects.values().flat_map(|of_kind| of_kind.iter()).map(|(key, o)| (key.clone(), plain(o))).collect()
    }

    /// What the database holds, and the view that follows it.
    struct World {
        written: BTreeMap<ResourceKey, Arc<StoredObject>>,
        workloads: BTreeMap<&'static str, RegisteredWorkload>,
        view: View,
        /// What a watcher makes of the changes.
        watched: BTreeMap<ResourceKey, Arc<StoredObject>>,
        version: u64,
    }

    impl World {
        fn happen(&mut self, steps: Vec<Step>) {
            let (mut changes, mut registered) = (Vec::new(), BTreeMap::new());
            for step in steps {
                self.version += 1;
                match step {
                    Step::Workload(node, Some(registration)) => {
                        let now = Timestamp::from_second(self.version as i64).unwrap();
                        let since = self.workloads.get(node).map_or(now, |known| known.since);
                        let replica = "a".to_owned();
                        let row =
                            RegisteredWorkload { registration, version: self.version, since, replica, gone: false };
                        self.workloads.insert(node, row.clone());
                        registered.insert(node, row);
                    }
                    Step::Workload(node, None) => {
                        if let Some(row) = self.workloads.remove(node) {
                            registered.insert(node, RegisteredWorkload { gone: true, ..row });
                        }
                    }
                    Step::Written(key, object) => {
                        let after = object.map(|object| {
                            let preview = StoredObject::preview(&key, None, object, Timestamp::UNIX_EPOCH);
                            Arc::new(StoredObject { resource_version: self.version, ..preview })
                        });
                        let before = match &after {
                            Some(after) => self.written.insert(key.clone(), after.clone()),
                            None => self.written.remove(&key),
                        };
                        if before.is_none() && after.is_none() {
                            continue;
                        }
                        match &after {
                            Some(after) => self.view.put(after.clone()).unwrap(),
                            None => self.view.remove(&key),
                        }
                        let (resource_version, revision) = (self.version, Revision(self.version));
                        changes.push(Arc::new(Change { resource_version, revision, key, before, after }));
                    }
                }
            }
            self.view.advance(self.version, Revision(self.version));
            let generated = self.view.register(registered.into_values().collect(), &changes);
            for change in changes.iter().map(|change| &**change).chain(&generated) {
                match &change.after {
                    Some(after) => drop(self.watched.insert(change.key.clone(), after.clone())),
                    None => drop(self.watched.remove(&change.key)),
                }
            }
        }

        /// The view of somebody who reads all of it at once.
        fn read(&self) -> View {
            let mut view = empty();
            for object in self.written.values() {
                view.put(object.clone()).unwrap();
            }
            view.advance(self.version, Revision(self.version));
            view.register(self.workloads.values().cloned().collect(), &[]);
            view
        }
    }

    proptest! {
        #[test]
        fn who_follows_sees_what_he_sees_who_reads_it_at_once(
            batches in prop::collection::vec(prop::collection::vec(step(), 1..5), 1..12),
        ) {
            let mut world = World {
                written: BTreeMap::new(),
                workloads: BTreeMap::new(),
                view: empty(),
                watched: BTreeMap::new(),
                version: 0,
            };
            for batch in batches {
                world.happen(batch);
                let read = world.read();
                let followed = shown(&world.view);
                prop_assert_eq!(&followed, &shown(&read));
                for node in NODES {
                    prop_assert_eq!(world.view.workload_problems(node), read.workload_problems(node));
                }
                let sent: Vec<_> = world.view.resources.iter().map(|resource| resource.key.clone()).collect();
                prop_assert_eq!(sent, followed.keys().cloned().collect::<Vec<_>>());
                let watched: BTreeMap<_, _> = world.watched.iter().collect();
                for (key, object) in &watched {
                    prop_assert!(world.view.get(key).is_some_and(|held| Arc::ptr_eq(held, object)), "{}", key);
                }
                prop_assert_eq!(watched.len(), followed.len());
            }
        }
    }
}
