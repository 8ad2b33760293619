//! An object as the store hands it out: the Kubernetes object and what is asked of it all the time.

use std::sync::Arc;

use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use serde_json::{Map, Value};

/// A stored object. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StoredObject {
    pub key: ResourceKey,
    pub uid: Arc<str>,
    /// Rises when anything beside metadata and status changes. 0 for the core kinds, which have none.
    pub generation: i64,
    pub resource_version: u64,
    /// The whole object with its metadata, in the kind's preferred version, without status.
    pub object: Arc<Value>,
    /// Why the row behind this does not hold a proper object (sealed data that does not open). What can be read of
    /// it is in `object`.
    pub fault: Option<Arc<str>>,
    /// Nobody wrote it: it follows from the workloads that are registered, and is stored nowhere.
    pub generated: bool,
}

impl StoredObject {
    /// The object that a `Put` of `object` over `previous` would store, with no resourceVersion of its own: what a
    /// dry run answers.
    pub fn preview(key: &ResourceKey, previous: Option<&Self>, mut object: Value, now: jiff::Timestamp) -> Self {
        let generation = generation_after(key.kind, previous.map(|p| &*p.object), &object);
        let given_uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        let uid: Arc<str> = match previous {
            Some(previous) => previous.uid.clone(),
            None if given_uid.is_empty() => uuid::Uuid::new_v4().to_string().into(),
            None => given_uid.into(),
        };
        let created = previous
            .and_then(|p| p.object.pointer("/metadata/creationTimestamp").cloned())
            .unwrap_or_else(|| Value::from(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        let resource_version = previous.map_or(0, |p| p.resource_version);
        if let Some(root) = object.as_object_mut() {
            root.shift_remove("status");
            if let Some(meta) = root.entry("metadata").or_insert_with(|| Map::new().into()).as_object_mut() {
                meta.insert("uid".into(), Value::from(&*uid));
                meta.insert("creationTimestamp".into(), created);
                match resource_version {
                    0 => meta.shift_remove("resourceVersion"),
                    version => meta.insert("resourceVersion".into(), version.to_string().into()),
                };
                match generation {
                    0 => meta.shift_remove("generation"),
                    generation => meta.insert("generation".into(), generation.into()),
                };
            }
        }
        Self {
            key: key.clone(),
            uid,
            generation,
            resource_version,
            object: Arc::new(object),
            fault: None,
            generated: false,
        }
    }

    pub fn metadata(&self) -> Option<&Map<String, Value>> {
        self.object.get("metadata")?.as_object()
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.metadata()?.get("labels")?.get(name)?.as_str()
    }

    /// The same object with another resourceVersion: what a watcher is shown of a deletion.
    pub(super) fn at_version(&self, resource_version: u64) -> Self {
        let mut object = Value::clone(&self.object);
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.insert("resourceVersion".into(), resource_version.to_string().into());
        }
        Self { resource_version, object: Arc::new(object), ..self.clone() }
    }
}

/// The kinds of the core group have no generation.
pub(super) fn has_generation(kind: Kind) -> bool {
    !matches!(kind, Kind::Namespace | Kind::Secret | Kind::Event)
}

/// The generation of `next` when it replaces `previous`.
fn generation_after(kind: Kind, previous: Option<&Value>, next: &Value) -> i64 {
    let Some(previous) = previous.filter(|_| has_generation(kind)) else {
        return i64::from(has_generation(kind));
    };
    let generation = previous.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1);
    generation + i64::from(!same_content(previous, next))
}

/// Whether two objects are equal beside what the store assigns, metadata and status.
fn same_content(a: &Value, b: &Value) -> bool {
    let content = |object: &Value| -> Vec<(String, Value)> {
        let fields = object.as_object().into_iter().flatten();
        let mut fields: Vec<_> = fields
            .filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        fields
    };
    content(a) == content(b)
}
