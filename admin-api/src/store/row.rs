//! Between objects and rows. Both backends keep the same columns and hand out the same JSON image of a row.

use std::borrow::Cow;
use std::sync::Arc;

use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::object::{StoredObject, has_generation};
use super::seal::{MasterKey, decode_hex};

/// What a writer chooses of an object: all but what the store assigns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Content {
    pub(super) deletion_timestamp: Option<String>,
    pub(super) labels: Value,
    pub(super) annotations: Value,
    pub(super) finalizers: Value,
    pub(super) owner_references: Value,
    pub(super) managed_fields: Value,
    pub(super) spec: Option<Value>,
    /// Other fields of the object, and under `metadata` other fields of its metadata.
    pub(super) extra: Option<Value>,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            deletion_timestamp: None,
            labels: Value::Object(Map::new()),
            annotations: Value::Object(Map::new()),
            finalizers: Value::Array(Vec::new()),
            owner_references: Value::Array(Vec::new()),
            managed_fields: Value::Array(Vec::new()),
            spec: None,
            extra: None,
        }
    }
}

impl Content {
    pub(super) fn of(object: &Value) -> Self {
        let mut content = Self::default();
        let mut extra = Map::new();
        for (name, value) in object.as_object().into_iter().flatten() {
            match (name.as_str(), value) {
                ("metadata", Value::Object(metadata)) => {
                    let rest = content.take_metadata(metadata);
                    if !rest.is_empty() {
                        extra.insert("metadata".to_owned(), rest.into());
                    }
                }
                ("apiVersion" | "kind" | "status", _) | ("metadata" | "spec", Value::Null) => {}
                ("spec", spec) => content.spec = Some(spec.clone()),
                (_, value) => {
                    extra.insert(name.clone(), value.clone());
                }
            }
        }
        if !extra.is_empty() {
            content.extra = Some(extra.into());
        }
        content
    }

    /// Takes the fields that have a column; answers the others.
    fn take_metadata(&mut self, metadata: &Map<String, Value>) -> Map<String, Value> {
        let mut rest = Map::new();
        for (name, value) in metadata {
            match (name.as_str(), value) {
                ("name" | "namespace" | "uid" | "resourceVersion" | "generation" | "creationTimestamp", _)
                | (_, Value::Null) => {}
                ("deletionTimestamp", Value::String(time)) => self.deletion_timestamp = Some(time.clone()),
                ("labels", Value::Object(_)) => self.labels = value.clone(),
                ("annotations", Value::Object(_)) => self.annotations = value.clone(),
                ("finalizers", Value::Array(_)) => self.finalizers = value.clone(),
                ("ownerReferences", Value::Array(_)) => self.owner_references = value.clone(),
                ("managedFields", Value::Array(_)) => self.managed_fields = value.clone(),
                _ => {
                    rest.insert(name.clone(), value.clone());
                }
            }
        }
        rest
    }

    /// The content columns of the row: for a secret kind all of them empty, and everything in `sealed`.
    pub(super) fn into_columns(self, key: &ResourceKey, master: &MasterKey) -> Columns {
        if !is_secret(key.kind) {
            return Columns::new(&self, None);
        }
        let plain = serde_json::to_vec(&self).expect("JSON values serialise");
        Columns::new(&Self::default(), Some(master.seal(&key.to_string(), &plain)))
    }
}

/// The content columns as they are bound.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) deletion_timestamp: Option<String>,
    pub(super) labels: String,
    pub(super) annotations: String,
    pub(super) finalizers: String,
    pub(super) owner_references: String,
    pub(super) managed_fields: String,
    pub(super) spec: Option<String>,
    pub(super) extra: Option<String>,
    pub(super) sealed: Option<Vec<u8>>,
}

impl Columns {
    fn new(content: &Content, sealed: Option<Vec<u8>>) -> Self {
        Self {
            deletion_timestamp: content.deletion_timestamp.clone(),
            labels: content.labels.to_string(),
            annotations: content.annotations.to_string(),
            finalizers: content.finalizers.to_string(),
            owner_references: content.owner_references.to_string(),
            managed_fields: content.managed_fields.to_string(),
            spec: content.spec.as_ref().map(Value::to_string),
            extra: content.extra.as_ref().map(Value::to_string),
            sealed,
        }
    }
}

