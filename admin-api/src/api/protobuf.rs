//! Kubernetes' protobuf bodies, as far as kubectl sends them to this API: its typed client writes namespaces, secrets
//! and access reviews in no other form, and does not fall back to JSON when it is refused.
//!
//! The field numbers are those of `k8s.io/api`'s generated `.proto` files.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use serde_json::{Map, Value, json};

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// `k8s.io.apimachinery.pkg.runtime.Unknown`
#[derive(Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    generate_name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
    #[prost(string, repeated, tag = "14")]
    finalizers: Vec<String>,
}

#[derive(Message)]
struct Secret {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(btree_map = "string, bytes", tag = "2")]
    data: BTreeMap<String, Vec<u8>>,
    #[prost(string, tag = "3")]
    r#type: String,
    #[prost(btree_map = "string, string", tag = "4")]
    string_data: BTreeMap<String, String>,
    #[prost(bool, optional, tag = "5")]
    immutable: Option<bool>,
}

#[derive(Message)]
struct Namespace {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<NamespaceSpec>,
}

#[derive(Message)]
struct NamespaceSpec {
    #[prost(string, repeated, tag = "1")]
    finalizers: Vec<String>,
}

#[derive(Message)]
struct AccessReview {
    #[prost(message, optional, tag = "2")]
    spec: Option<AccessReviewSpec>,
}

#[derive(Message)]
struct AccessReviewSpec {
    #[prost(message, optional, tag = "1")]
    resource_attributes: Option<ResourceAttributes>,
    #[prost(message, optional, tag = "2")]
    non_resource_attributes: Option<NonResourceAttributes>,
}

#[derive(Message)]
struct ResourceAttributes {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    verb: String,
    #[prost(string, tag = "3")]
    group: String,
    #[prost(string, tag = "4")]
    version: String,
    #[prost(string, tag = "5")]
    resource: String,
    #[prost(string, tag = "6")]
    subresource: String,
    #[prost(string, tag = "7")]
    name: String,
}

#[derive(Message)]
struct NonResourceAttributes {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(string, tag = "2")]
    verb: String,
}

#[derive(Message)]
struct RulesReview {
    #[prost(message, optional, tag = "2")]
    spec: Option<RulesReviewSpec>,
}

#[derive(Message)]
struct RulesReviewSpec {
    #[prost(string, tag = "1")]
    namespace: String,
}

#[derive(Message)]
struct DeleteOptions {
    #[prost(int64, optional, tag = "1")]
    grace_period_seconds: Option<i64>,
    #[prost(message, optional, tag = "2")]
    preconditions: Option<Preconditions>,
    #[prost(string, optional, tag = "4")]
    propagation_policy: Option<String>,
    #[prost(string, repeated, tag = "5")]
    dry_run: Vec<String>,
}

#[derive(Message)]
struct Preconditions {
    #[prost(string, optional, tag = "1")]
    uid: Option<String>,
    #[prost(string, optional, tag = "2")]
    resource_version: Option<String>,
}

/// The object of a body as JSON, `Err` with what is wrong with it.
pub(crate) fn decode(body: &[u8]) -> Result<Value, String> {
    let message = body.strip_prefix(MAGIC).ok_or("the body does not start with the protobuf prefix `k8s\\0`")?;
    let broken = |error: prost::DecodeError| format!("the protobuf body cannot be decoded: {error}");
    let unknown = Unknown::decode(message).map_err(broken)?;
    let TypeMeta { api_version, kind } = unknown.type_meta.unwrap_or_default();
    let raw = unknown.raw.as_slice();
    let mut object = match (api_version.as_str(), kind.as_str()) {
        ("v1", "Secret") => Secret::decode(raw).map_err(broken)?.into_json(),
        ("v1", "Namespace") => Namespace::decode(raw).map_err(broken)?.into_json(),
        ("v1" | "meta.k8s.io/v1" | _, "DeleteOptions") => DeleteOptions::decode(raw).map_err(broken)?.into_json(),
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => {
            AccessReview::decode(raw).map_err(broken)?.into_json()
        }
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => {
            let spec = RulesReview::decode(raw).map_err(broken)?.spec.unwrap_or_default();
            json!({"spec": {"namespace": spec.namespace}})
        }
        ("authentication.k8s.io/v1" | "authentication.k8s.io/v1beta1", "SelfSubjectReview") => json!({}),
        _ => return Err(format!("{api_version} {kind} is not read from protobuf; send application/json")),
    };
    object["apiVersion"] = Value::String(api_version);
    object["kind"] = Value::String(kind);
    Ok(object)
}

