//! What is particular about namespaces.

use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use serde_json::{Value, json};

use crate::store::{ChangeSet, Op, Precondition, Store, StoreError, Write};

/// The namespaces that always exist: kubectl's default, and the root namespace of the mesh.
pub(crate) const ALWAYS: [&str; 2] = ["default", "istio-system"];

/// Gives a namespace what Kubernetes gives it.
pub(crate) fn normalise(object: &mut Value, name: &str) {
    let Some(fields) = object.as_object_mut() else { return };
    let spec = fields.entry("spec").or_insert(Value::Null);
    if spec.is_null() || spec.as_object().is_some_and(serde_json::Map::is_empty) {
        *spec = json!({"finalizers": ["kubernetes"]});
    }
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
        }
    }
}

/// Creates the namespaces that must be there and are not. Call it before the snapshot is loaded, which then shows them.
/// Several replicas may do so at once.
pub async fn ensure_initial(store: &dyn Store) -> Result<(), StoreError> {
    for name in ALWAYS {
        let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        normalise(&mut object, name);
        let key = ResourceKey::new(Kind::Namespace, "", name);
        let write = Write { key, precondition: Precondition::Absent, op: Op::Put(object) };
        let changes = ChangeSet {
            author: "system:fairway".to_owned(),
            via: "start".to_owned(),
            message: format!("the namespace {name} always exists"),
            writes: vec![write],
            require: Vec::new(),
        };
        match store.commit(changes).await {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
