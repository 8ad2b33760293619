//! Resources as they travel.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use push::message::Key;
use push::server::Entry;
use route_model::meta::ResourceKey;
use route_model::resource::{Resource, ResourceSet};
use serde_json::Value;
use tracing::error;

/// What `kubectl apply` writes to compare with; as large as the object itself, and of no use to a proxy.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The serialised form of every resource that some scope holds, once for all of them.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    known: HashMap<ResourceKey, Body, RandomState>,
}

#[derive(Debug)]
struct Body {
    resource: Arc<Resource>,
    key: Arc<Key>,
    entry: Entry,
}

impl Bodies {
    /// The resource as it travels; `None` when it is too large to.
    pub(super) fn entry(&mut self, resource: &Arc<Resource>) -> Option<(Arc<Key>, Entry)> {
        let known = self.known.get(&resource.key);
        if let Some(body) = known.filter(|body| Arc::ptr_eq(&body.resource, resource)) {
            return Some((body.key.clone(), body.entry.clone()));
        }
        match Entry::new(body(resource)) {
            Ok(entry) => {
                let key = known.map_or_else(|| Arc::new(Key::from(&resource.key)), |body| body.key.clone());
                let entry = entry.since(resource.key.kind.info().since);
                let body = Body { resource: resource.clone(), key: key.clone(), entry: entry.clone() };
                self.known.insert(resource.key.clone(), body);
                Some((key, entry))
            }
            Err(error) => {
                error!(resource = %resource.key, %error, "a resource is left out");
                None
            }
        }
    }

    /// Drops what is no longer in the set, when that is much enough to be worth a look at all of it.
    pub(super) fn forget_gone(&mut self, set: &ResourceSet) {
        if self.known.len() > set.len() {
            self.known.retain(|key, _| set.get(key).is_some());
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

#[cfg(test)]
mod tests {
    use route_model::kind::Kind;
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_are_free_of_what_proxies_do_not_need() {
        let object = json!({
            "metadata": {
                "name": "edge", "namespace": "shop", "resourceVersion": "7",
                "annotations": {LAST_APPLIED: "7", "note": "kept"},
            },
            "spec": {"selector": {"istio": "a"}},
        });
        let resource = Resource::from_object(Kind::Gateway, &object).unwrap();
        let body: Value = serde_json::from_str(&body(&resource)).unwrap();
        assert_eq!(body["metadata"]["annotations"], json!({"note": "kept"}));
        assert_eq!(body["metadata"].get("resourceVersion"), None);
    }
}
