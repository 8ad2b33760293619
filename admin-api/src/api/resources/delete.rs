//! Deletion of one object, with finalizers and preconditions; of a namespace with all that is in it.

use std::sync::Arc;

use axum::body::Body;
use jiff::Timestamp;
use route_model::kind::Kind;
use serde_json::{Map, Value, json};

use super::get::find;
use crate::api::body;
use crate::api::call::{Answer, Call};
use crate::api::error::ApiError;
use crate::api::namespaces;
use crate::api::path::Target;
use crate::api::query::parse_dry_run;
use crate::api::status::whole_seconds;
use crate::api::writes::{Batch, Edit, commit};
use crate::store::{Op, StoredObject, View};

/// How often a deletion is tried again when the object moves on in between.
const ATTEMPTS: usize = 5;

/// What a client may say about a deletion. Grace periods and propagation mean nothing here.
#[derive(Debug, Default)]
pub(super) struct DeleteOptions {
    pub(super) dry_run: bool,
    uid: Option<String>,
    resource_version: Option<String>,
}

impl DeleteOptions {
    /// From the body, which may be empty, and the query.
    pub(super) async fn read(call: &Call, body: Body) -> Result<Self, ApiError> {
        let query = call.write_options("DeleteOptions")?;
        let bytes = call.read(body).await?;
        let sent = if bytes.is_empty() { Value::Null } else { body::parse(&bytes, &call.headers)?.value };
        let mut dry_run = query.dry_run;
        for value in sent["dryRun"].as_array().into_iter().flatten() {
            dry_run |= parse_dry_run(value.as_str().unwrap_or_default(), "DeleteOptions.meta.k8s.io")?;
        }
        let precondition = |name: &str| sent["preconditions"][name].as_str().map(str::to_owned);
        Ok(Self { dry_run, uid: precondition("uid"), resource_version: precondition("resourceVersion") })
    }

    fn check(&self, object: &StoredObject) -> Result<(), ApiError> {
        let current = [
            ("UID", &self.uid, object.uid.to_string()),
            ("ResourceVersion", &self.resource_version, object.resource_version.to_string()),
        ];
        for (what, wanted, found) in current {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| **wanted != found) {
                let why =
                    format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
                return Err(ApiError::conflict(object.key.kind, &object.key.name, &why));
            }
        }
        Ok(())
    }
}

pub(super) async fn delete(call: &Call, target: &Target, name: &str, body: Body) -> Result<Answer, ApiError> {
    call.authorize("delete", target, name)?;
    let options = DeleteOptions::read(call, body).await?;
    if target.kind == Kind::Namespace && namespaces::ALWAYS.contains(&name) {
        return Err(ApiError::forbidden(target.kind, name, "this namespace may not be deleted"));
    }
    let mut attempt = 1;
    loop {
        let view = call.state.snapshot().view();
        let object = find(&view, target, name)?;
        options.check(&object)?;
        let mut edits = Vec::new();
        if target.kind == Kind::Namespace {
            edits = contents(&view, name)?;
        }
        edits.extend(edit(object.clone()));
        if edits.is_empty() {
            // It waits for its finalizers already.
            return Ok(Answer::ok(call.show(&object, target.version)));
        }
        let batch = Batch { edits, dry_run: options.dry_run, message: String::new(), refuse_dangling: false };
        match commit(call, batch).await {
            Err(error) if error.reason == "Conflict" && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
            Ok(outcome) => {
                if target.kind == Kind::Namespace && !options.dry_run {
                    sweep(call, name).await?;
                }
                let body = match outcome.objects.last() {
                    Some(object) if has_finalizers(object) => call.show(object, target.version),
                    _ => success(&object),
                };
                return Ok(Answer::ok(body).with_warnings(outcome.warnings));
            }
        }
    }
}

/// What deleting the object means now: its end, a mark while finalizers hold it, or nothing if it is marked already.
pub(crate) fn edit(object: Arc<StoredObject>) -> Option<Edit> {
    if !has_finalizers(&object) {
        return Some(Edit::unchecked(object, Op::Delete));
    }
    if object.metadata().is_some_and(|m| m.contains_key("deletionTimestamp")) {
        return None;
    }
    let mut marked = Value::clone(&object.object);
    marked["metadata"]["deletionTimestamp"] = json!(whole_seconds(Timestamp::now()));
    marked["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    Some(Edit::unchecked(object, Op::Put(marked)))
}

fn has_finalizers(object: &StoredObject) -> bool {
    object.metadata().and_then(|m| m.get("finalizers")).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

/// The deletion of everything in a namespace.
fn contents(view: &View, namespace: &str) -> Result<Vec<Edit>, ApiError> {
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.info().namespaced && *kind != Kind::Event);
    // What is generated goes with the workloads.
    let objects = kinds.flat_map(|kind| view.list(kind, Some(namespace))).filter(|object| !object.generated);
    let objects: Vec<_> = objects.cloned().collect();
    let held: Vec<String> = objects.iter().filter(|o| has_finalizers(o)).map(|o| o.key.to_string()).collect();
    if !held.is_empty() {
        let why = format!("finalizers hold some of its objects: {}; delete these first", held.join(", "));
        return Err(ApiError::conflict(Kind::Namespace, namespace, &why));
    }
    Ok(objects.into_iter().filter_map(edit).collect())
}

/// Deletes what was created in the namespace while it was being deleted.
async fn sweep(call: &Call, namespace: &str) -> Result<(), ApiError> {
    for _ in 0..ATTEMPTS {
        let edits = contents(&call.state.snapshot().view(), namespace)?;
        if edits.is_empty() {
            break;
        }
        commit(call, Batch { edits, message: String::new(), dry_run: false, refuse_dangling: false }).await?;
    }
    Ok(())
}

fn success(object: &StoredObject) -> Value {
    let info = object.key.kind.info();
    let mut details = Map::new();
    details.insert("name".to_owned(), json!(&*object.key.name));
    if !info.group.is_empty() {
        details.insert("group".to_owned(), json!(info.group));
    }
    details.insert("kind".to_owned(), json!(info.plural));
    details.insert("uid".to_owned(), json!(&*object.uid));
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
