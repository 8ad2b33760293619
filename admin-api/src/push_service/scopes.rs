//! The scopes that proxies follow, kept in step with the resources.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use push::MODEL_VERSION;
use push::message::{Key, role_name};
use push::server::{Entry, Scope};
use route_model::compile::ProxyScope;
use route_model::meta::ResourceKey;
use route_model::resource::{Resource, ResourceSet};
use serde_json::Value;
use tracing::error;

use super::reach::reach;
use crate::api::Reach;

/// A scope that nobody follows is kept so long: its proxies may be on their way back, and find a delta then.
const KEPT_IDLE: Duration = Duration::from_mins(5);

/// What `kubectl apply` writes to compare with; as large as the object itself, and of no use to a proxy.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// All live scopes. They move together: each is at the revision of the last set.
#[derive(Debug)]
pub(super) struct Scopes {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    set: Arc<ResourceSet>,
    live: HashMap<String, Live>,
    /// What scopes of other replicas' proxies hold of this set, as far as somebody asked.
    elsewhere: HashMap<String, Reach>,
    /// The serialised form of every resource that some scope holds.
    bodies: HashMap<ResourceKey, (Arc<Resource>, Entry)>,
}

#[derive(Debug)]
struct Live {
    proxies: ProxyScope,
    /// The generation of the model that the proxies know.
    model_version: u32,
    scope: Arc<Scope>,
    /// What the scope holds, by key.
    reached: Vec<Arc<Resource>>,
    /// The same, to be asked for.
    reach: Reach,
    idle_since: Option<Instant>,
}

impl Scopes {
    pub(super) fn new(set: Arc<ResourceSet>) -> Self {
        Self {
            inner: Mutex::new(Inner { set, live: HashMap::new(), elsewhere: HashMap::new(), bodies: HashMap::new() }),
        }
    }

    /// The scope of proxies like this one, which know this generation of the model.
    pub(super) fn of(&self, proxies: &ProxyScope, model_version: u32) -> Arc<Scope> {
        let model_version = model_version.min(MODEL_VERSION);
        let id = id(proxies, model_version);
        let inner = &mut *self.lock();
        if let Some(live) = inner.live.get_mut(&id) {
            live.idle_since = None;
            return live.scope.clone();
        }
        let mut live = Live {
            proxies: proxies.clone(),
            model_version,
            scope: Arc::new(Scope::new(id.as_str()).of_model(model_version)),
            reached: Vec::new(),
            reach: Reach::default(),
            idle_since: None,
        };
        live.update(&inner.set, &mut inner.bodies);
        let scope = live.scope.clone();
        inner.live.insert(id, live);
        scope
    }

    /// What is meant for proxies like this one, whichever replica they are connected to. May take as long as an update.
    pub(super) fn reach_of(&self, proxies: &ProxyScope, model_version: u32) -> Reach {
        let model_version = model_version.min(MODEL_VERSION);
        let id = id(proxies, model_version);
        let inner = &mut *self.lock();
        if let Some(live) = inner.live.get(&id) {
            return live.reach.clone();
        }
        let known = inner.elsewhere.entry(id);
        let known = known.or_insert_with(|| {
            let reached = reach(&inner.set, proxies);
            Reach::new(inner.set.revision, keys(&reached, model_version))
        });
        known.clone()
    }

    /// Of proxies to which nothing is sent.
    pub(super) fn reach_of_nobody(&self) -> Reach {
        Reach::new(self.lock().set.revision, [])
    }

