//! The rules for `metadata`, which all kinds share.

use serde_json::{Map, Value};

use super::Report;
use crate::field::{FieldError, FieldPath};
use crate::kind::Kind;
use crate::names;

/// Of all annotations together, keys included.
const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

pub(super) fn check(kind: Kind, object: &Value, report: &mut Report) {
    let root = FieldPath::new("metadata");
    let empty = Map::new();
    let metadata = object["metadata"].as_object().unwrap_or(&empty);
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default();
    name(kind, text("name"), text("generateName"), &root, report);
    let namespace = text("namespace");
    if !namespace.is_empty() {
        if !kind.info().namespaced {
            report.error(FieldError::forbidden(root.field("namespace"), format!("a {} has no namespace", kind.name())));
        } else if !names::is_dns_label(namespace) {
            report.error(FieldError::invalid(root.field("namespace"), namespace, names::DNS_LABEL));
        }
    }
    for (key, value) in metadata.get("labels").and_then(Value::as_object).unwrap_or(&empty) {
        let path = root.field("labels").key(key);
        let value = value.as_str().unwrap_or_default();
        if !names::is_qualified(key) {
            report.error(FieldError::invalid(path, key, names::QUALIFIED));
        } else if !names::is_label_value(value) {
            report.error(FieldError::invalid(path, value, names::LABEL_VALUE));
        }
    }
    let mut bytes = 0;
    for (key, value) in metadata.get("annotations").and_then(Value::as_object).unwrap_or(&empty) {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        if !names::is_qualified(&key.to_ascii_lowercase()) {
            report.error(FieldError::invalid(root.field("annotations").key(key), key, names::QUALIFIED));
        }
    }
    if bytes > MAX_ANNOTATIONS_BYTES {
        report.error(FieldError::too_long(root.field("annotations"), MAX_ANNOTATIONS_BYTES as u64));
    }
}

fn name(kind: Kind, name: &str, prefix: &str, root: &FieldPath, report: &mut Report) {
    if name.is_empty() {
        // The server completes a prefix; what it adds is a valid end.
        if prefix.is_empty() {
            report.error(FieldError::required(root.field("name"), "name or generateName is required"));
        } else if !names::is_dns_subdomain(&format!("{prefix}x")) {
            report.error(FieldError::invalid(root.field("generateName"), prefix, names::DNS_SUBDOMAIN));
        }
        return;
    }
    match kind {
        // A Gateway's name becomes a part of names that must be labels.
        Kind::Namespace | Kind::Gateway if !names::is_dns_label(name) => {
            report.error(FieldError::invalid(root.field("name"), name, names::DNS_LABEL));
        }
        Kind::MeshConfig if name != "default" => {
            report.error(FieldError::invalid(root.field("name"), name, "there is one MeshConfig, named default"));
        }
        _ if !names::is_dns_subdomain(name) => {
            report.error(FieldError::invalid(root.field("name"), name, names::DNS_SUBDOMAIN));
        }
        _ => {}
    }
}
