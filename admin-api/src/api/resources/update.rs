//! Replacement by PUT.

use std::sync::Arc;

use axum::body::Body;
use jiff::Timestamp;
use route_model::field::{FieldCause, FieldError, FieldPath};
use serde_json::Value;

use super::get::find;
use crate::api::admission::{self, Draft, Ownership, admit};
use crate::api::apply::{Manager, Operation};
use crate::api::body::Document;
use crate::api::call::{Answer, Call};
use crate::api::error::ApiError;
use crate::api::path::Target;
use crate::api::query::WriteOptions;
use crate::api::status::whole_seconds;
use crate::api::writes::{Batch, Edit, commit};
use crate::store::StoredObject;

pub(super) async fn update(call: &Call, target: &Target, name: &str, body: Body) -> Result<Answer, ApiError> {
    call.authorize("update", target, name)?;
    let options = call.write_options("UpdateOptions")?;
    let document = call.document(body).await?;
    let previous = find(&call.state.snapshot().view(), target, name)?;
    let edit = prepare(call, target, name, previous, &document, &options)?;
    finish(call, target, edit, options.dry_run).await
}

/// The write that replaces `previous`.
pub(crate) fn prepare(
    call: &Call,
    target: &Target,
    name: &str,
    previous: Arc<StoredObject>,
    document: &Document,
    options: &WriteOptions,
) -> Result<Edit, ApiError> {
    let mut object = document.value.clone();
    admission::identify(&mut object, target, Some(name))?;
    match admission::resource_version(&object)? {
        None => {
            let path = FieldPath::new("metadata.resourceVersion");
            let error =
                FieldError::new(path, FieldCause::Invalid, "Invalid value: 0x0: must be specified for an update");
            return Err(ApiError::invalid(target.kind, name, &[error]));
        }
        Some(version) if version != previous.resource_version => return Err(ApiError::stale(target.kind, name)),
        Some(_) => {}
    }
    admit_update(call, target, previous, object, &document.duplicates, options)
}

/// Admits `object` in place of `previous` as an ordinary update.
pub(crate) fn admit_update(
    call: &Call,
    target: &Target,
    previous: Arc<StoredObject>,
    object: Value,
    duplicates: &[String],
    options: &WriteOptions,
) -> Result<Edit, ApiError> {
    let now = whole_seconds(Timestamp::now());
    let manager = Manager {
        name: call.manager(options).to_owned(),
        operation: Operation::Update,
        api_version: target.api_version(),
        subresource: String::new(),
    };
    let draft = Draft {
        target,
        previous: Some(&previous),
        object,
        duplicates,
        field_validation: options.field_validation,
        ownership: Ownership::Update(&manager),
        now: &now,
    };
    let admitted = admit(draft)?;
    Ok(Edit::replace(previous, admitted))
}

/// Commits one edit and shows what came of it.
pub(super) async fn finish(call: &Call, target: &Target, edit: Edit, dry_run: bool) -> Result<Answer, ApiError> {
    let created = edit.previous.is_none();
    let outcome = commit(call, Batch::one(edit, dry_run)).await?;
    let shown = outcome.objects.first();
    let shown = shown.map_or(Value::Null, |object| call.show_written(object, target.version, dry_run));
    let answer = if created { Answer::created(shown) } else { Answer::ok(shown) };
    Ok(answer.with_warnings(outcome.warnings))
}