    /// Brings every scope to this set. Takes milliseconds with ten thousand resources, so not for an async thread.
    pub(super) fn update(&self, set: &Arc<ResourceSet>) {
        let inner = &mut *self.lock();
        inner.set = set.clone();
        inner.elsewhere.clear();
        inner.live.retain(|_, live| {
            let idle = Arc::strong_count(&live.scope) == 1;
            let since = if idle { Some(live.idle_since.unwrap_or_else(Instant::now)) } else { None };
            live.idle_since = since;
            since.is_none_or(|since| since.elapsed() < KEPT_IDLE)
        });
        for live in inner.live.values_mut() {
            live.update(set, &mut inner.bodies);
        }
        inner.bodies.retain(|key, (resource, _)| set.get(key).is_some_and(|current| Arc::ptr_eq(current, resource)));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn update(&mut self, set: &Arc<ResourceSet>, bodies: &mut HashMap<ResourceKey, (Arc<Resource>, Entry)>) {
        let next = reach(set, &self.proxies);
        let mut before = self.reached.iter().peekable();
        let (mut upserts, mut removed) = (Vec::new(), Vec::new());
        for resource in &next {
            while let Some(gone) = before.next_if(|old| old.key < resource.key) {
                removed.push(Key::from(&gone.key));
            }
            if before.next_if(|old| old.key == resource.key).is_some_and(|old| Arc::ptr_eq(old, resource)) {
                continue;
            }
            match entry(resource, bodies) {
                Some(entry) => upserts.push((Key::from(&resource.key), entry)),
                None => removed.push(Key::from(&resource.key)),
            }
        }
        removed.extend(before.map(|gone| Key::from(&gone.key)));
        let same_keys = next.len() == self.reached.len() && next.iter().zip(&self.reached).all(|(a, b)| a.key == b.key);
        self.reach = if same_keys {
            self.reach.at(set.revision)
        } else {
            Reach::new(set.revision, keys(&next, self.model_version))
        };
        self.scope.publish(set.revision, upserts, removed);
        self.reached = next;
    }
}

/// The keys of what proxies of this generation of the model are sent.
fn keys(reached: &[Arc<Resource>], model_version: u32) -> impl Iterator<Item = ResourceKey> {
    let known = reached.iter().filter(move |resource| resource.key.kind.info().since <= model_version);
    known.map(|resource| resource.key.clone())
}

/// The resource as it travels; `None` when it is too large to.
fn entry(resource: &Arc<Resource>, bodies: &mut HashMap<ResourceKey, (Arc<Resource>, Entry)>) -> Option<Entry> {
    if let Some((serialised, entry)) = bodies.get(&resource.key)
        && Arc::ptr_eq(serialised, resource)
    {
        return Some(entry.clone());
    }
    match Entry::new(body(resource)) {
        Ok(entry) => {
            let entry = entry.since(resource.key.kind.info().since);
            bodies.insert(resource.key.clone(), (resource.clone(), entry.clone()));
            Some(entry)
        }
        Err(error) => {
            error!(resource = %resource.key, %error, "a resource is left out");
            None
        }
    }
}

/// The object without what changes when nothing that a proxy looks at does: proxies need not hear of that.
fn body(resource: &Resource) -> String {
    let mut object = resource.to_object();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("resourceVersion");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.shift_remove(LAST_APPLIED);
        }
    }
    object.to_string()
}

