//! From what a client sent to what is stored: identity, server-owned fields, defaults, validation, field ownership.

use route_model::field::{FieldError, FieldPath};
use route_model::kind::Kind;
use route_model::validate::validate;
use serde_json::{Map, Value};

use super::apply::{ManagedFields, Manager};
use super::error::ApiError;
use super::path::Target;
use super::query::FieldValidation;
use super::{namespaces, secrets};
use crate::store::StoredObject;

/// An object on its way into the store.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) target: &'a Target,
    pub(crate) previous: Option<&'a StoredObject>,
    /// Identified by [`identify`].
    pub(crate) object: Value,
    /// Fields that the client's text had twice.
    pub(crate) duplicates: &'a [String],
    pub(crate) field_validation: FieldValidation,
    pub(crate) ownership: Ownership<'a>,
    /// RFC 3339.
    pub(crate) now: &'a str,
}

/// How `managedFields` come about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ownership<'a> {
    /// What differs from before goes to this manager.
    Update(&'a Manager),
    /// Server-side apply has written them.
    Applied,
}

/// An object that may be stored.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// In the preferred version, without status.
    pub(crate) object: Value,
    /// Texts for `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

/// Checks that a body is the object that the URL names, and fills in what it leaves to the URL. `name` is that of the
/// URL, if it has one.
pub(crate) fn identify(object: &mut Value, target: &Target, name: Option<&str>) -> Result<(), ApiError> {
    let Some(fields) = object.as_object_mut() else {
        return Err(ApiError::bad_request("the body must be an object"));
    };
    let info = target.kind.info();
    for (field, expected, what) in
        [("apiVersion", target.api_version(), "API version"), ("kind", info.name.to_owned(), "kind")]
    {
        match text(fields.get(field), field)? {
            "" => drop(fields.insert(field.to_owned(), Value::String(expected))),
            sent if sent == expected => {}
            sent => {
                return Err(ApiError::bad_request(format!(
                    "the {what} in the data ({sent}) does not match the expected {what} ({expected})"
                )));
            }
        }
    }
    let metadata = fields.entry("metadata").or_insert(Value::Null);
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    let Some(metadata) = metadata.as_object_mut() else {
        return Err(ApiError::bad_request("metadata must be an object"));
    };
    match (text(metadata.get("namespace"), "metadata.namespace")?, &target.namespace) {
        ("", Some(namespace)) => drop(metadata.insert("namespace".to_owned(), Value::String(namespace.clone()))),
        ("", None) if info.namespaced => {
            return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
        }
        ("", None) => drop(metadata.shift_remove("namespace")),
        (sent, namespace) if namespace.as_deref() == Some(sent) => {}
        _ => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    if let Some(name) = name {
        match text(metadata.get("name"), "metadata.name")? {
            "" => drop(metadata.insert("name".to_owned(), Value::String(name.to_owned()))),
            sent if sent == name => {}
            sent => {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({sent}) does not match the name on the URL ({name})"
                )));
            }
        }
    }
    Ok(())
}

fn text<'a>(value: Option<&'a Value>, field: &str) -> Result<&'a str, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(ApiError::bad_request(format!("{field} must be a string"))),
    }
}

/// The resourceVersion that a body demands, if any.
pub(crate) fn resource_version(object: &Value) -> Result<Option<u64>, ApiError> {
    match text(object.pointer("/metadata/resourceVersion"), "metadata.resourceVersion")? {
        "" | "0" => Ok(None),
        version => version.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!("metadata.resourceVersion {version:?} is not a number of this server"))
        }),
    }
}

