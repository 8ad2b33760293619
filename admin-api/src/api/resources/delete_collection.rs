//! Deletion of all that a selector matches, in one transaction.

use std::sync::Arc;

use axum::body::Body;
use route_model::kind::Kind;
use serde_json::{Value, json};

use super::delete::{DeleteOptions, edit};
use super::list::Selection;
use crate::api::call::{Answer, Call, list_kind};
use crate::api::error::ApiError;
use crate::api::path::Target;
use crate::api::writes::{Batch, commit};
use crate::store::StoredObject;

pub(super) async fn delete_collection(call: &Call, target: &Target, body: Body) -> Result<Answer, ApiError> {
    if target.kind == Kind::Namespace {
        return Err(ApiError::method_not_allowed());
    }
    call.authorize("deletecollection", target, "")?;
    let options = DeleteOptions::read(call, body).await?;
    let selection = Selection::of(&call.query, target)?;
    let view = call.state.snapshot().view();
    // What is generated goes with the workloads.
    let meant = |object: &&Arc<StoredObject>| !object.generated && selection.matches(object);
    let objects: Vec<_> = view.list(target.kind, target.namespace.as_deref()).filter(meant).cloned().collect();
    let shown: Vec<Value> = objects.iter().map(|object| call.show(object, target.version)).collect();
    let edits: Vec<_> = objects.into_iter().filter_map(edit).collect();
    let mut warnings = Vec::new();
    if !edits.is_empty() {
        let batch = Batch { edits, message: String::new(), dry_run: options.dry_run, refuse_dangling: false };
        warnings = commit(call, batch).await?.warnings;
    }
    let list = json!({
        "kind": list_kind(target.kind),
        "apiVersion": target.api_version(),
        "metadata": {"resourceVersion": call.state.snapshot().view().resource_version().to_string()},
        "items": shown,
    });
    Ok(Answer::ok(list).with_warnings(warnings))
}
