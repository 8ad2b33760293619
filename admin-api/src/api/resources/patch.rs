//! Changes by PATCH: merge patch, JSON patch, strategic merge patch for the core kinds, and server-side apply.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use jiff::Timestamp;
use route_model::field::FieldCause;
use route_model::kind::Kind;
use route_model::validate::validate;
use serde_json::{Value, json};

use super::get::key;
use super::update::{admit_update, finish};
use crate::api::admission::{self, Draft, Ownership, admit};
use crate::api::apply::{Manager, Operation, apply};
use crate::api::body::{Document, media_type, parse_json, parse_yaml};
use crate::api::call::{Answer, Call};
use crate::api::error::ApiError;
use crate::api::patch::{apply_json_patch, apply_merge_patch};
use crate::api::path::Target;
use crate::api::query::WriteOptions;
use crate::api::status::whole_seconds;
use crate::api::writes::Edit;
use crate::api::{call, secrets};
use crate::store::StoredObject;

const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// How often a patch is made anew when the object moves on in between. A patch that names the version it is for is made
/// once.
const ATTEMPTS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Merge,
    Json,
    Strategic,
    Apply,
}

pub(super) async fn patch(call: &Call, target: &Target, name: &str, body: Body) -> Result<Answer, ApiError> {
    call.authorize("patch", target, name)?;
    let format = format(call, target.kind)?;
    let options = call.write_options("PatchOptions")?;
    if options.force && format != Format::Apply {
        let why = "Forbidden: may not be specified for non-apply patch";
        return Err(ApiError::invalid_options("PatchOptions.meta.k8s.io", "force", FieldCause::Forbidden, why));
    }
    let bytes = call.read(body).await?;
    let patch = parse(format, &bytes)?;
    let mut attempt = 1;
    loop {
        let previous = call.state.snapshot().view().get(&key(target, name)).cloned();
        let (edit, retry) = prepare(call, target, name, previous, format, &patch, &options)?;
        match finish(call, target, edit, options.dry_run).await {
            Err(error) if retry && matches!(error.reason, "Conflict" | "AlreadyExists") && attempt < ATTEMPTS => {
                attempt += 1;
            }
            done => return done,
        }
    }
}

fn format(call: &Call, kind: Kind) -> Result<Format, ApiError> {
    // The core kinds have a patch strategy; for what a patch of them touches it is that of a merge patch.
    let core = kind.info().group.is_empty();
    match media_type(&call.headers).as_deref() {
        Some(MERGE) => Ok(Format::Merge),
        Some(JSON) => Ok(Format::Json),
        Some(APPLY) => Ok(Format::Apply),
        Some(STRATEGIC) if core => Ok(Format::Strategic),
        _ if core => Err(ApiError::unsupported_media_type(&[JSON, MERGE, STRATEGIC, APPLY])),
        _ => Err(ApiError::unsupported_media_type(&[JSON, MERGE, APPLY])),
    }
}

fn parse(format: Format, bytes: &Bytes) -> Result<Document, ApiError> {
    if format == Format::Apply { parse_yaml(bytes) } else { parse_json(bytes) }
}

/// The write, and whether it may be made anew from a newer object.
fn prepare(
    call: &Call,
    target: &Target,
    name: &str,
    previous: Option<Arc<StoredObject>>,
    format: Format,
    patch: &Document,
    options: &WriteOptions,
) -> Result<(Edit, bool), ApiError> {
    if format == Format::Apply {
        return prepare_apply(call, target, name, previous, patch, options);
    }
    let previous = previous.ok_or_else(|| ApiError::not_found(target.kind, name))?;
    let mut object = call.show(&previous, target.version);
    let about_version;
    match format {
        Format::Json => {
            apply_json_patch(&mut object, &patch.value).map_err(|error| ApiError::unprocessable(error.to_string()))?;
            let paths = patch.value.as_array().into_iter().flatten();
            about_version = paths.filter_map(|op| op["path"].as_str()).any(|p| p == "/metadata/resourceVersion");
        }
        Format::Merge | Format::Strategic | Format::Apply => {
            if !patch.value.is_object() {
                return Err(ApiError::bad_request("a merge patch of an object must be an object"));
            }
            let mut changes = patch.value.clone();
            if format == Format::Strategic {
                drop_directives(&mut changes);
            }
            about_version = changes.pointer("/metadata/resourceVersion").is_some_and(|v| !v.is_null());
            apply_merge_patch(&mut object, &changes);
        }
    }
    admission::identify(&mut object, target, Some(name))?;
    if admission::resource_version(&object)?.is_some_and(|version| version != previous.resource_version) {
        return Err(ApiError::stale(target.kind, name));
    }
    let edit = admit_update(call, target, previous, object, &patch.duplicates, options)?;
    Ok((edit, !about_version))
}

/// A merge patch has no place for the order and deletion directives of strategic merge patches.
fn drop_directives(patch: &mut Value) {
    if let Value::Object(fields) = patch {
        fields.retain(|name, _| !name.starts_with('$'));
        fields.values_mut().for_each(drop_directives);
    }
}

/// The write of a server-side apply, and whether it may be made anew.
pub(crate) fn prepare_apply(
    call: &Call,
    target: &Target,
    name: &str,
    previous: Option<Arc<StoredObject>>,
    patch: &Document,
    options: &WriteOptions,
) -> Result<(Edit, bool), ApiError> {
    if options.field_manager.is_empty() {
        let why = "Required value: is required for apply patch";
        return Err(ApiError::invalid_options("PatchOptions.meta.k8s.io", "fieldManager", FieldCause::Required, why));
    }
    let mut config = patch.value.clone();
    admission::identify(&mut config, target, Some(name))?;
    if config.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let wanted = admission::resource_version(&config)?;
    if wanted.is_some() && wanted != previous.as_ref().map(|p| p.resource_version) {
        return Err(ApiError::stale(target.kind, name));
    }
    // What will not be stored is not owned either.
    let unknown = validate(target.kind, target.version, &config).unknown;
    let faults =
        admission::refuse_or_prune(target, &mut config, &patch.duplicates, &unknown, options.field_validation)?;
    admission::drop_empty_metadata(&mut config);
    if target.kind == Kind::Secret {
        secrets::merge_string_data(&mut config);
    }
    let mut live = match &previous {
        Some(previous) => call::show(&call.state, previous, target.version),
        None => json!({"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {}}),
    };
    if let Some(fields) = live.as_object_mut() {
        fields.shift_remove("status");
    }
    let now = whole_seconds(Timestamp::now());
    let manager = Manager {
        name: options.field_manager.clone(),
        operation: Operation::Apply,
        api_version: target.api_version(),
        subresource: String::new(),
    };
    let schema = target.kind.schema(target.version);
    let object = apply(&live, &config, &manager, schema, options.force, &now)?;
    let draft = Draft {
        target,
        previous: previous.as_deref(),
        object,
        duplicates: &[],
        field_validation: options.field_validation,
        ownership: Ownership::Applied,
        now: &now,
    };
    let mut admitted = admit(draft)?;
    admitted.warnings.splice(..0, faults);
    let edit = match previous {
        Some(previous) => Edit::replace(previous, admitted),
        None => Edit::create(key(target, name), admitted),
    };
    Ok((edit, wanted.is_none()))
}
