//! The scopes that proxies follow, kept in step with the resources.

mod bodies;
mod held;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use push::MODEL_VERSION;
use push::message::role_name;
use push::server::{Layer, Scope};
use route_model::compile::{ProxyRole, ProxyScope};
use route_model::meta::ResourceKey;
use route_model::resource::ResourceSet;

use self::bodies::Bodies;
use self::held::{Held, Step};
use super::reach::{self, Common, MeshView};
use crate::api::Reach;

/// A scope that nobody follows is kept so long: its proxies may be on their way back, and find a delta then.
const KEPT_IDLE: Duration = Duration::from_mins(5);

/// All live scopes. They move together: each is at the revision of the last set.
#[derive(Debug)]
pub(super) struct Scopes {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    set: Arc<ResourceSet>,
    /// The set as sidecars see it, once there are any.
    mesh: Option<Arc<MeshView>>,
    bases: HashMap<BaseKey, Base>,
    /// By id.
    live: HashMap<String, Live>,
    bodies: Bodies,
}

/// Whose common part a layer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum BaseKey {
    /// What gateways of one scope have: all of it.
    Gateways { id: String },
    /// What the workloads of a namespace have that follow the same Sidecar.
    Workloads { namespace: Arc<str>, sidecar: Option<ResourceKey>, model_version: u32 },
}

/// What several scopes have in common.
#[derive(Debug)]
struct Base {
    layer: Arc<Layer>,
    /// One of those whose it is.
    proxies: ProxyScope,
    held: Held,
    common: Common,
}

#[derive(Debug)]
struct Live {
    proxies: ProxyScope,
    /// The generation of the model that the proxies know.
    model_version: u32,
    scope: Arc<Scope>,
    base: BaseKey,
    /// What the scope holds beside its base.
    own: Held,
    /// All that it holds, to be asked for.
    reach: Reach,
    idle_since: Option<Instant>,
}

