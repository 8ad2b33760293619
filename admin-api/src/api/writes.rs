//! The last step of every write: what the change means for others, and the commit.

use std::sync::Arc;

use jiff::Timestamp;
use route_model::kind::Kind;
use route_model::meta::{ResourceKey, Revision};
use route_model::resource::Resource;

use super::admission::Admitted;
use super::call::Call;
use super::compilation::Preview;
use super::error::ApiError;
use super::status::located;
use crate::store::{ChangeSet, Op, Precondition, StoreError, StoredObject, View, Write};

/// One write, ready for the store.
#[derive(Debug)]
pub(crate) struct Edit {
    pub(crate) key: ResourceKey,
    /// What the edit was made from.
    pub(crate) previous: Option<Arc<StoredObject>>,
    pub(crate) precondition: Precondition,
    pub(crate) op: Op,
    /// What its writer should know of it alone.
    pub(crate) warnings: Vec<String>,
}

impl Edit {
    /// Creates an object that must not be there yet.
    pub(crate) fn create(key: ResourceKey, admitted: Admitted) -> Self {
        let Admitted { object, warnings } = admitted;
        Self { key, previous: None, precondition: Precondition::Absent, op: Op::Put(object), warnings }
    }

    /// Replaces an object that must still be as it was read, or deletes it when its last finalizer has gone.
    pub(crate) fn replace(previous: Arc<StoredObject>, admitted: Admitted) -> Self {
        let Admitted { object, warnings } = admitted;
        let metadata = &object["metadata"];
        let done =
            metadata["deletionTimestamp"].is_string() && metadata["finalizers"].as_array().is_none_or(Vec::is_empty);
        Self {
            key: previous.key.clone(),
            precondition: Precondition::Version(previous.resource_version),
            op: if done { Op::Delete } else { Op::Put(object) },
            previous: Some(previous),
            warnings,
        }
    }

    /// Changes or deletes an object that must still be as it was read, in a way that needs no admission.
    pub(crate) fn unchecked(previous: Arc<StoredObject>, op: Op) -> Self {
        Self {
            key: previous.key.clone(),
            precondition: Precondition::Version(previous.resource_version),
            op,
            previous: Some(previous),
            warnings: Vec::new(),
        }
    }
}

/// Several edits that happen together or not at all.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) edits: Vec<Edit>,
    /// Why; may be empty.
    pub(crate) message: String,
    pub(crate) dry_run: bool,
    /// Refuse a change by which a reference that led somewhere leads nowhere.
    pub(crate) refuse_dangling: bool,
}

impl Batch {
    pub(crate) fn one(edit: Edit, dry_run: bool) -> Self {
        Self { edits: vec![edit], message: String::new(), dry_run, refuse_dangling: false }
    }
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) revision: Revision,
    /// One for each edit: the object after it, or as it was last.
    pub(crate) objects: Vec<Arc<StoredObject>>,
    /// One for each edit: false when it would have changed nothing and was left out.
    pub(crate) changed: Vec<bool>,
    /// What the change means for the resources it writes and for others. Each names its resource, unless there is but
    /// one write and it is about that.
    pub(crate) warnings: Vec<String>,
}

/// Checks a batch against everything else and commits it, or only says what would come of it (`dry_run`).
pub(crate) async fn commit(call: &Call, batch: Batch) -> Result<Outcome, ApiError> {
    let snapshot = call.state.snapshot();
    let view = snapshot.view();
    refuse_generated(&view, &batch.edits)?;
    let now = Timestamp::now();
    let previews: Vec<StoredObject> = batch.edits.iter().map(|edit| preview(edit, now)).collect();
    let keys: Vec<ResourceKey> = batch.edits.iter().map(|edit| edit.key.clone()).collect();
    let effect = effect(call, view.clone(), &batch.edits, &previews).await?;
    if batch.refuse_dangling {
        refuse_dangling(&view, &effect)?;
    }
    let named = |about: &ResourceKey, text: String| match &*keys {
        [only] if only == about => text,
        _ => format!("{about}: {text}"),
    };
    let own = batch.edits.iter().flat_map(|edit| edit.warnings.iter().map(|text| named(&edit.key, text.clone())));
    let raised = effect.raised(&keys).into_iter().map(|finding| named(&finding.resource, located(finding)));
    let warnings: Vec<String> = own.chain(raised).collect();
    let require = required_namespaces(&batch.edits);
    if batch.dry_run {
        check_dry(&view, &batch.edits, &require)?;
        let changed = batch
            .edits
            .iter()
            .zip(&previews)
            .map(|(edit, preview)| edit.previous.as_ref().is_none_or(|previous| previous.object != preview.object));
        let changed = changed.collect();
        let objects = previews.into_iter().map(Arc::new).collect();
        return Ok(Outcome { revision: view.revision(), objects, changed, warnings });
    }
    let previous: Vec<Option<Arc<StoredObject>>> = batch.edits.iter().map(|e| e.previous.clone()).collect();
    let writes =
        batch.edits.into_iter().map(|Edit { key, precondition, op, .. }| Write { key, precondition, op }).collect();
    let changes = ChangeSet {
        author: call.identity.name.to_string(),
        via: call.user_agent().to_owned(),
        message: batch.message,
        writes,
        require,
    };
    let committed = snapshot.commit(changes).await.map_err(store_error)?;
    let changed = committed.written.iter().map(|written| written.changed).collect();
    let objects = committed.written.into_iter().zip(previous).filter_map(|(written, previous)| {
        // A deletion of what was gone already shows what was there when it was read.
        written.object.or(previous)
    });
    Ok(Outcome { revision: committed.revision, objects: objects.collect(), changed, warnings })
}

