//! The resource API as OpenAPI, generated from the registry of kinds and their schemas.

use route_model::kind::{Kind, KindInfo};
use serde_json::{Map, Value, json};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// The document of one group and version; none if it holds no kind.
pub(super) fn document(group: &str, version: &'static str) -> Option<Value> {
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| kind.info().group == group && kind.info().served_version(version).is_some())
        .collect();
    if kinds.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    let mut schemas = shared_schemas();
    for kind in kinds {
        add_kind(kind, version, &mut paths, &mut schemas);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Fairway", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

/// Adds the paths and schemas of one kind in one version.
pub(super) fn add_kind(
    kind: Kind,
    version: &'static str,
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    let info = kind.info();
    let base =
        if info.group.is_empty() { format!("/api/{version}") } else { format!("/apis/{}/{version}", info.group) };
    let place = if info.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{place}/{}", info.plural);
    let operations = Operations { info, version, tag: tag(info, version) };
    paths.insert(collection.clone(), operations.collection());
    paths.insert(format!("{collection}/{{name}}"), operations.object());
    if info.namespaced {
        paths.insert(format!("{base}/{}", info.plural), operations.everywhere());
    }
    let name = schema_name(info, version);
    schemas.insert(format!("{name}List"), list_schema(info, version, &name));
    schemas.insert(name, object_schema(kind, version));
}

fn tag(info: &KindInfo, version: &str) -> String {
    info.api_version(version)
}

/// `io.istio.networking.v1.VirtualService`
fn schema_name(info: &KindInfo, version: &str) -> String {
    let mut parts: Vec<&str> =
        if info.group.is_empty() { vec!["core", "api", "k8s", "io"] } else { info.group.split('.').collect() };
    parts.reverse();
    format!("{}.{version}.{}", parts.join("."), info.name)
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn group_version_kind(info: &KindInfo, version: &str, suffix: &str) -> Value {
    json!({"group": info.group, "version": version, "kind": format!("{}{suffix}", info.name)})
}

fn object_schema(kind: Kind, version: &str) -> Value {
    let info = kind.info();
    let mut schema = kind.schema(version).cloned().unwrap_or_else(|| json!({"type": "object"}));
    schema["properties"]["metadata"] = json!({"allOf": [reference(OBJECT_META)]});
    // An array on the schema, and on it only, is how `kubectl explain` finds the kind.
    schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(info, version, "")]);
    schema
}

fn list_schema(info: &KindInfo, version: &str, name: &str) -> Value {
    json!({
        "type": "object",
        "description": format!("A list of {}.", info.plural),
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"allOf": [reference(LIST_META)]},
            "items": {"type": "array", "items": reference(name)},
        },
        "x-kubernetes-group-version-kind": [group_version_kind(info, version, "List")],
    })
}

/// What all kinds refer to.
pub(super) fn shared_schemas() -> Map<String, Value> {
    // Every kind's schema holds the same metadata.
    let metadata = Kind::Gateway.schema("v1").map(|schema| schema["properties"]["metadata"].clone());
    let mut schemas = Map::new();
    schemas.insert(OBJECT_META.to_owned(), metadata.unwrap_or_else(|| json!({"type": "object"})));
    schemas.insert(
        LIST_META.to_owned(),
        json!({
            "type": "object",
            "description": "What every list has.",
            "properties": {
                "resourceVersion": {"type": "string", "description": "Where a watch goes on from this list."},
                "continue": {"type": "string", "description": "Asks for the next page; absent on the last."},
                "remainingItemCount": {"type": "integer", "format": "int64"},
            },
        }),
    );
    schemas.insert(
        STATUS.to_owned(),
        json!({
            "type": "object",
            "description": "What became of a call that answers no object; of every one that failed.",
            "properties": {
                "kind": {"type": "string"},
                "apiVersion": {"type": "string"},
                "metadata": {"type": "object"},
                "status": {"type": "string", "enum": ["Success", "Failure"]},
                "message": {"type": "string", "description": "For people."},
                "reason": {"type": "string", "description": "For programs: NotFound, AlreadyExists, Conflict, Invalid …"},
                "details": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "code": {"type": "integer", "format": "int32", "description": "The HTTP status code."},
            },
        }),
    );
    schemas
}

/// Builds the operations of a kind.
struct Operations {
    info: &'static KindInfo,
    version: &'static str,
    tag: String,
}

impl Operations {
    fn collection(&self) -> Value {
        let info = self.info;
        let mut item = json!({
            "get": self.list("list", &format!("List {} of a namespace, or watch them", info.plural)),
            "post": self.operation("create", "post", &format!("Create a {}", info.name), write_parameters(), &[], true),
            "delete": self.operation(
                "deleteCollection", "deletecollection", &format!("Delete all {} that the selectors match", info.plural),
                list_parameters(), &[], false),
        });
        item["post"]["responses"] = json!({
            "201": answer("Created", &reference(&self.schema())),
            "default": answer("An error", &reference(STATUS)),
        });
        if info.namespaced {
            item["parameters"] = json!([path_parameter("namespace")]);
        }
        item
    }

