//! Paths into a resource and what can be wrong at one.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where in a document something is, written as Kubernetes does: `spec.http[0].match[1].uri`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// A place on the way down a document. It lives on the stack and becomes a [`FieldPath`] only where something is to
/// be said.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Place<'a> {
    /// The top; `name` may be empty.
    pub fn root(name: &'a str) -> Self {
        Self { parent: None, step: Step::Field(name) }
    }

    pub fn field(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Field(name) }
    }

    pub fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }

    pub fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }

    pub fn path(&self) -> FieldPath {
        let parent = self.parent.map(Place::path).unwrap_or_default();
        match self.step {
            Step::Field(name) => parent.field(name),
            Step::Index(index) => parent.index(index),
            Step::Key(key) => parent.key(key),
        }
    }
}

/// Why a field was refused; the names are those of Kubernetes' `StatusCause.reason` without their `FieldValue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FieldError {
    pub path: FieldPath,
    pub cause: FieldCause,
    /// What is wrong and what would be right, without the path, in the words of an apiserver:
    /// `Invalid value: "x": must be …`.
    pub message: String,
}

impl FieldError {
    pub fn new(path: FieldPath, cause: FieldCause, message: impl Into<String>) -> Self {
        Self { path, cause, message: message.into() }
    }

    /// `detail` may be empty.
    pub fn required(path: FieldPath, detail: &str) -> Self {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self::new(path, FieldCause::Required, message)
    }

    /// `value` is what the message shows of the value, as [`Shown`] writes it.
    pub fn invalid<'v>(path: FieldPath, value: impl Into<Shown<'v>>, detail: impl fmt::Display) -> Self {
        Self::new(path, FieldCause::Invalid, format!("Invalid value: {}: {detail}", value.into()))
    }

    pub fn not_supported<'v>(path: FieldPath, value: impl Into<Shown<'v>>, supported: &[impl AsRef<str>]) -> Self {
        let supported: Vec<String> = supported.iter().map(|known| format!("{:?}", known.as_ref())).collect();
        let message = format!("Unsupported value: {}: supported values: {}", value.into(), supported.join(", "));
        Self::new(path, FieldCause::NotSupported, message)
    }

    pub fn duplicate<'v>(path: FieldPath, value: impl Into<Shown<'v>>) -> Self {
        Self::new(path, FieldCause::Duplicate, format!("Duplicate value: {}", value.into()))
    }

    pub fn forbidden(path: FieldPath, detail: impl fmt::Display) -> Self {
        Self::new(path, FieldCause::Forbidden, format!("Forbidden: {detail}"))
    }

    /// `max` is of characters, or of bytes where the field is measured in bytes.
    pub fn too_long(path: FieldPath, max: u64) -> Self {
        Self::new(path, FieldCause::TooLong, format!("Too long: may not be longer than {max}"))
    }

    /// `max` is of items, or of entries of a map.
    pub fn too_many(path: FieldPath, count: usize, max: u64) -> Self {
        Self::new(path, FieldCause::TooMany, format!("Too many: {count}: must have at most {max} items"))
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// A value as error messages show it: text in quotes and cut when long, lists and maps by their type.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    Text(&'a str),
    Value(&'a Value),
    Number(i64),
}

impl<'a> From<&'a str> for Shown<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Shown<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a Value> for Shown<'a> {
    fn from(value: &'a Value) -> Self {
        Self::Value(value)
    }
}

impl From<u32> for Shown<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i32> for Shown<'_> {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX_CHARS: usize = 128;
        match self {
            Self::Text(text) => match text.char_indices().nth(MAX_CHARS) {
                Some((cut, _)) => write!(f, "{:?}", format!("{}…", &text[..cut])),
                None => write!(f, "{text:?}"),
            },
            Self::Value(Value::String(text)) => Self::Text(text).fmt(f),
            Self::Value(Value::Null) => f.write_str("\"null\""),
            Self::Value(Value::Array(_)) => f.write_str("\"array\""),
            Self::Value(Value::Object(_)) => f.write_str("\"object\""),
            Self::Value(value) => value.fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_becomes_the_path_that_kubernetes_writes() {
        let spec = Place::root("spec");
        let http = spec.field("http");
        let rule = http.index(3);
        let set = rule.field("set");
        assert_eq!(set.key("x-a").path().as_str(), "spec.http[3].set[x-a]");
        assert_eq!(Place::root("").field("spec").path().as_str(), "spec");
    }

    #[test]
    fn errors_read_as_an_apiserver_writes_them() {
        let path = || FieldPath::new("spec.x");
        assert_eq!(FieldError::required(path(), "").to_string(), "spec.x: Required value");
        assert_eq!(FieldError::invalid(path(), "a\"b", "no").to_string(), r#"spec.x: Invalid value: "a\"b": no"#);
        assert_eq!(FieldError::invalid(path(), &Value::Null, "no").to_string(), r#"spec.x: Invalid value: "null": no"#);
        assert_eq!(
            FieldError::not_supported(path(), "C", &["A", "B"]).to_string(),
            r#"spec.x: Unsupported value: "C": supported values: "A", "B""#
        );
        let long = "é".repeat(1000);
        assert!(FieldError::invalid(path(), &long, "no").message.len() < 400);
    }
}