/// What nobody wrote cannot be written, nor written over.
fn refuse_generated(view: &View, edits: &[Edit]) -> Result<(), ApiError> {
    let Some(edit) = edits.iter().find(|edit| view.is_generated(&edit.key)) else { return Ok(()) };
    let instead = if edit.key.kind == Kind::ServiceEntry {
        "write a ServiceEntry for its host under another name, and this one goes"
    } else {
        "change its WorkloadGroup, or what its sidecar is started with"
    };
    let why = format!("it is generated from the workloads that sidecars registered and goes with them; {instead}");
    Err(ApiError::forbidden(edit.key.kind, &edit.key.name, &why))
}

fn preview(edit: &Edit, now: Timestamp) -> StoredObject {
    let previous = edit.previous.as_deref();
    match (&edit.op, previous) {
        (Op::Delete, Some(previous)) => previous.clone(),
        (Op::Delete, None) => StoredObject::preview(&edit.key, None, serde_json::json!({}), now),
        (Op::Put(object), previous) => StoredObject::preview(&edit.key, previous, object.clone(), now),
    }
}

/// What the edits mean, compiled off the async threads.
async fn effect(call: &Call, view: Arc<View>, edits: &[Edit], previews: &[StoredObject]) -> Result<Preview, ApiError> {
    let mut typed = Vec::with_capacity(edits.len());
    for (edit, preview) in edits.iter().zip(previews).filter(|(edit, _)| edit.key.kind != Kind::Event) {
        let resource = match edit.op {
            Op::Delete => None,
            Op::Put(_) => Some(Arc::new(
                Resource::from_object(edit.key.kind, &preview.object)
                    .map_err(|errors| ApiError::invalid(edit.key.kind, &edit.key.name, &errors))?,
            )),
        };
        typed.push((edit.key.clone(), resource));
    }
    let compilation = call.state.compilation().clone();
    tokio::task::spawn_blocking(move || compilation.preview(&view, &typed))
        .await
        .map_err(|error| ApiError::internal(&format!("compiling a change failed: {error}")))
}

fn refuse_dangling(view: &View, effect: &Preview) -> Result<(), ApiError> {
    let dangling: Vec<String> = effect
        .dangling()
        .into_iter()
        .filter(|finding| view.get(&finding.resource).is_some())
        .map(|finding| format!("{}: {}", finding.resource, located(finding)))
        .collect();
    if dangling.is_empty() {
        return Ok(());
    }
    Err(ApiError::unprocessable(format!(
        "the change would break routes that serve now: {}; set allowDangling to make it all the same",
        dangling.join("; ")
    )))
}

/// Objects can only be created in namespaces that exist, unless the same batch creates them.
fn required_namespaces(edits: &[Edit]) -> Vec<ResourceKey> {
    let mut required: Vec<ResourceKey> = edits
        .iter()
        .filter(|edit| matches!(edit.op, Op::Put(_)) && edit.previous.is_none() && !edit.key.namespace.is_empty())
        .map(|edit| ResourceKey::new(Kind::Namespace, "", edit.key.namespace.clone()))
        .filter(|key| !edits.iter().any(|edit| edit.key == *key && matches!(edit.op, Op::Put(_))))
        .collect();
    required.sort();
    required.dedup();
    required
}

/// What the store would check.
fn check_dry(view: &View, edits: &[Edit], require: &[ResourceKey]) -> Result<(), ApiError> {
    if let Some(missing) = require.iter().find(|key| view.get(key).is_none()) {
        return Err(ApiError::not_found(missing.kind, &missing.name));
    }
    for edit in edits {
        let (kind, name) = (edit.key.kind, &edit.key.name);
        match (edit.precondition, view.get(&edit.key)) {
            (Precondition::Absent, Some(_)) => return Err(ApiError::already_exists(kind, name)),
            (Precondition::Exists | Precondition::Version(_), None) => return Err(ApiError::not_found(kind, name)),
            (Precondition::Version(version), Some(now)) if now.resource_version != version => {
                return Err(ApiError::stale(kind, name));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn store_error(error: StoreError) -> ApiError {
    match &error {
        StoreError::Conflict { key, .. } => ApiError::stale(key.kind, &key.name),
        StoreError::AlreadyExists { key } => ApiError::already_exists(key.kind, &key.name),
        StoreError::NotFound { key } => ApiError::not_found(key.kind, &key.name),
        StoreError::Invalid { key, reason } => {
            ApiError::unprocessable(format!("{} {:?} cannot be stored: {reason}", key.kind.name(), key.name))
        }
        StoreError::Expired { .. } => ApiError::expired(error.to_string()),
        StoreError::Unavailable { .. } => ApiError::unavailable(format!(
            "{error}; reads are answered from memory and traffic goes on, writes have to wait"
        )),
        StoreError::Full { .. } => ApiError::unavailable(error.to_string()),
        _ => ApiError::internal(&error),
    }
}