    fn everywhere(&self) -> Value {
        json!({"get": self.list("listAll", &format!("List {} of all namespaces, or watch them", self.info.plural))})
    }

    fn object(&self) -> Value {
        let info = self.info;
        let mut item = json!({
            "get": self.operation("read", "get", &format!("Read a {}", info.name), Vec::new(), &[], false),
            "put": self.operation("replace", "put", &format!("Replace a {}", info.name), write_parameters(), &[], true),
            "patch": self.operation(
                "patch", "patch", &format!("Change a {}, or apply it from the server side", info.name),
                write_parameters(),
                &["application/merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml"], true),
            "delete": self.operation("delete", "delete", &format!("Delete a {}", info.name), Vec::new(), &[], false),
        });
        let mut parameters = vec![path_parameter("name")];
        if info.namespaced {
            parameters.insert(0, path_parameter("namespace"));
        }
        item["parameters"] = Value::Array(parameters);
        item
    }

    fn schema(&self) -> String {
        schema_name(self.info, self.version)
    }

    fn list(&self, id: &str, summary: &str) -> Value {
        let mut operation = self.operation(id, "list", summary, list_parameters(), &[], false);
        let schema = reference(&format!("{}List", self.schema()));
        operation["responses"]["200"] = answer("OK", &schema);
        operation
    }

    fn operation(
        &self,
        id: &str,
        action: &str,
        summary: &str,
        parameters: Vec<Value>,
        body_types: &[&str],
        has_body: bool,
    ) -> Value {
        let version = self.version;
        let scope = if self.info.namespaced { "Namespaced" } else { "" };
        let mut operation = json!({
            "operationId": format!("{id}{}{scope}{}", capitalised(&self.tag), self.info.name),
            "summary": summary,
            "tags": [self.tag],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": group_version_kind(self.info, version, ""),
            "parameters": parameters,
            "responses": {
                "200": answer("OK", &reference(&self.schema())),
                "default": answer("An error", &reference(STATUS)),
            },
        });
        if has_body {
            let types: &[&str] =
                if body_types.is_empty() { &["application/json", "application/yaml"] } else { body_types };
            let schema = if body_types.is_empty() { reference(&self.schema()) } else { json!({}) };
            let content = types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>();
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        operation
    }
}

/// `networking.istio.io/v1` as a part of an operation's id.
fn capitalised(text: &str) -> String {
    text.split(['.', '/']).map(|part| part[..1].to_uppercase() + &part[1..]).collect()
}

fn answer(description: &str, schema: &Value) -> Value {
    json!({"description": description, "content": {"application/json": {"schema": schema}}})
}

fn path_parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
}

fn parameter(name: &str, kind: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": kind}})
}

fn write_parameters() -> Vec<Value> {
    vec![
        parameter("dryRun", "string", "All: do everything but store."),
        parameter("fieldManager", "string", "Who owns the fields that are written; default: the User-Agent."),
        parameter("fieldValidation", "string", "What to do about unknown fields: Ignore, Warn (default) or Strict."),
        parameter("force", "boolean", "Server-side apply only: take fields that others own."),
    ]
}

fn list_parameters() -> Vec<Value> {
    vec![
        parameter(
            "labelSelector",
            "string",
            "`a=b`, `a!=b`, `a in (x,y)`, `a notin (x)`, `a`, `!a`, joined by commas.",
        ),
        parameter("fieldSelector", "string", "`metadata.name=x`, `metadata.namespace!=x`, joined by commas."),
        parameter("limit", "integer", "The size of a page."),
        parameter("continue", "string", "The next page, as the one before named it."),
        parameter("watch", "boolean", "Answer changes as they happen, one JSON object a line."),
        parameter("resourceVersion", "string", "Where a watch goes on; empty or 0: with everything that is there."),
        parameter("timeoutSeconds", "integer", "When a watch ends."),
        parameter("allowWatchBookmarks", "boolean", "Tell a watcher now and then how far it has come."),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubectl_explain_looks_for_is_there() {
        let document = document("networking.istio.io", "v1").unwrap();
        let path = "/apis/networking.istio.io/v1/namespaces/{namespace}/virtualservices/{name}";
        let patch = &document["paths"][path]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "VirtualService");
        assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
        let schema = &document["components"]["schemas"]["io.istio.networking.v1.VirtualService"];
        assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "VirtualService");
        assert!(schema["properties"]["spec"]["properties"]["http"].is_object());
    }

    #[test]
    fn operation_ids_are_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for (group, version) in [("networking.istio.io", "v1"), ("", "v1"), ("fairway.dev", "v1")] {
            let document = document(group, version).unwrap();
            for item in document["paths"].as_object().unwrap().values() {
                for id in item.as_object().unwrap().values().filter_map(|o| o["operationId"].as_str()) {
                    assert!(seen.insert(id.to_owned()), "{id}");
                }
            }
        }
    }
}
