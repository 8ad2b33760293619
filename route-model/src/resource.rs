//! Resources as typed values, and consistent sets of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::field::{FieldCause, FieldError, FieldPath};
use crate::kind::Kind;
use crate::kinds;
use crate::meta::{ObjectMeta, ResourceKey, Revision};

/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A resource as a person wrote it, typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub key: ResourceKey,
    pub meta: ObjectMeta,
    pub spec: Spec,
}

/// A type that is the spec of a kind.
pub trait SpecType: Sized + 'static {
    const KIND: Kind;

    /// `None` when the spec is of another kind.
    fn from_spec(spec: &Spec) -> Option<&Self>;
}

macro_rules! specs {
    ($($kind:ident: $type:ty,)*) => {
        /// The spec of a resource, one variant a kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Spec {
            $($kind(Box<$type>),)*
        }

        impl Spec {
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }

            /// Types the spec of an object of the API.
            pub fn from_object(kind: Kind, object: &Value) -> Result<Self, Vec<FieldError>> {
                let empty = Value::Object(Map::new());
                let (path, value) = if kind.info().has_spec {
                    let spec = object.get("spec").filter(|spec| !spec.is_null()).unwrap_or(&empty);
                    (FieldPath::new("spec"), spec)
                } else {
                    (FieldPath::default(), object)
                };
                Self::from_value(kind, value)
                    .map_err(|error| vec![FieldError::new(path, FieldCause::Invalid, error.to_string())])
            }

            /// Reads the value of `spec`, or the whole object where a kind has no `spec`.
            fn from_value(kind: Kind, value: &Value) -> Result<Self, serde_json::Error> {
                match kind { $(Kind::$kind => <$type>::deserialize(value).map(|spec| Self::$kind(Box::new(spec))),)* }
            }

            fn to_value(&self) -> Result<Value, serde_json::Error> {
                match self { $(Self::$kind(spec) => serde_json::to_value(spec),)* }
            }
        }

        $(impl SpecType for $type {
            const KIND: Kind = Kind::$kind;

            fn from_spec(spec: &Spec) -> Option<&Self> {
                match spec {
                    Spec::$kind(spec) => Some(spec),
                    _ => None,
                }
            }
        })*
    };
}

specs! {
    Gateway: kinds::Gateway,
    VirtualService: kinds::VirtualService,
    DestinationRule: kinds::DestinationRule,
    ServiceEntry: kinds::ServiceEntry,
    WorkloadEntry: kinds::WorkloadEntry,
    WorkloadGroup: kinds::WorkloadGroup,
    Sidecar: kinds::Sidecar,
    EnvoyFilter: kinds::EnvoyFilter,
    ProxyConfig: kinds::ProxyConfig,
    PeerAuthentication: kinds::PeerAuthentication,
    RequestAuthentication: kinds::RequestAuthentication,
    AuthorizationPolicy: kinds::AuthorizationPolicy,
    Telemetry: kinds::Telemetry,
    WasmPlugin: kinds::WasmPlugin,
    TrafficExtension: kinds::TrafficExtension,
    MeshConfig: kinds::MeshConfig,
    RateLimitPolicy: kinds::RateLimitPolicy,
    BackendPolicy: kinds::BackendPolicy,
    Namespace: kinds::Namespace,
    Secret: kinds::Secret,
    Event: kinds::Event,
}

impl Resource {
    /// Types an object of the API, which should be one that passed validation; unknown fields are
    /// left out. A namespaced object without a namespace is of the namespace `default`.
    pub fn from_object(kind: Kind, object: &Value) -> Result<Self, Vec<FieldError>> {
        let metadata = match object.get("metadata") {
            Some(Value::Object(metadata)) => metadata,
            _ => &Map::new(),
        };
        let info = kind.info();
        let mut meta = read_meta(metadata);
        if !info.namespaced {
            meta.namespace.clear();
        } else if meta.namespace.is_empty() {
            DEFAULT_NAMESPACE.clone_into(&mut meta.namespace);
        }
        if meta.name.is_empty() {
            return Err(vec![FieldError::required(FieldPath::new("metadata.name"), "")]);
        }
        let spec = Spec::from_object(kind, object)?;
        Ok(Self { key: ResourceKey::new(kind, meta.namespace.as_str(), meta.name.as_str()), meta, spec })
    }

    /// The object of the API, in the kind's preferred version: every field as it was written, without status.
    pub fn to_object(&self) -> Value {
        let info = self.key.kind.info();
        let mut object = Map::new();
        object.insert("apiVersion".to_owned(), Value::String(info.api_version(info.preferred_version())));
        object.insert("kind".to_owned(), Value::String(info.name.to_owned()));
        // Specs are made of strings, numbers, lists and string-keyed maps, which always serialise.
        object.insert("metadata".to_owned(), serde_json::to_value(&self.meta).unwrap_or_default());
        let spec = self.spec.to_value().unwrap_or_default();
        match spec {
            Value::Object(fields) if !info.has_spec => object.extend(fields),
            spec => {
                object.insert("spec".to_owned(), spec);
            }
        }
        Value::Object(object)
    }

    /// The spec, if it is one of the kind `T`.
    pub fn spec<T: SpecType>(&self) -> Option<&T> {
        T::from_spec(&self.spec)
    }
}

