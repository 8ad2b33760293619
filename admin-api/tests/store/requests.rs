//! Shorthand for the writes that the cases make.

use admin_api::store::{ChangeSet, Op, Precondition, Write};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use serde_json::{Value, json};

pub(crate) fn service(name: &str) -> ResourceKey {
    ResourceKey::new(Kind::VirtualService, "default", name)
}

/// A valid VirtualService that answers with the status.
pub(crate) fn answering(name: &str, status: u32) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"hosts": [format!("{name}.example")], "http": [{"directResponse": {"status": status}}]},
    })
}

pub(crate) fn put(key: &ResourceKey, precondition: Precondition, object: Value) -> Write {
    Write { key: key.clone(), precondition, op: Op::Put(object) }
}

pub(crate) fn delete(key: &ResourceKey, precondition: Precondition) -> Write {
    Write { key: key.clone(), precondition, op: Op::Delete }
}

pub(crate) fn create(name: &str, status: u32) -> ChangeSet {
    set([put(&service(name), Precondition::Absent, answering(name, status))])
}

pub(crate) fn upsert(name: &str, status: u32) -> ChangeSet {
    set([put(&service(name), Precondition::None, answering(name, status))])
}

pub(crate) fn set(writes: impl Into<Vec<Write>>) -> ChangeSet {
    ChangeSet {
        author: "alice".to_owned(),
        via: "suite".to_owned(),
        message: "as the case wants it".to_owned(),
        writes: writes.into(),
        require: Vec::new(),
    }
}

/// The status that the stored object answers with.
pub(crate) fn status_of(object: &Value) -> u64 {
    object.pointer("/spec/http/0/directResponse/status").and_then(Value::as_u64).unwrap()
}