/// Kinds that are encrypted at rest as whole objects.
fn is_secret(kind: Kind) -> bool {
    kind == Kind::Secret
}

/// A row as the database hands it out.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Image<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    generation: i64,
    resource_version: u64,
    created_at: String,
    #[serde(flatten)]
    content: Content,
    sealed: Option<String>,
}

/// The key of a row, unless its kind is one that this build does not know: one of a newer build, or a slip of a hand.
pub(super) fn key_of(group: &str, kind: &str, namespace: &str, name: &str) -> Option<ResourceKey> {
    let Some(known) = Kind::from_group_kind(group, kind) else {
        tracing::warn!(group, kind, namespace, name, "a row of an unknown kind is left alone");
        return None;
    };
    Some(ResourceKey::new(known, namespace, name))
}

/// Reads a row's image. What cannot be read of it becomes the object's `fault`.
pub(super) fn read_image(key: ResourceKey, image: &str, master: &MasterKey) -> StoredObject {
    let fault = |reason: &str, uid: Arc<str>, resource_version| StoredObject {
        object: Arc::new(compose(&key, &uid, 0, resource_version, "", Content::default())),
        key: key.clone(),
        uid,
        generation: 0,
        resource_version,
        fault: Some(reason.into()),
        generated: false,
    };
    let image: Image<'_> = match serde_json::from_str(image) {
        Ok(image) => image,
        Err(error) => return fault(&format!("the row is malformed: {error}"), "".into(), 0),
    };
    let uid: Arc<str> = image.uid.into();
    let content = match &image.sealed {
        None if is_secret(key.kind) => {
            return fault("the row of a secret is not sealed: write it through the API", uid, image.resource_version);
        }
        None => image.content,
        Some(sealed) => {
            let plain = decode_hex(sealed).and_then(|sealed| master.open(&key.to_string(), &sealed));
            let Some(content) = plain.and_then(|plain| serde_json::from_slice(&plain).ok()) else {
                let reason = "the sealed content does not open: it was altered, or moved from another row";
                return fault(reason, uid, image.resource_version);
            };
            content
        }
    };
    let generation = if has_generation(key.kind) { image.generation } else { 0 };
    let object = compose(&key, &uid, generation, image.resource_version, &image.created_at, content);
    StoredObject {
        uid,
        generation,
        resource_version: image.resource_version,
        object: Arc::new(object),
        key,
        fault: None,
        generated: false,
    }
}

