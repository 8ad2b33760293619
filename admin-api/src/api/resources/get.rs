//! One object.

use std::sync::Arc;

use jiff::Timestamp;
use route_model::meta::ResourceKey;
use serde_json::json;

use crate::api::call::{Answer, Call};
use crate::api::error::ApiError;
use crate::api::negotiate::Form;
use crate::api::path::Target;
use crate::api::table::{IncludeObject, metadata_only, table};
use crate::store::{StoredObject, View};

pub(super) fn get(call: &Call, target: &Target, name: &str) -> Result<Answer, ApiError> {
    call.authorize("get", target, name)?;
    let form = Form::of(&call.headers)?;
    let object = find(&call.state.snapshot().view(), target, name)?;
    let shown = call.show(&object, target.version);
    let body = match form {
        Form::Object => shown,
        Form::Metadata => metadata_only(&shown),
        Form::Table => {
            let metadata = json!({"resourceVersion": object.resource_version.to_string()});
            let include = IncludeObject::of(&call.query)?;
            table(target.kind, target.version, &[shown], metadata, include, Timestamp::now())
        }
    };
    Ok(Answer::ok(body).with_warnings(call.read_warnings()))
}

/// # Errors
/// 404.
pub(super) fn find(view: &View, target: &Target, name: &str) -> Result<Arc<StoredObject>, ApiError> {
    view.get(&key(target, name)).cloned().ok_or_else(|| ApiError::not_found(target.kind, name))
}

pub(super) fn key(target: &Target, name: &str) -> ResourceKey {
    ResourceKey::new(target.kind, target.namespace.as_deref().unwrap_or_default(), name)
}