impl Scopes {
    pub(super) fn new(set: Arc<ResourceSet>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                set,
                mesh: None,
                bases: HashMap::new(),
                live: HashMap::new(),
                bodies: Bodies::default(),
            }),
        }
    }

    /// The scope of proxies like this one, which know this generation of the model.
    pub(super) fn of(&self, proxies: &ProxyScope, model_version: u32) -> Arc<Scope> {
        let inner = &mut *self.lock();
        let live = inner.live(proxies, model_version);
        live.idle_since = None;
        live.scope.clone()
    }

    /// What is meant for proxies like this one, whichever replica they are connected to.
    pub(super) fn reach_of(&self, proxies: &ProxyScope, model_version: u32) -> Reach {
        self.lock().live(proxies, model_version).reach.clone()
    }

    /// What is meant for the proxies of a scope that somebody follows.
    pub(super) fn reach_in(&self, scope: &Scope) -> Reach {
        let inner = &*self.lock();
        inner.live.get(&**scope.id()).map_or_else(|| Reach::new(inner.set.revision, []), |live| live.reach.clone())
    }

    /// Of proxies to which nothing is sent.
    pub(super) fn reach_of_nobody(&self) -> Reach {
        Reach::new(self.lock().set.revision, [])
    }

    /// Brings every scope to this set. Takes milliseconds with ten thousand resources, so not for an async thread.
    pub(super) fn update(&self, set: &Arc<ResourceSet>) {
        let inner = &mut *self.lock();
        if Arc::ptr_eq(&inner.set, set) {
            return;
        }
        inner.set = set.clone();
        inner.mesh = None;
        inner.live.retain(|_, live| {
            let idle = Arc::strong_count(&live.scope) == 1;
            let since = if idle { Some(live.idle_since.unwrap_or_else(Instant::now)) } else { None };
            live.idle_since = since;
            since.is_none_or(|since| since.elapsed() < KEPT_IDLE)
        });
        inner.choose_bases();
        let mesh = inner.mesh.clone();
        let Inner { bases, live, bodies, .. } = inner;
        let used: HashSet<&BaseKey> = live.values().map(|live| &live.base).collect();
        bases.retain(|key, _| used.contains(key));
        for (key, base) in &mut *bases {
            base.update(key, set, mesh.as_deref(), bodies);
        }
        for live in live.values_mut() {
            live.update(&bases[&live.base], set, mesh.as_deref(), bodies);
        }
        bodies.forget_gone(set);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn mesh(&mut self) -> Arc<MeshView> {
        self.mesh.get_or_insert_with(|| Arc::new(MeshView::of(&self.set))).clone()
    }

    /// Which layer proxies have in common with others, now.
    fn base_of(&mut self, id: &str, proxies: &ProxyScope, model_version: u32) -> BaseKey {
        match proxies.role {
            ProxyRole::Gateway => BaseKey::Gateways { id: id.to_owned() },
            ProxyRole::Sidecar => {
                let sidecar = self.mesh().sidecar_of(proxies);
                BaseKey::Workloads { namespace: proxies.namespace.clone(), sidecar, model_version }
            }
        }
    }

    fn live(&mut self, proxies: &ProxyScope, model_version: u32) -> &mut Live {
        let model_version = model_version.min(MODEL_VERSION);
        let id = id(proxies, model_version);
        if !self.live.contains_key(&id) {
            let base = self.base_of(&id, proxies, model_version);
            self.begin_base(&base, proxies, model_version);
            let scope = Arc::new(Scope::over(self.bases[&base].layer.clone(), id.as_str()));
            let (proxies, own, reach) = (proxies.clone(), Held::default(), Reach::default());
            let mut live = Live { proxies, model_version, scope, base, own, reach, idle_since: None };
            live.update(&self.bases[&live.base], &self.set, self.mesh.as_deref(), &mut self.bodies);
            self.live.insert(id.clone(), live);
        }
        match self.live.get_mut(&id) {
            Some(live) => live,
            None => unreachable!("it was put there"),
        }
    }

    fn begin_base(&mut self, key: &BaseKey, proxies: &ProxyScope, model_version: u32) {
        if self.bases.contains_key(key) {
            return;
        }
        let layer = Arc::new(Layer::new(model_version));
        let (held, common) = (Held::default(), Common::default());
        let mut base = Base { layer, proxies: proxies.clone(), held, common };
        base.update(key, &self.set, self.mesh.as_deref(), &mut self.bodies);
        self.bases.insert(key.clone(), base);
    }

    /// Puts scopes whose proxies follow another Sidecar now over another layer.
    fn choose_bases(&mut self) {
        let sidecars = self.live.iter().filter(|(_, live)| live.proxies.role == ProxyRole::Sidecar);
        let sidecars: Vec<_> =
            sidecars.map(|(id, live)| (id.clone(), live.proxies.clone(), live.model_version)).collect();
        for (id, proxies, model_version) in sidecars {
            let base = self.base_of(&id, &proxies, model_version);
            let Some(live) = self.live.get(&id).filter(|live| live.base != base) else { continue };
            let scope = live.scope.clone();
            self.begin_base(&base, &proxies, model_version);
            scope.rebase(self.bases[&base].layer.clone());
            if let Some(live) = self.live.get_mut(&id) {
                live.base = base;
            }
        }
    }
}

impl Base {
    fn update(&mut self, key: &BaseKey, set: &ResourceSet, mesh: Option<&MeshView>, bodies: &mut Bodies) {
        let next = match (key, mesh) {
            (BaseKey::Gateways { .. }, _) => reach::of_gateway(set, &self.proxies),
            (BaseKey::Workloads { namespace, sidecar, .. }, Some(mesh)) => {
                let (next, common) = mesh.common(namespace, sidecar.as_ref());
                self.common = common;
                next
            }
            (BaseKey::Workloads { .. }, None) => Vec::new(),
        };
        let Step { upserts, removed } = self.held.turn(next, self.layer.model_version(), bodies);
        self.layer.publish(set.revision, upserts, removed);
    }
}