/// Reads what [`ObjectMeta`] holds. `null`s (kubectl sends `creationTimestamp: null`) count as absent.
fn read_meta(metadata: &Map<String, Value>) -> ObjectMeta {
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let map = |key: &str| {
        let entries = metadata.get(key).and_then(Value::as_object).into_iter().flatten();
        entries.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
    };
    ObjectMeta {
        name: text("name"),
        namespace: text("namespace"),
        uid: text("uid"),
        generation: metadata.get("generation").and_then(Value::as_i64).unwrap_or_default(),
        resource_version: text("resourceVersion"),
        creation_timestamp: text("creationTimestamp"),
        labels: map("labels"),
        annotations: map("annotations"),
    }
}

/// A consistent set of resources at one revision. Cloning shares the resources.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    pub revision: Revision,
    resources: BTreeMap<ResourceKey, Arc<Resource>>,
}

impl ResourceSet {
    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Resource>> {
        self.resources.get(key)
    }

    /// Adds or replaces; answers what was there before.
    pub fn insert(&mut self, resource: Arc<Resource>) -> Option<Arc<Resource>> {
        self.resources.insert(resource.key.clone(), resource)
    }

    pub fn remove(&mut self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.resources.remove(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// The resources of one kind, by namespace and name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.range(ResourceKey::new(kind, "", "")..).map(|(_, r)| r).take_while(move |r| r.key.kind == kind)
    }

    /// The resources of one kind with their specs, by namespace and name.
    pub fn specs<T: SpecType>(&self) -> impl Iterator<Item = (&Arc<Resource>, &T)> {
        self.of_kind(T::KIND).filter_map(|resource| Some((resource, resource.spec::<T>()?)))
    }

    pub fn len(&self) -> usize {
        self.resources.len()
    }

    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }
}

impl FromIterator<Arc<Resource>> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        let mut set = Self::default();
        for resource in resources {
            set.insert(resource);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{Gateway, Secret, VirtualService};

    #[test]
    fn objects_become_resources() {
        let object = json!({
            "apiVersion": "networking.istio.io/v1beta1",
            "kind": "Gateway",
            "metadata": {
                "name": "edge", "creationTimestamp": null, "resourceVersion": "7", "generation": 3,
                "labels": {"app": "a"}, "annotations": null
            },
            "spec": {"servers": [{"hosts": ["*"], "port": {"number": 80}}], "unknown": 1}
        });
        let resource = Resource::from_object(Kind::Gateway, &object).unwrap();
        assert_eq!(resource.key.to_string(), "Gateway default/edge");
        assert_eq!((resource.meta.generation, resource.meta.resource_version.as_str()), (3, "7"));
        assert_eq!(resource.meta.labels["app"], "a");
        let gateway: &Gateway = resource.spec().unwrap();
        assert_eq!(*gateway.servers[0].port.as_ref().unwrap().number, 80);
        assert!(resource.spec::<VirtualService>().is_none());
        let written = resource.to_object();
        assert_eq!(written["apiVersion"], "networking.istio.io/v1");
        assert_eq!(written["spec"], json!({"servers": [{"port": {"number": 80}, "hosts": ["*"]}]}));
    }

    #[test]
    fn secrets_are_decoded_and_not_shown() {
        let object = json!({
            "metadata": {"name": "cert", "namespace": "edge"},
            "type": "Opaque", "data": {"a": "c2VjcmV0", "b": "eA=="}, "stringData": {"b": "over"}
        });
        let resource = Resource::from_object(Kind::Secret, &object).unwrap();
        let secret: &Secret = resource.spec().unwrap();
        assert_eq!(secret.value("a"), Some(&b"secret"[..]));
        assert_eq!(secret.value("b"), Some(&b"over"[..]));
        assert_eq!(secret.value("c"), None);
        let shown = format!("{resource:?}");
        assert!(!shown.contains("secret\"") && !shown.contains("over") && !shown.contains("c2Vj"), "{shown}");
        assert_eq!(resource.to_object()["data"]["a"], "c2VjcmV0");
    }

    #[test]
    fn what_cannot_be_typed_is_an_error() {
        let nameless = json!({"metadata": {}, "spec": {}});
        assert_eq!(Resource::from_object(Kind::Gateway, &nameless).unwrap_err()[0].path.as_str(), "metadata.name");
        let wrong = json!({"metadata": {"name": "a"}, "spec": {"servers": 1}});
        assert_eq!(Resource::from_object(Kind::Gateway, &wrong).unwrap_err()[0].path.as_str(), "spec");
        assert!(Resource::from_object(Kind::Gateway, &json!([])).is_err());
    }

    #[test]
    fn a_set_lists_a_kind_with_its_specs() {
        let resource = |kind, name: &str| {
            let object = json!({"metadata": {"name": name, "namespace": "b"}, "spec": {}});
            Arc::new(Resource::from_object(kind, &object).unwrap())
        };
        let mut set: ResourceSet =
            [resource(Kind::VirtualService, "x"), resource(Kind::Gateway, "b"), resource(Kind::Gateway, "a")]
                .into_iter()
                .collect();
        let names: Vec<&str> = set.specs::<Gateway>().map(|(resource, _)| &*resource.key.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(set.of_kind(Kind::DestinationRule).count(), 0);
        set.remove(&ResourceKey::new(Kind::Gateway, "b", "a"));
        assert_eq!(set.len(), 2);
    }
}
