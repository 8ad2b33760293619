//! Lists: selected, in pages, as objects, tables or metadata.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use route_model::meta::ResourceKey;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::api::call::{Answer, Call, list_kind};
use crate::api::error::ApiError;
use crate::api::negotiate::Form;
use crate::api::path::Target;
use crate::api::query::Query;
use crate::api::selector::{FieldSelector, LabelSelector};
use crate::api::table::{IncludeObject, metadata_only, table};
use crate::store::StoredObject;

/// Which objects of a collection are meant.
#[derive(Debug)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(crate) fn of(query: &Query, target: &Target) -> Result<Self, ApiError> {
        Ok(Self {
            labels: LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?,
            fields: FieldSelector::parse(query.get("fieldSelector").unwrap_or_default(), target.kind)?,
        })
    }

    pub(crate) fn matches(&self, object: &StoredObject) -> bool {
        self.matches_value(&object.object)
    }

    pub(crate) fn matches_value(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        self.labels.matches(labels) && self.fields.matches(object)
    }
}

/// Where the next page begins. Every page shows the state of its own moment, under the resourceVersion of the first:
/// a watch from there misses nothing of what changed in between.
#[derive(Serialize, Deserialize)]
struct Continue {
    /// The resourceVersion of the first page.
    rv: u64,
    /// The last key of the page before.
    ns: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| ApiError::bad_request("the continue parameter is not one that this server gave"))
    }
}

pub(super) fn list(call: &Call, target: &Target) -> Result<Answer, ApiError> {
    call.authorize("list", target, "")?;
    let form = Form::of(&call.headers)?;
    let selection = Selection::of(&call.query, target)?;
    let limit = call.query.number("limit")?.filter(|limit| *limit > 0).map_or(usize::MAX, |l| l as usize);
    let after = call.query.get("continue").map(Continue::decode).transpose()?;
    let view = call.state.snapshot().view();
    let resource_version = after.as_ref().map_or(view.resource_version(), |token| token.rv);
    if resource_version > view.resource_version() {
        // The token is from before the database was replaced by an older one.
        return Err(ApiError::expired("the continue parameter is too old; start the list again"));
    }
    let after = after.map(|token| ResourceKey::new(target.kind, token.ns, token.name));

    let mut page = Vec::new();
    let mut last = None;
    let mut remaining = 0_usize;
    for object in view.list(target.kind, target.namespace.as_deref()) {
        if after.as_ref().is_some_and(|after| object.key <= *after) || !selection.matches(object) {
            continue;
        }
        if page.len() < limit {
            page.push(call.show(object, target.version));
            last = Some(&object.key);
        } else {
            remaining += 1;
        }
    }
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), json!(resource_version.to_string()));
    if let (Some(last), 1..) = (last, remaining) {
        let token = Continue { rv: resource_version, ns: last.namespace.to_string(), name: last.name.to_string() };
        metadata.insert("continue".to_owned(), json!(token.encode()));
        metadata.insert("remainingItemCount".to_owned(), json!(remaining));
    }
    let body = body(call, target, form, page, Value::Object(metadata))?;
    Ok(Answer::ok(body).with_warnings(call.read_warnings()))
}

/// The list in the form that was asked for.
pub(crate) fn body(
    call: &Call,
    target: &Target,
    form: Form,
    page: Vec<Value>,
    metadata: Value,
) -> Result<Value, ApiError> {
    Ok(match form {
        Form::Table => {
            let include = IncludeObject::of(&call.query)?;
            table(target.kind, target.version, &page, metadata, include, Timestamp::now())
        }
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "items": page.iter().map(metadata_only).collect::<Vec<_>>(),
        }),
        Form::Object => json!({
            "kind": list_kind(target.kind),
            "apiVersion": target.api_version(),
            "metadata": metadata,
            "items": page,
        }),
    })
}
