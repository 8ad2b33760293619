//! Several writes as one: one transaction, one revision, one push.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::api::admission::resource_version;
use crate::api::body::{self, Document, MAX_LIST};
use crate::api::call::{Call, add_warnings};
use crate::api::error::ApiError;
use crate::api::path::Target;
use crate::api::query::WriteOptions;
use crate::api::resources::{create, delete, patch, update};
use crate::api::state::ApiState;
use crate::api::writes::{Batch, Edit, commit};
use crate::store::Op;

/// Most writes in one call.
const MAX_CHANGES: usize = 5000;

/// Writes that happen together or not at all.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ChangeRequest {
    /// Why; kept with the revision.
    #[serde(default)]
    message: String,
    /// Make the change even if routes that serve now would answer 503 after it.
    #[serde(default)]
    allow_dangling: bool,
    changes: Vec<ChangeItem>,
}

/// One write.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ChangeItem {
    op: ChangeOp,
    /// The whole object; `delete` needs no more than `apiVersion`, `kind` and the metadata that names it. With a
    /// `metadata.resourceVersion` it must still be at that version.
    #[schema(value_type = Object)]
    object: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChangeOp {
    /// It must not exist.
    Create,
    /// It must exist, and is replaced whole.
    Update,
    /// Server-side apply: creates it, or changes the fields that are given and removes those given last time.
    Apply,
    /// An object with finalizers is only marked (outcome `updated`) until they have gone.
    Delete,
}

/// What became of the writes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChangeResponse {
    /// The revision that holds the change: wait for it with `/revisions/{revision}/applied`.
    revision: u64,
    /// One for each change, in its order.
    results: Vec<ChangeResult>,
    /// What the writers should know. Where there are several writes each begins with the resource that it is about:
    /// `VirtualService shop/reviews: spec.http[0]: …`. The same is in the `Warning` headers.
    warnings: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChangeResult {
    outcome: ChangeOutcome,
    /// The object after the change, or as it was last.
    #[schema(value_type = Object)]
    object: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChangeOutcome {
    Created,
    Updated,
    Unchanged,
    Deleted,
}

/// Make several writes in one transaction.
#[utoipa::path(
    post,
    path = "/api/fairway/v1/changes",
    tag = "changes",
    operation_id = "applyChanges",
    request_body = ChangeRequest,
    params(
        ("dryRun" = Option<String>, Query, description = "All: do everything but store."),
        ("fieldManager" = Option<String>, Query, description = "Who owns the fields that are written."),
        ("fieldValidation" = Option<String>, Query, description = "What to do about unknown fields: Ignore, Warn or Strict."),
        ("force" = Option<bool>, Query, description = "Take fields that other managers own (op apply)."),
    ),
    responses(
        (status = 200, description = "All writes were made", body = ChangeResponse),
        (status = 409, description = "An object exists already, or is not at the version given", body = Problem),
        (status = 422, description = "A write is not valid, or would break routes that serve now", body = Problem),
        (status = 503, description = "The database is not available", body = Problem),
    ),
)]
pub(crate) async fn change(State(state): State<ApiState>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let call = Call::new(state, parts)?;
    Ok(make(&call, body).await?)
}

async fn make(call: &Call, body: Body) -> Result<Response, ApiError> {
    let options = options(call)?;
    let bytes = body::read(body, MAX_LIST).await?;
    let document = body::parse(&bytes, &call.headers)?;
    let request = ChangeRequest::deserialize(document.value)
        .map_err(|error| ApiError::bad_request(format!("the body is no list of changes: {error}")))?;
    if request.changes.len() > MAX_CHANGES {
        return Err(ApiError::bad_request(format!("one call makes at most {MAX_CHANGES} changes")));
    }
    let mut edits = Vec::with_capacity(request.changes.len());
    let mut targets = Vec::with_capacity(request.changes.len());
    let mut keys = BTreeSet::new();
    for (index, item) in request.changes.into_iter().enumerate() {
        let inside = format!("changes[{index}].object.");
        let duplicates = document.duplicates.iter().filter_map(|path| path.strip_prefix(&inside)).map(str::to_owned);
        let (target, name) = address(&item.object).map_err(|error| of_change(index, None, error))?;
        let key = ResourceKey::new(target.kind, target.namespace.as_deref().unwrap_or_default(), name.as_str());
        let edit = prepare(call, &target, &key, item, duplicates.collect(), &options)
            .map_err(|error| of_change(index, Some(&key), error))?;
        if !keys.insert(edit.key.clone()) {
            return Err(ApiError::bad_request(format!("changes[{index}]: {} is written twice", edit.key)));
        }
        targets.push(target);
        edits.push(edit);
    }
    let deleted: Vec<bool> = edits.iter().map(|edit| matches!(edit.op, Op::Delete)).collect();
    let created: Vec<bool> = edits.iter().map(|edit| edit.previous.is_none()).collect();
    let batch =
        Batch { edits, message: request.message, dry_run: options.dry_run, refuse_dangling: !request.allow_dangling };
    let outcome = commit(call, batch).await?;
    let results = targets.iter().zip(&outcome.objects).enumerate().map(|(index, (target, object))| ChangeResult {
        outcome: match (deleted[index], created[index], outcome.changed[index]) {
            (true, ..) => ChangeOutcome::Deleted,
            (_, true, _) => ChangeOutcome::Created,
            (_, _, true) => ChangeOutcome::Updated,
            _ => ChangeOutcome::Unchanged,
        },
        object: call.show_written(object, target.version, options.dry_run),
    });
    let answer =
        ChangeResponse { revision: outcome.revision.0, results: results.collect(), warnings: outcome.warnings };
    let mut headers = HeaderMap::new();
    add_warnings(&mut headers, &answer.warnings);
    Ok((headers, axum::Json(answer)).into_response())
}

