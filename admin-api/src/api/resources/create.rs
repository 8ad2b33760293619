//! Creation by POST.

use axum::body::Body;
use jiff::Timestamp;
use route_model::meta::ResourceKey;
use serde_json::{Value, json};

use crate::api::admission::{self, Draft, Ownership, admit};
use crate::api::apply::{Manager, Operation};
use crate::api::body::Document;
use crate::api::call::{Answer, Call};
use crate::api::error::ApiError;
use crate::api::generate_name::generate_name;
use crate::api::path::Target;
use crate::api::query::WriteOptions;
use crate::api::status::whole_seconds;
use crate::api::writes::{Batch, Edit, commit};

/// How often a generated name that is taken is made anew.
const ATTEMPTS: usize = 8;

pub(super) async fn create(call: &Call, target: &Target, body: Body) -> Result<Answer, ApiError> {
    call.authorize("create", target, "")?;
    let options = call.write_options("CreateOptions")?;
    let document = call.document(body).await?;
    let mut attempt = 1;
    loop {
        let (edit, generated) = prepare(call, target, &document, &options)?;
        match commit(call, Batch::one(edit, options.dry_run)).await {
            Err(error) if generated && error.reason == "AlreadyExists" && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
            Ok(outcome) => {
                let shown = outcome.objects.first();
                let shown = shown.map_or(Value::Null, |o| call.show_written(o, target.version, options.dry_run));
                return Ok(Answer::created(shown).with_warnings(outcome.warnings));
            }
        }
    }
}

/// The write for a new object, and whether its name was made here.
pub(crate) fn prepare(
    call: &Call,
    target: &Target,
    document: &Document,
    options: &WriteOptions,
) -> Result<(Edit, bool), ApiError> {
    let mut object = document.value.clone();
    admission::identify(&mut object, target, None)?;
    if admission::resource_version(&object)?.is_some() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let metadata = &mut object["metadata"];
    let prefix = metadata["generateName"].as_str().unwrap_or_default();
    let generated = metadata["name"].as_str().unwrap_or_default().is_empty() && !prefix.is_empty();
    if generated {
        metadata["name"] = json!(generate_name(target.kind, prefix));
    }
    let now = whole_seconds(Timestamp::now());
    let manager = Manager {
        name: call.manager(options).to_owned(),
        operation: Operation::Update,
        api_version: target.api_version(),
        subresource: String::new(),
    };
    let draft = Draft {
        target,
        previous: None,
        object,
        duplicates: &document.duplicates,
        field_validation: options.field_validation,
        ownership: Ownership::Update(&manager),
        now: &now,
    };
    let admitted = admit(draft)?;
    let text = |field: &str| admitted.object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let key = ResourceKey::new(target.kind, text("namespace"), text("name"));
    Ok((Edit::create(key, admitted), generated))
}