/// Writes the object as Kubernetes does, in the kind's preferred version.
fn compose(
    key: &ResourceKey,
    uid: &str,
    generation: i64,
    resource_version: u64,
    created_at: &str,
    content: Content,
) -> Value {
    let mut metadata = Map::new();
    let mut set = |name: &str, value: Value| {
        let empty = match &value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        if !empty {
            metadata.insert(name.to_owned(), value);
        }
    };
    set("name", Value::from(&*key.name));
    set("namespace", Value::from(&*key.namespace));
    set("uid", Value::from(uid));
    set("resourceVersion", Value::from(resource_version.to_string()));
    if generation != 0 {
        set("generation", Value::from(generation));
    }
    set("creationTimestamp", Value::from(created_at));
    set("deletionTimestamp", content.deletion_timestamp.into());
    set("labels", content.labels);
    set("annotations", content.annotations);
    set("finalizers", content.finalizers);
    set("ownerReferences", content.owner_references);
    set("managedFields", content.managed_fields);

    let mut extra = match content.extra {
        Some(Value::Object(extra)) => extra,
        _ => Map::new(),
    };
    if let Some(Value::Object(rest)) = extra.shift_remove("metadata") {
        for (name, value) in rest {
            metadata.entry(name).or_insert(value);
        }
    }
    let info = key.kind.info();
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), info.api_version(info.preferred_version()).into());
    object.insert("kind".to_owned(), info.name.into());
    object.insert("metadata".to_owned(), metadata.into());
    if let Some(spec) = content.spec {
        object.insert("spec".to_owned(), spec);
    }
    object.extend(extra);
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn image_of(columns: &Columns) -> String {
        let parse = |text: &String| serde_json::from_str::<Value>(text).unwrap();
        json!({
            "uid": "u-1", "generation": 3, "resourceVersion": 17, "createdAt": "2026-01-02T03:04:05Z",
            "deletionTimestamp": columns.deletion_timestamp,
            "labels": parse(&columns.labels), "annotations": parse(&columns.annotations),
            "finalizers": parse(&columns.finalizers), "ownerReferences": parse(&columns.owner_references),
            "managedFields": parse(&columns.managed_fields), "spec": columns.spec.as_ref().map(parse),
            "extra": columns.extra.as_ref().map(parse),
            "sealed": columns.sealed.as_ref().map(|s| super::super::seal::encode_hex(s)),
        })
        .to_string()
    }

    #[test]
    fn every_field_survives_the_row() {
        let object = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {
                "name": "reviews", "namespace": "shop", "uid": "u-1", "resourceVersion": "17", "generation": 3,
                "creationTimestamp": "2026-01-02T03:04:05Z", "deletionTimestamp": "2026-01-03T00:00:00Z",
                "labels": {"a": "b"}, "annotations": {"note": "x\ny"}, "finalizers": ["f"],
                "ownerReferences": [{"uid": "o"}], "managedFields": [{"manager": "kubectl"}],
                "generateName": "rev-", "deletionGracePeriodSeconds": 0,
            },
            "spec": {"hosts": ["reviews"], "http": []},
            "other": 1,
        });
        let key = ResourceKey::new(Kind::VirtualService, "shop", "reviews");
        let master = MasterKey::random();
        let columns = Content::of(&object).into_columns(&key, &master);
        assert_eq!(columns.sealed, None);
        let read = read_image(key, &image_of(&columns), &master);
        assert_eq!(*read.object, object);
        assert_eq!((read.generation, read.resource_version, &*read.uid), (3, 17, "u-1"));
        assert_eq!(read.fault, None);
    }

    /// JSON without `null` in places where an object of Kubernetes has none.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-zA-Z.]{1,8}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever a client writes beside what the store assigns is what a reader gets.
        #[test]
        fn any_content_survives_the_row(
            spec in any_json(),
            extra in prop::collection::btree_map("x-[a-z]{1,6}", any_json(), 0..3),
            rest in prop::collection::btree_map("y-[a-z]{1,6}", "[a-z]{1,5}", 0..3),
            kind in prop::sample::select(vec![Kind::VirtualService, Kind::Secret, Kind::Namespace]),
        ) {
            let mut object = json!({"metadata": {"name": "reviews"}, "spec": spec, "status": {"gone": true}});
            let fields = object.as_object_mut().unwrap();
            fields.extend(extra.clone());
            for (name, value) in &rest {
                fields["metadata"][name] = json!(value);
            }
            let key = ResourceKey::new(kind, "shop", "reviews");
            let master = MasterKey::random();
            let content = Content::of(&object);
            let read = read_image(key.clone(), &image_of(&content.clone().into_columns(&key, &master)), &master);
            prop_assert_eq!(&read.fault, &None);
            prop_assert_eq!(Content::of(&read.object), content, "reading and writing back changes nothing");
            prop_assert_eq!(&read.object["spec"], &object["spec"]);
            prop_assert!(read.object.get("status").is_none());
            for (name, value) in &extra {
                prop_assert_eq!(&read.object[name], value);
            }
            for (name, value) in &rest {
                prop_assert_eq!(&read.object["metadata"][name], &json!(value));
            }
        }
    }

    #[test]
    fn a_secret_leaves_nothing_in_the_clear() {
        let object = json!({
            "metadata": {"name": "tls", "annotations": {"kubectl.kubernetes.io/last-applied": "hunter2"}},
            "type": "kubernetes.io/tls", "data": {"tls.key": "aHVudGVyMg=="},
        });
        let key = ResourceKey::new(Kind::Secret, "shop", "tls");
        let master = MasterKey::random();
        let columns = Content::of(&object).into_columns(&key, &master);
        let image = image_of(&columns);
        for word in ["hunter2", "aHVudGVyMg", "tls.key", "kubernetes.io"] {
            assert!(!image.contains(word), "{word} in {image}");
        }
        let read = read_image(key, &image, &master);
        assert_eq!(read.object["data"], object["data"]);
        assert_eq!(read.object["metadata"]["annotations"], object["metadata"]["annotations"]);

        let moved = read_image(ResourceKey::new(Kind::Secret, "shop", "other"), &image, &master);
        assert!(moved.fault.unwrap().contains("does not open"));
        assert!(moved.object.get("data").is_none());
    }
}