fn options(call: &Call) -> Result<WriteOptions, ApiError> {
    let mut options = call.write_options("ChangeOptions")?;
    if options.field_manager.is_empty() {
        call.user_agent().clone_into(&mut options.field_manager);
    }
    Ok(options)
}

/// Says which of the changes an error is about. Most errors name the resource themselves, and nobody reads a name that is no
/// name but a page.
fn of_change(index: usize, key: Option<&ResourceKey>, error: ApiError) -> ApiError {
    const LONGEST: usize = 253;
    let names_it = error.details.as_ref().is_some_and(|details| !details.name.is_empty());
    let place = match key {
        Some(key) if !names_it && key.namespace.len().max(key.name.len()) <= LONGEST => {
            format!("changes[{index}]: {key}")
        }
        _ => format!("changes[{index}]"),
    };
    ApiError { message: format!("{place}: {}", error.message), ..error }
}

fn prepare(
    call: &Call,
    target: &Target,
    key: &ResourceKey,
    item: ChangeItem,
    duplicates: Vec<String>,
    options: &WriteOptions,
) -> Result<Edit, ApiError> {
    let ChangeItem { op, object } = item;
    let name = &*key.name;
    let verb = match op {
        ChangeOp::Create => "create",
        ChangeOp::Update => "update",
        ChangeOp::Apply => "patch",
        ChangeOp::Delete => "delete",
    };
    call.authorize(verb, target, name)?;
    if target.kind == Kind::Event || (op == ChangeOp::Delete && target.kind == Kind::Namespace) {
        let why = format!("a {} cannot be written by this call", target.kind.name());
        return Err(ApiError::bad_request(why));
    }
    let previous = call.state.snapshot().view().get(key).cloned();
    let document = Document { value: object, duplicates };
    Ok(match op {
        ChangeOp::Create => create::prepare(call, target, &document, options)?.0,
        ChangeOp::Update => {
            let previous = previous.ok_or_else(|| ApiError::not_found(target.kind, name))?;
            let mut document = document;
            if resource_version(&document.value)?.is_none() {
                document.value["metadata"]["resourceVersion"] = Value::String(previous.resource_version.to_string());
            }
            update::prepare(call, target, name, previous, &document, options)?
        }
        ChangeOp::Apply => patch::prepare_apply(call, target, name, previous, &document, options)?.0,
        ChangeOp::Delete => {
            let previous = previous.ok_or_else(|| ApiError::not_found(target.kind, name))?;
            if resource_version(&document.value)?.is_some_and(|version| version != previous.resource_version) {
                return Err(ApiError::stale(target.kind, name));
            }
            let waits = || ApiError::conflict(target.kind, name, "it is being deleted and waits for its finalizers");
            delete::edit(previous).ok_or_else(waits)?
        }
    })
}

/// What an object says it is.
fn address(object: &Value) -> Result<(Target, String), ApiError> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    let (kind, version) = Kind::from_api_version(api_version, kind)
        .ok_or_else(|| ApiError::bad_request(format!("no kind {kind:?} is registered for version {api_version:?}")))?;
    let namespace = match text("/metadata/namespace") {
        _ if !kind.info().namespaced => None,
        "" => Some(route_model::resource::DEFAULT_NAMESPACE.to_owned()),
        namespace => Some(namespace.to_owned()),
    };
    Ok((Target { kind, version, namespace }, text("/metadata/name").to_owned()))
}