pub(crate) fn admit(draft: Draft<'_>) -> Result<Admitted, ApiError> {
    let Draft { target, previous, mut object, duplicates, field_validation, ownership, now } = draft;
    let kind = target.kind;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    keep_server_fields(&mut object, previous, &name, kind)?;
    let mut errors = match kind {
        Kind::Secret => secrets::normalise(&mut object, previous.map(|p| &*p.object)),
        Kind::Namespace => {
            namespaces::normalise(&mut object, &name);
            Vec::new()
        }
        _ => Vec::new(),
    };
    let verdict = validate(kind, target.version, &object);
    let mut warnings = refuse_or_prune(target, &mut object, duplicates, &verdict.unknown, field_validation)?;
    errors.extend(verdict.errors);
    if !errors.is_empty() {
        let mut seen = std::collections::BTreeSet::new();
        errors.retain(|error| seen.insert((error.path.clone(), error.cause)));
        return Err(ApiError::invalid(kind, &name, &errors));
    }
    warnings.extend(verdict.warnings);
    if let Ownership::Update(manager) = ownership {
        record(&mut object, previous, manager, target, now).map_err(|why| {
            let path = FieldPath::new("metadata.managedFields");
            let error = FieldError::new(path, route_model::field::FieldCause::Invalid, why);
            ApiError::invalid(kind, &name, &[error])
        })?;
    }
    let info = kind.info();
    object["apiVersion"] = Value::String(info.api_version(info.preferred_version()));
    Ok(Admitted { object, warnings })
}

/// Metadata that clients cannot write, and status, which is derived.
fn keep_server_fields(
    object: &mut Value,
    previous: Option<&StoredObject>,
    name: &str,
    kind: Kind,
) -> Result<(), ApiError> {
    const OURS: [&str; 7] = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "selfLink",
    ];
    if let Some(fields) = object.as_object_mut() {
        fields.shift_remove("status");
    }
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return Ok(()) };
    if let (Some(previous), Some(sent)) = (previous, metadata.get("uid").and_then(Value::as_str))
        && !sent.is_empty()
        && *sent != *previous.uid
    {
        let why = format!("Precondition failed: UID in precondition: {sent}, UID in object meta: {}", previous.uid);
        return Err(ApiError::conflict(kind, name, &why));
    }
    for field in OURS {
        match previous.and_then(StoredObject::metadata).and_then(|m| m.get(field)) {
            Some(value) => drop(metadata.insert(field.to_owned(), value.clone())),
            None => drop(metadata.shift_remove(field)),
        }
    }
    drop_empty_metadata(object);
    Ok(())
}

/// What clients send as null or empty means absent, and must not make a difference to what is stored.
pub(crate) fn drop_empty_metadata(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    for field in ["labels", "annotations", "finalizers", "ownerReferences", "generateName"] {
        let empty = metadata.get(field).is_some_and(|value| match value {
            Value::Null => true,
            Value::Object(fields) => fields.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        });
        if empty {
            metadata.shift_remove(field);
        }
    }
}

/// Deals with fields that the schema does not know or that came twice. What is unknown is not stored.
pub(crate) fn refuse_or_prune(
    target: &Target,
    object: &mut Value,
    duplicates: &[String],
    unknown: &[FieldError],
    validation: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let faults = duplicates.iter().map(|path| format!("duplicate field {path:?}"));
    let faults = faults.chain(unknown.iter().map(|error| format!("unknown field {:?}", error.path.as_str())));
    let faults: Vec<String> = faults.collect();
    if !faults.is_empty() && validation == FieldValidation::Strict {
        return Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {faults}",
            kind = target.kind.name(),
            version = target.version,
            faults = faults.join(", "),
        )));
    }
    // Backwards, so that positions in lists stay right.
    unknown.iter().rev().for_each(|error| remove(object, error.path.as_str()));
    Ok(if validation == FieldValidation::Ignore { Vec::new() } else { faults })
}

