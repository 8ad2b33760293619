//! Paths into a resource and what can be wrong at one.

use std::fmt;

use serde::Serialize;

/// Where in a document something is, written as Kubernetes does: `spec.http[0].match[1].uri`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct FieldPath(String);

impl FieldPath {
    pub fn new(root: &str) -> Self {
        Self(root.to_owned())
    }

    /// The path of a named field below this one.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The path of a list item below this one.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The path of a map entry below this one: `spec.labels[app]`.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a field was refused; the names are those of Kubernetes' `StatusCause.reason` without their `FieldValue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum FieldCause {
    Required,
    Invalid,
    NotSupported,
    TypeInvalid,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    /// A field the schema does not know. The API decides by `fieldValidation` whether that refuses the write.
    Unknown,
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FieldError {
    pub path: FieldPath,
    pub cause: FieldCause,
    /// A sentence that tells what is wrong and what would be right, without the path.
    pub message: String,
}

impl FieldError {
    pub fn new(path: FieldPath, cause: FieldCause, message: impl Into<String>) -> Self {
        Self { path, cause, message: message.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}