impl Live {
    fn update(&mut self, base: &Base, set: &ResourceSet, mesh: Option<&MeshView>, bodies: &mut Bodies) {
        let next = match (&self.base, mesh) {
            (BaseKey::Workloads { .. }, Some(mesh)) => mesh.own(&self.proxies, &base.common),
            _ => Vec::new(),
        };
        let Step { upserts, removed } = self.own.turn(next, self.model_version, bodies);
        self.scope.publish(set.revision, upserts, removed);
        self.reach = Reach::of_both(set.revision, base.held.keys(), self.own.keys());
    }
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
    use route_model::resource::Resource;
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

    fn of(revision: u64, resources: &[Arc<Resource>]) -> Arc<ResourceSet> {
        let mut set: ResourceSet = resources.iter().cloned().collect();
        set.revision = Revision(revision);
        Arc::new(set)
    }

    fn resource(kind: Kind, name: &str, spec: serde_json::Value) -> Arc<Resource> {
        let object = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        Arc::new(Resource::from_object(kind, &object).unwrap())
    }

    #[test]
    fn workloads_share_what_they_have_in_common_and_have_their_own_beside_it() {
        let workload = |app: &str| {
            let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
            ProxyScope { role: ProxyRole::Sidecar, namespace: "shop".into(), labels }
        };
        let policy =
            |app: &str| resource(Kind::AuthorizationPolicy, app, json!({"selector": {"matchLabels": {"app": app}}}));
        let service = resource(Kind::ServiceEntry, "reviews", json!({"hosts": ["reviews.example"]}));
        let first = of(1, &[service.clone(), policy("web")]);
        let scopes = Scopes::new(first);
        let (web, api) = (scopes.of(&workload("web"), MODEL_VERSION), scopes.of(&workload("api"), MODEL_VERSION));
        assert_eq!((web.len(), api.len(), scopes.lock().bases.len()), (2, 1, 1));

        // What is for one of them is no news for the other.
        let second = [service.clone(), policy("web"), policy("api")];
        scopes.update(&of(2, &second));
        assert_eq!((web.len(), web.effective(Revision(1))), (2, Revision(2)));
        assert_eq!((api.len(), api.effective(Revision(1))), (2, Revision(1)));
        let key = |kind, name: &str| ResourceKey::new(kind, "shop", name);
        let has = |scope: &Scope, key: &ResourceKey| scopes.reach_in(scope).contains(key, Revision(2)).unwrap();
        assert!(has(&web, &service.key) && has(&web, &key(Kind::AuthorizationPolicy, "web")));
        assert!(!has(&web, &key(Kind::AuthorizationPolicy, "api")));

        // A Sidecar of its own puts a workload over another layer, and the layer goes when nobody needs it.
        let alone = json!({"workloadSelector": {"labels": {"app": "web"}}, "egress": [{"hosts": ["~/*"]}]});
        let third = [&second[..], &[resource(Kind::Sidecar, "web", alone)]].concat();
        scopes.update(&of(3, &third));
        assert_eq!((web.len(), api.len(), scopes.lock().bases.len()), (2, 2, 2));
        assert_eq!((web.effective(Revision(2)), api.effective(Revision(2))), (Revision(2), Revision(3)));
        assert!(!scopes.reach_in(&web).contains(&service.key, Revision(3)).unwrap());
        scopes.update(&of(4, &second));
        assert_eq!((web.len(), scopes.lock().bases.len()), (2, 1));
        assert!(has(&web, &service.key));
    }

    #[test]
    fn this_build_knows_every_kind() {
        assert!(Kind::ALL.into_iter().all(|kind| (1..=MODEL_VERSION).contains(&kind.info().since)));
    }
}
