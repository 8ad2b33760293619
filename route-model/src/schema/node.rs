//! A schema in the form that validation walks: parsed once, without looking at JSON again.

use regex::Regex;
use serde_json::Value;

use super::cel;
use super::condition::Condition;
use crate::fields::{self, State};
use crate::kind::Kind;

/// The schema of one value.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) shape: Shape,
    pub(crate) nullable: bool,
    /// Unknown fields are kept and not reported.
    pub(crate) preserve_unknown: bool,
    pub(crate) limits: Limits,
    pub(crate) condition: Option<Condition>,
    pub(crate) rules: Box<[Rule]>,
    /// What Fairway does with this field and those below that have no state of their own.
    pub(crate) state: Option<State>,
    /// The same for single values of the field.
    pub(crate) value_states: Box<[(&'static str, State)]>,
}

#[derive(Debug)]
pub(crate) enum Shape {
    /// Free-form.
    Any,
    Object {
        /// Sorted by name.
        properties: Box<[(Box<str>, Node)]>,
        /// The values of a map.
        additional: Option<Box<Node>>,
        required: Box<[Box<str>]>,
    },
    Array {
        items: Box<Node>,
        unique: Unique,
    },
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

/// `x-kubernetes-list-type`.
#[derive(Debug)]
pub(crate) enum Unique {
    /// Atomic lists may repeat items.
    No,
    /// By the whole item.
    Item,
    /// By these fields of an item.
    Keys(Box<[Box<str>]>),
}

#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) enumeration: Box<[Box<str>]>,
    pub(crate) format: Format,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    /// Of characters, items or properties.
    pub(crate) min_size: Option<u64>,
    pub(crate) max_size: Option<u64>,
    pub(crate) pattern: Option<Regex>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    None,
    Int32,
    Int64,
    /// Base64.
    Byte,
    /// See [`is_duration`].
    Duration,
    DateTime,
}

/// An `x-kubernetes-validations` entry.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) check: cel::Check,
    pub(crate) message: Box<str>,
}

impl Node {
    /// The node of a whole object, with the states of the fields table in it.
    pub(crate) fn of_kind(kind: Kind, schema: &Value) -> Self {
        Self::parse(schema, "", fields::entries(kind))
    }

    pub(crate) fn property(&self, name: &str) -> Option<&Self> {
        let Shape::Object { properties, .. } = &self.shape else { return None };
        properties.binary_search_by(|(known, _)| (**known).cmp(name)).ok().map(|index| &properties[index].1)
    }

    fn parse(schema: &Value, path: &str, table: &'static [fields::Entry]) -> Self {
        let shape = Self::parse_shape(schema, path, table);
        let flag = |name: &str| schema[name].as_bool().unwrap_or_default();
        let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten().filter_map(|rule| {
            let check = cel::find(rule["rule"].as_str()?)?;
            Some(Rule { check, message: rule["message"].as_str().unwrap_or_default().into() })
        });
        Self {
            condition: matches!(shape, Shape::Object { .. }).then(|| Condition::parse(schema)).flatten(),
            limits: Limits::parse(schema),
            nullable: flag("nullable"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            rules: rules.collect(),
            state: table.iter().find(|entry| entry.covers_field(path)).map(|entry| entry.state),
            value_states: table.iter().filter_map(|entry| Some((entry.value_of(path)?, entry.state))).collect(),
            shape,
        }
    }

    fn parse_shape(schema: &Value, path: &str, table: &'static [fields::Entry]) -> Shape {
        if schema["x-kubernetes-int-or-string"] == true {
            return Shape::IntOrString;
        }
        match schema["type"].as_str() {
            Some("object") => {
                let mut properties: Vec<(Box<str>, Self)> = Vec::new();
                for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    let mut node = Self::parse(property, &path, table);
                    if matches!(node.shape, Shape::String) && node.rules.is_empty() && is_duration(name) {
                        node.limits.format = Format::Duration;
                    }
                    properties.push((name.as_str().into(), node));
                }
                properties.sort_by(|(a, _), (b, _)| a.cmp(b));
                let additional = Some(&schema["additionalProperties"]).filter(|additional| additional.is_object());
                Shape::Object {
                    properties: properties.into(),
                    additional: additional.map(|node| Box::new(Self::parse(node, &format!("{path}.*"), table))),
                    required: strings(&schema["required"]),
                }
            }
            Some("array") => Shape::Array {
                items: Box::new(Self::parse(&schema["items"], &format!("{path}[]"), table)),
                unique: match schema["x-kubernetes-list-type"].as_str() {
                    Some("map") => Unique::Keys(strings(&schema["x-kubernetes-list-map-keys"])),
                    Some("set") => Unique::Item,
                    _ => Unique::No,
                },
            },
            Some("string") => Shape::String,
            Some("integer") => Shape::Integer,
            Some("number") => Shape::Number,
            Some("boolean") => Shape::Boolean,
            _ => Shape::Any,
        }
    }
}

impl Limits {
    fn parse(schema: &Value) -> Self {
        let size = |names: [&str; 3]| names.into_iter().find_map(|name| schema[name].as_u64());
        Self {
            enumeration: strings(&schema["enum"]),
            format: match schema["format"].as_str() {
                Some("int32") => Format::Int32,
                Some("int64") => Format::Int64,
                Some("byte") => Format::Byte,
                Some("date-time") => Format::DateTime,
                _ => Format::None,
            },
            minimum: schema["minimum"].as_f64(),
            maximum: schema["maximum"].as_f64(),
            min_size: size(["minLength", "minItems", "minProperties"]),
            max_size: size(["maxLength", "maxItems", "maxProperties"]),
            pattern: schema["pattern"]
                .as_str()
                .map(|pattern| Regex::new(pattern).expect("embedded schemas are valid, a test reads them all")),
        }
    }
}

/// Fields that are durations although their schema only says that they are strings; 0 is allowed in them.
pub(crate) fn is_duration(name: &str) -> bool {
    matches!(
        name,
        "idleTimeout"
            | "ttl"
            | "budgetInterval"
            | "weightExpirationPeriod"
            | "weightStabilizationPeriod"
            | "weightUpdatePeriod"
    )
}

fn strings(list: &Value) -> Box<[Box<str>]> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}
