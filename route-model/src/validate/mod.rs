//! Whether a document may be stored, and what its writer should know about it.
//!
//! Three passes: the object's metadata, its structure as the schema has it, and, where the structure holds, the rules
//! that Istio's documentation and validation give for the kind. What depends on other resources is not looked at
//! here; that is what the findings of a compilation are for.

mod metadata;
mod structural;

use serde_json::Value;

use crate::field::{FieldCause, FieldError, FieldPath};
use crate::kind::Kind;
use crate::resource::Resource;

/// Errors beyond this many are not collected.
const MAX_ERRORS: usize = 100;
/// Warnings and unknown fields beyond this many are not collected.
const MAX_WARNINGS: usize = 100;

/// What validation found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Any of these refuses the document.
    pub errors: Vec<FieldError>,
    /// Fields that the schema does not know. The caller decides whether they refuse the document.
    pub unknown: Vec<FieldError>,
    /// Accepted, but the writer should know: deprecated, ignored and not yet working fields.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Acceptable, unknown fields aside.
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Collects what validation finds.
#[derive(Debug, Default)]
pub(crate) struct Report {
    verdict: Verdict,
}

impl Report {
    pub(crate) fn error(&mut self, error: FieldError) {
        if self.verdict.errors.len() < MAX_ERRORS {
            self.verdict.errors.push(error);
        }
    }

    pub(crate) fn unknown(&mut self, path: FieldPath) {
        if self.verdict.unknown.len() < MAX_WARNINGS {
            self.verdict.unknown.push(FieldError::new(path, FieldCause::Unknown, "unknown field"));
        }
    }

    pub(crate) fn warn(&mut self, path: &FieldPath, message: &str) {
        if self.verdict.warnings.len() < MAX_WARNINGS {
            self.verdict.warnings.push(format!("{path}: {message}"));
        }
    }

    fn is_full(&self) -> bool {
        self.verdict.errors.len() >= MAX_ERRORS
    }
}

/// Validates an object of the API. `version` is the one that the document is written in.
pub fn validate(kind: Kind, version: &str, object: &Value) -> Verdict {
    let mut report = Report::default();
    identity(kind, version, object, &mut report);
    structural::check(kind, object, &mut report);
    if report.verdict.errors.is_empty() {
        metadata::check(kind, object, &mut report);
        match Resource::from_object(kind, object) {
            Ok(_resource) => {}
            Err(errors) => errors.into_iter().for_each(|error| report.error(error)),
        }
    }
    report.verdict
}

/// `apiVersion` and `kind`, which may be left out, say what the caller took the object for.
fn identity(kind: Kind, version: &str, object: &Value, report: &mut Report) {
    let info = kind.info();
    let api_version = info.api_version(version);
    if info.served_version(version).is_none() {
        let served: Vec<String> = info.versions.iter().map(|version| info.api_version(version)).collect();
        report.error(FieldError::not_supported(FieldPath::new("apiVersion"), &api_version, &served));
    }
    for (field, expected) in [("apiVersion", api_version.as_str()), ("kind", info.name)] {
        if let Some(written) = object[field].as_str().filter(|written| *written != expected) {
            let detail = format!("must be {expected}");
            report.error(FieldError::invalid(FieldPath::new(field), written, detail));
        }
    }
}
