//! The schemas of the kinds: what is published to clients and what documents are held against.
//!
//! The data files in `schemas/` hold one schema a kind, as all versions of a kind share it.

use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::kind::Kind;

#[cfg(test)]
pub(crate) mod arbitrary;
pub(crate) mod cel;
pub(crate) mod condition;
pub(crate) mod node;

use node::Node;

/// A column of the table that `kubectl get` shows, beside the name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrinterColumn {
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date` (shown as an age).
    #[serde(rename = "type")]
    pub column_type: String,
    #[serde(default)]
    pub format: String,
    #[serde(default)]
    pub description: String,
    /// 0: always shown; more: with `-o wide`.
    #[serde(default)]
    pub priority: i32,
    /// Simple JSONPath from the object: `.spec.hosts`.
    pub json_path: String,
}

/// The shape of the data files.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SchemaFile {
    printer_columns: Vec<PrinterColumn>,
    schema: Value,
}

macro_rules! data {
    ($($kind:ident: $file:literal,)*) => {
        fn data(kind: Kind) -> &'static str {
            match kind { $(Kind::$kind => include_str!(concat!("../../schemas/", $file, ".json")),)* }
        }
    };
}

data! {
    Gateway: "gateways",
    VirtualService: "virtualservices",
    DestinationRule: "destinationrules",
    ServiceEntry: "serviceentries",
    WorkloadEntry: "workloadentries",
    WorkloadGroup: "workloadgroups",
    Sidecar: "sidecars",
    EnvoyFilter: "envoyfilters",
    ProxyConfig: "proxyconfigs",
    PeerAuthentication: "peerauthentications",
    RequestAuthentication: "requestauthentications",
    AuthorizationPolicy: "authorizationpolicies",
    Telemetry: "telemetries",
    WasmPlugin: "wasmplugins",
    TrafficExtension: "trafficextensions",
    MeshConfig: "meshconfigs",
    RateLimitPolicy: "ratelimitpolicies",
    BackendPolicy: "backendpolicies",
    Namespace: "namespaces",
    Secret: "secrets",
    Event: "events",
}

static SCHEMAS: [OnceLock<KindSchema>; Kind::ALL.len()] = [const { OnceLock::new() }; Kind::ALL.len()];
static NODES: [OnceLock<Node>; Kind::ALL.len()] = [const { OnceLock::new() }; Kind::ALL.len()];

struct KindSchema {
    columns: Vec<PrinterColumn>,
    schema: Value,
}

impl Kind {
    /// The OpenAPI v3 schema of a whole object as in a CustomResourceDefinition, with descriptions; `None` for a
    /// version that is not served. All served versions of a kind share one schema.
    pub fn schema(self, version: &str) -> Option<&'static Value> {
        self.info().served_version(version).map(|_| &kind_schema(self).schema)
    }

    /// The columns that `kubectl get` shows beside the name; none for a version that is not served. A kind without
    /// columns of its own shows its age, as with Kubernetes.
    pub fn printer_columns(self, version: &str) -> &'static [PrinterColumn] {
        self.info().served_version(version).map_or(&[], |_| &kind_schema(self).columns)
    }

    /// The schema in the form that validation walks.
    pub(crate) fn node(self) -> &'static Node {
        NODES[self as usize].get_or_init(|| Node::of_kind(self, &kind_schema(self).schema))
    }
}

fn kind_schema(kind: Kind) -> &'static KindSchema {
    SCHEMAS[kind as usize].get_or_init(|| load(kind))
}

fn load(kind: Kind) -> KindSchema {
    let file: SchemaFile = serde_json::from_str(data(kind)).expect("embedded schemas are valid, a test reads them all");
    let mut columns = file.printer_columns;
    if columns.is_empty() {
        columns.push(PrinterColumn {
            name: "Age".to_owned(),
            column_type: "date".to_owned(),
            format: String::new(),
            description: "When the object was created.".to_owned(),
            priority: 0,
            json_path: ".metadata.creationTimestamp".to_owned(),
        });
    }
    KindSchema { columns, schema: with_object_fields(file.schema) }
}

/// Adds what every object has; the data files leave it out.
fn with_object_fields(mut schema: Value) -> Value {
    let Some(Value::Object(own)) = schema.get_mut("properties").map(Value::take) else { return schema };
    let mut properties = Map::new();
    let text = |description: &str| json!({ "description": description, "type": "string" });
    properties.insert("apiVersion".to_owned(), text("The group and version of the document's schema."));
    properties.insert("kind".to_owned(), text("The kind of the object."));
    let metadata = serde_json::from_str(include_str!("../../schemas/objectmeta.json"));
    properties.insert("metadata".to_owned(), metadata.expect("embedded schemas are valid, a test reads them all"));
    properties.extend(own);
    schema["properties"] = Value::Object(properties);
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema_in_every_version() {
        for kind in Kind::ALL {
            for version in kind.info().versions {
                let schema = kind.schema(version).unwrap();
                for field in ["apiVersion", "kind", "metadata"] {
                    assert!(schema["properties"][field].is_object(), "{kind:?} {field}");
                }
                assert_eq!(schema["properties"]["spec"].is_object(), kind.info().has_spec, "{kind:?}");
                assert_eq!(schema["properties"]["status"].is_object(), kind.info().has_status, "{kind:?}");
                assert!(!kind.printer_columns(version).is_empty());
            }
            assert_eq!(kind.schema("v0"), None);
        }
    }

    #[test]
    fn status_holds_conditions() {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.info().has_status) {
            let status = &kind.schema(kind.info().preferred_version()).unwrap()["properties"]["status"];
            let condition = &status["properties"]["conditions"]["items"]["properties"];
            for field in ["type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"] {
                assert!(condition[field].is_object(), "{kind:?} {field}");
            }
        }
    }
}