/// An object of those fields that are not empty.
fn filled(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    let fields = fields.into_iter().filter(|(_, value)| !empty(value));
    Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

impl ObjectMeta {
    fn into_json(self) -> Value {
        filled([
            ("name", json!(self.name)),
            ("generateName", json!(self.generate_name)),
            ("namespace", json!(self.namespace)),
            ("resourceVersion", json!(self.resource_version)),
            ("labels", json!(self.labels)),
            ("annotations", json!(self.annotations)),
            ("finalizers", json!(self.finalizers)),
        ])
    }
}

impl Secret {
    fn into_json(self) -> Value {
        let data: BTreeMap<_, _> =
            self.data.into_iter().map(|(name, bytes)| (name, BASE64_STANDARD.encode(bytes))).collect();
        filled([
            ("metadata", self.metadata.unwrap_or_default().into_json()),
            ("data", json!(data)),
            ("stringData", json!(self.string_data)),
            ("type", json!(self.r#type)),
            ("immutable", json!(self.immutable)),
        ])
    }
}

impl Namespace {
    fn into_json(self) -> Value {
        let finalizers = self.spec.unwrap_or_default().finalizers;
        filled([
            ("metadata", self.metadata.unwrap_or_default().into_json()),
            ("spec", filled([("finalizers", json!(finalizers))])),
        ])
    }
}

impl AccessReview {
    fn into_json(self) -> Value {
        let spec = self.spec.unwrap_or_default();
        let resource = spec.resource_attributes.map(|r| {
            filled([
                ("namespace", json!(r.namespace)),
                ("verb", json!(r.verb)),
                ("group", json!(r.group)),
                ("version", json!(r.version)),
                ("resource", json!(r.resource)),
                ("subresource", json!(r.subresource)),
                ("name", json!(r.name)),
            ])
        });
        let other = spec.non_resource_attributes;
        let other = other.map(|n| filled([("path", json!(n.path)), ("verb", json!(n.verb))]));
        json!({"spec": filled([("resourceAttributes", json!(resource)), ("nonResourceAttributes", json!(other))])})
    }
}

impl DeleteOptions {
    fn into_json(self) -> Value {
        let preconditions =
            self.preconditions.map(|p| filled([("uid", json!(p.uid)), ("resourceVersion", json!(p.resource_version))]));
        filled([
            ("gracePeriodSeconds", json!(self.grace_period_seconds)),
            ("preconditions", json!(preconditions)),
            ("propagationPolicy", json!(self.propagation_policy)),
            ("dryRun", json!(self.dry_run)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(api_version: &str, kind: &str, raw: &impl Message) -> Vec<u8> {
        let type_meta = TypeMeta { api_version: api_version.into(), kind: kind.into() };
        let mut body = MAGIC.to_vec();
        body.extend(Unknown { type_meta: Some(type_meta), raw: raw.encode_to_vec() }.encode_to_vec());
        body
    }

    #[test]
    fn a_secret_becomes_json_with_base64_data() {
        let secret = Secret {
            metadata: Some(ObjectMeta { name: "tls".into(), ..ObjectMeta::default() }),
            data: BTreeMap::from([("tls.key".to_owned(), b"key".to_vec())]),
            r#type: "kubernetes.io/tls".into(),
            ..Secret::default()
        };
        assert_eq!(
            decode(&body("v1", "Secret", &secret)).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls"},
                "data": {"tls.key": "a2V5"}, "type": "kubernetes.io/tls",
            })
        );
    }

    /// As kubectl 1.32 sent it for `kubectl create ns demo`.
    #[test]
    fn a_namespace_by_its_bytes() {
        let mut raw = b"k8s\0".to_vec();
        raw.extend(b"\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x14\x0a\x0e\x0a\x04demo\x12\x00\x1a\x00\x22\x00*\x00\x12\x00\x1a\x00\x1a\x00\x22\x00");
        let namespace = decode(&raw).unwrap();
        assert_eq!(namespace, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(decode(b"{}").is_err());
        assert!(decode(b"k8s\0\xff\xff").is_err());
        let pod = decode(&body("v1", "Pod", &Namespace::default())).unwrap_err();
        assert!(pod.contains("v1 Pod"), "{pod}");
    }
}