/// The same for the same proxies on every replica and after every restart.
fn id(proxies: &ProxyScope, model_version: u32) -> String {
    let mut context = Context::new(&SHA256);
    let labels: &BTreeMap<String, String> = &proxies.labels;
    for text in labels.iter().flat_map(|(key, value)| [key, value]) {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    let role = role_name(proxies.role);
    let labels = crate::base64_url(&context.finish().as_ref()[..12]);
    format!("{role}/{}/{labels}/{model_version}", proxies.namespace)
}

#[cfg(test)]
mod tests {
    use route_model::compile::ProxyRole;
    use route_model::kind::Kind;
    use route_model::meta::Revision;
    use serde_json::json;

    use super::*;

    fn proxies(label: &str) -> ProxyScope {
        let labels = BTreeMap::from([("istio".to_owned(), label.to_owned())]);
        ProxyScope { role: ProxyRole::Gateway, namespace: "istio-system".into(), labels }
    }

    fn gateway(selector: &str, version: &str) -> Arc<Resource> {
        let object = json!({
            "metadata": {
                "name": "edge", "namespace": "shop", "resourceVersion": version,
                "annotations": {LAST_APPLIED: version, "note": "kept"},
            },
            "spec": {"selector": {"istio": selector}},
        });
        Arc::new(Resource::from_object(Kind::Gateway, &object).unwrap())
    }

    fn set(revision: u64, resource: Option<Arc<Resource>>) -> Arc<ResourceSet> {
        let mut set = ResourceSet::default();
        set.revision = Revision(revision);
        if let Some(resource) = resource {
            set.insert(resource);
        }
        Arc::new(set)
    }

    #[test]
    fn proxies_with_the_same_labels_share_a_scope() {
        let scopes = Scopes::new(set(1, Some(gateway("a", "1"))));
        assert!(Arc::ptr_eq(&scopes.of(&proxies("a"), MODEL_VERSION), &scopes.of(&proxies("a"), MODEL_VERSION)));
        assert_ne!(scopes.of(&proxies("a"), MODEL_VERSION).id(), scopes.of(&proxies("b"), MODEL_VERSION).id());
        assert_eq!(
            (scopes.of(&proxies("a"), MODEL_VERSION).len(), scopes.of(&proxies("b"), MODEL_VERSION).len()),
            (1, 0)
        );
    }

    #[test]
    fn a_scope_hears_of_what_it_holds_and_passes_over_the_rest() {
        let scopes = Scopes::new(set(1, None));
        let scope = scopes.of(&proxies("a"), MODEL_VERSION);
        assert_eq!(scope.effective(Revision(1)), Revision(1));
        scopes.update(&set(2, Some(gateway("b", "2"))));
        assert_eq!(scope.effective(Revision(1)), Revision(2), "another scope's Gateway is no news");
        scopes.update(&set(3, Some(gateway("a", "3"))));
        assert_eq!((scope.len(), scope.effective(Revision(1))), (1, Revision(2)));
        scopes.update(&set(4, Some(gateway("a", "4"))));
        assert_eq!(scope.effective(Revision(3)), Revision(4), "only the resourceVersion changed");
        scopes.update(&set(5, None));
        assert_eq!((scope.len(), scope.effective(Revision(3))), (0, Revision(4)));
    }

    #[test]
    fn proxies_of_an_older_model_are_a_scope_of_their_own_and_are_not_sent_what_is_newer() {
        let scopes = Scopes::new(set(1, Some(gateway("a", "1"))));
        let (old, new) = (scopes.of(&proxies("a"), 0), scopes.of(&proxies("a"), MODEL_VERSION + 1));
        assert!(Arc::ptr_eq(&new, &scopes.of(&proxies("a"), MODEL_VERSION)), "this build sends no more than it knows");
        assert_eq!((old.len(), new.len()), (0, 1));
        assert_eq!(
            (old.held_back().into_iter().collect::<Vec<_>>(), new.held_back().len()),
            (vec!["Gateway".to_owned()], 0)
        );
        let key = ResourceKey::new(Kind::Gateway, "shop", "edge");
        let sent = |version: u32| scopes.reach_of(&proxies("a"), version).contains(&key, Revision(1));
        assert_eq!((sent(0), sent(MODEL_VERSION)), (Some(false), Some(true)));
    }

    #[test]
    fn this_build_knows_every_kind() {
        assert!(Kind::ALL.into_iter().all(|kind| (1..=MODEL_VERSION).contains(&kind.info().since)));
    }

    #[test]
    fn bodies_are_free_of_what_proxies_do_not_need() {
        let body: Value = serde_json::from_str(&body(&gateway("a", "7"))).unwrap();
        assert_eq!(body["metadata"]["annotations"], json!({"note": "kept"}));
        assert_eq!(body["metadata"].get("resourceVersion"), None);
    }
}
