//! Objects as rows for people: what `kubectl get` prints.

use jiff::Timestamp;
use route_model::kind::Kind;
use serde_json::{Map, Value, json};

use super::age::age;
use super::error::ApiError;
use super::query::Query;

/// How much of each object travels with its row (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    /// The default; without it kubectl shows no namespace.
    Metadata,
    /// For `--sort-by`.
    Object,
    None,
}

impl IncludeObject {
    pub(crate) fn of(query: &Query) -> Result<Self, ApiError> {
        match query.get("includeObject") {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("Object") => Ok(Self::Object),
            Some("None") => Ok(Self::None),
            Some(other) => Err(ApiError::bad_request(format!(
                "unsupported includeObject {other:?}: supported are Metadata, Object and None"
            ))),
        }
    }
}

/// Whether the resource is in force, for `-o wide`.
const PROGRAMMED: &str = "Programmed";

/// A table of `objects`, each a whole object in `version`. `metadata` is that of the list.
pub(crate) fn table(
    kind: Kind,
    version: &str,
    objects: &[Value],
    metadata: Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> = objects.iter().map(|object| row(kind, version, object, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions(kind, version),
        "rows": rows,
    })
}

fn definitions(kind: Kind, version: &str) -> Vec<Value> {
    let definition = |name: &str, column_type: &str, format: &str, description: &str, priority: i32| json!({"name": name, "type": column_type, "format": format, "description": description, "priority": priority});
    let mut all = vec![definition("Name", "string", "name", "The name, unique within the namespace and kind.", 0)];
    all.extend(
        kind.printer_columns(version)
            .iter()
            .map(|c| definition(&c.name, &c.column_type, &c.format, &c.description, c.priority)),
    );
    if shows_programmed(kind) {
        all.push(definition(
            PROGRAMMED,
            "string",
            "",
            "True when every connected proxy runs the resource, else why not.",
            1,
        ));
    }
    all
}

fn shows_programmed(kind: Kind) -> bool {
    kind.info().has_status && kind != Kind::Namespace
}

fn row(kind: Kind, version: &str, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let mut cells = vec![object["metadata"]["name"].clone()];
    for column in kind.printer_columns(version) {
        cells.push(cell(find(object, &column.json_path), &column.column_type, now));
    }
    if shows_programmed(kind) {
        cells.push(programmed(object));
    }
    let shown = match include {
        IncludeObject::Metadata => Some(metadata_only(object)),
        IncludeObject::Object => Some(object.clone()),
        IncludeObject::None => None,
    };
    let mut row = Map::new();
    row.insert("cells".to_owned(), Value::Array(cells));
    if let Some(shown) = shown {
        row.insert("object".to_owned(), shown);
    }
    Value::Object(row)
}

/// The object as `PartialObjectMetadata`.
pub(crate) fn metadata_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// Simple JSONPath: names joined by dots, the only form that the schemas use.
fn find<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|name| !name.is_empty()).try_fold(object, |at, name| at.get(name))
}

fn cell(value: Option<&Value>, column_type: &str, now: Timestamp) -> Value {
    match (value, column_type) {
        (None | Some(Value::Null), "date") => json!("<unknown>"),
        (None | Some(Value::Null), _) => Value::Null,
        (Some(Value::String(time)), "date") => json!(age(time, now)),
        (Some(Value::Object(fields)), "integer") => json!(fields.len()),
        (Some(value @ (Value::Array(_) | Value::Object(_))), _) => json!(value.to_string()),
        (Some(value), _) => value.clone(),
    }
}

fn programmed(object: &Value) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    let condition = conditions.into_iter().flatten().find(|c| c["type"] == PROGRAMMED);
    match condition {
        Some(condition) if condition["status"] == "True" => json!("True"),
        Some(condition) => condition["reason"].clone(),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_text_as_kubectl_prints_it() {
        let object = json!({
            "kind": "VirtualService", "apiVersion": "networking.istio.io/v1",
            "metadata": {"name": "reviews", "namespace": "shop", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"gateways": ["shop/gw"], "hosts": ["a", "b"]},
            "status": {"conditions": [{"type": "Programmed", "status": "False", "reason": "NoProxies"}]},
        });
        let now = "2024-01-01T00:00:26Z".parse().unwrap();
        let shown =
            table(Kind::VirtualService, "v1", std::slice::from_ref(&object), json!({}), IncludeObject::Metadata, now);
        assert_eq!(shown["rows"][0]["cells"], json!(["reviews", "[\"shop/gw\"]", "[\"a\",\"b\"]", "26s", "NoProxies"]));
        let names: Vec<_> = shown["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["Name", "Gateways", "Hosts", "Age", "Programmed"]);
        assert_eq!(shown["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(shown["rows"][0]["object"].get("spec"), None);

        let with_object = table(Kind::VirtualService, "v1", &[object], json!({}), IncludeObject::Object, now);
        assert_eq!(with_object["rows"][0]["object"]["spec"]["hosts"], json!(["a", "b"]));
    }

    #[test]
    fn absent_fields_and_counts() {
        let secret = json!({"metadata": {"name": "tls"}, "type": "Opaque", "data": {"a": "", "b": ""}});
        let now = Timestamp::UNIX_EPOCH;
        let shown = table(Kind::Secret, "v1", &[secret], json!({}), IncludeObject::None, now);
        assert_eq!(shown["rows"][0]["cells"], json!(["tls", "Opaque", 2, "<unknown>"]));
        assert_eq!(shown["rows"][0].get("object"), None);
    }
}