/// Removes the field at a path as [`FieldPath`] writes it.
pub(crate) fn remove(object: &mut Value, path: &str) {
    let (head, rest) = split_step(path);
    if rest.is_empty() {
        if let Some(fields) = object.as_object_mut() {
            // A name with dots in it is not split further when it is there as it stands.
            fields.shift_remove(head);
        }
        return;
    }
    if let Some(fields) = object.as_object_mut()
        && fields.shift_remove(path).is_some()
    {
        return;
    }
    let below = match object {
        Value::Object(fields) => fields.get_mut(head),
        Value::Array(items) => head.parse().ok().and_then(|index: usize| items.get_mut(index)),
        _ => None,
    };
    if let Some(below) = below {
        remove(below, rest);
    }
}

/// The first step of `a.b[0].c[key]` without its punctuation, and what follows.
fn split_step(path: &str) -> (&str, &str) {
    if let Some((inside, rest)) = path.strip_prefix('[').and_then(|p| p.split_once(']')) {
        return (inside, rest.strip_prefix('.').unwrap_or(rest));
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (head, rest) = path.split_at(end);
    (head, rest.strip_prefix('.').unwrap_or(rest))
}

/// Writes `managedFields`. A client may replace or clear them; if it sends none, those of before go on.
fn record(
    object: &mut Value,
    previous: Option<&StoredObject>,
    manager: &Manager,
    target: &Target,
    now: &str,
) -> Result<(), String> {
    let sent = object.pointer("/metadata/managedFields").cloned();
    let cleared = sent
        .as_ref()
        .and_then(Value::as_array)
        .is_some_and(|list| list.iter().all(|entry| entry.as_object().is_some_and(Map::is_empty)));
    if cleared {
        ManagedFields::default().store(object);
        return Ok(());
    }
    let before = previous.map_or(Value::Null, |p| Value::clone(&p.object));
    let mut managed = match sent {
        Some(Value::Null) | None => ManagedFields::of(&before)?,
        Some(_) => ManagedFields::of(object)?,
    };
    managed.record_update(manager, &before, object, target.kind.schema(target.version), now);
    managed.store(object);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn target() -> Target {
        Target { kind: Kind::VirtualService, version: "v1", namespace: Some("shop".into()) }
    }

    #[test]
    fn a_body_is_completed_from_the_url_or_refused() {
        let mut object = json!({"spec": {}});
        identify(&mut object, &target(), Some("a")).unwrap();
        assert_eq!(
            object,
            json!({
                "spec": {}, "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                "metadata": {"namespace": "shop", "name": "a"},
            })
        );
        for wrong in [
            json!([]),
            json!({"kind": "Gateway"}),
            json!({"apiVersion": "networking.istio.io/v1beta1"}),
            json!({"metadata": {"namespace": "other"}}),
            json!({"metadata": {"name": "b"}}),
            json!({"metadata": []}),
            json!({"metadata": {"name": 1}}),
        ] {
            assert_eq!(identify(&mut wrong.clone(), &target(), Some("a")).unwrap_err().code, 400, "{wrong}");
        }
    }

    #[test]
    fn unknown_fields_are_cut_out_by_their_path() {
        for (path, left) in [
            ("spec.hostz", json!({"spec": {"http": [{"matchh": 1, "x.y": 2}]}})),
            ("spec.http[0].matchh", json!({"spec": {"hostz": 1, "http": [{"x.y": 2}]}})),
            ("spec.http[0].x.y", json!({"spec": {"hostz": 1, "http": [{"matchh": 1}]}})),
            ("spec.nothing[3].there", json!({"spec": {"hostz": 1, "http": [{"matchh": 1, "x.y": 2}]}})),
        ] {
            let mut object = json!({"spec": {"hostz": 1, "http": [{"matchh": 1, "x.y": 2}]}});
            remove(&mut object, path);
            assert_eq!(object, left, "{path}");
        }
    }

    #[test]
    fn server_fields_cannot_be_written() {
        let mut object = json!({"metadata": {"name": "a", "uid": "mine", "labels": {}, "generation": 9}, "status": 1});
        keep_server_fields(&mut object, None, "a", Kind::Gateway).unwrap();
        assert_eq!(object, json!({"metadata": {"name": "a"}}));
    }
}
