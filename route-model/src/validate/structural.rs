//! A document held against its schema, as an apiserver does it for custom resources.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::Report;
use crate::field::{FieldCause, FieldError, Place};
use crate::fields::State;
use crate::kind::Kind;
use crate::kinds::TextDuration;
use crate::schema::node::{Format, Limits, Node, Shape, Unique};

/// Deeper nesting than this is refused. The schemas themselves are far flatter; it bounds free-form fields.
const MAX_DEPTH: usize = 64;
/// A document of more values than this is refused.
const MAX_VALUES: usize = 500_000;

/// Reports what of `object` does not fit its kind's schema, and the fields that Fairway does not act on.
pub(super) fn check(kind: Kind, object: &Value, report: &mut Report) {
    let mut walk = Walk { kind, report, values: 0, quiet: false };
    walk.value(kind.node(), object, &Place::root(""), 0);
}

struct Walk<'r> {
    kind: Kind,
    report: &'r mut Report,
    values: usize,
    /// Inside a field that has been warned about as a whole.
    quiet: bool,
}

impl Walk<'_> {
    fn value(&mut self, node: &Node, value: &Value, place: &Place<'_>, depth: usize) {
        if !self.enter(place, depth) {
            return;
        }
        if value.is_null() {
            // Reached for list items and map values only; the null of a field counts as absent.
            if !node.nullable && !matches!(node.shape, Shape::Any) {
                self.wrong_type(node, value, place);
            }
            return;
        }
        let was_quiet = self.quiet;
        self.states(node, value, place);
        let fits = match (&node.shape, value) {
            (Shape::Any, _) => {
                self.free_form(value, place, depth);
                true
            }
            (Shape::Object { .. }, Value::Object(fields)) => {
                self.object(node, fields, place, depth);
                true
            }
            (Shape::Array { items, unique }, Value::Array(list)) => {
                self.array(node, items, unique, list, place, depth);
                true
            }
            (Shape::String, Value::String(text)) => {
                self.string(&node.limits, text, place);
                true
            }
            (Shape::Integer, Value::Number(number)) if number.is_i64() || number.is_u64() => {
                self.number(&node.limits, value, place);
                true
            }
            (Shape::Number, Value::Number(_)) => {
                self.number(&node.limits, value, place);
                true
            }
            (Shape::Boolean, Value::Bool(_)) | (Shape::IntOrString, Value::Number(_) | Value::String(_)) => true,
            _ => false,
        };
        if fits {
            self.rules(node, value, place);
        } else {
            self.wrong_type(node, value, place);
        }
        self.quiet = was_quiet;
    }

    fn object(&mut self, node: &Node, fields: &Map<String, Value>, place: &Place<'_>, depth: usize) {
        let Shape::Object { properties, additional, required } = &node.shape else { return };
        for name in required {
            if fields.get(&**name).is_none_or(Value::is_null) {
                self.report.error(FieldError::required(place.field(name).path(), ""));
            }
        }
        for (name, value) in fields {
            if let Some(property) = node.property(name) {
                if !value.is_null() || property.nullable {
                    self.value(property, value, &place.field(name), depth + 1);
                }
            } else if let Some(additional) = additional {
                self.value(additional, value, &place.key(name), depth + 1);
            } else if node.preserve_unknown {
                self.free_form(value, &place.field(name), depth + 1);
            } else {
                self.report.unknown(place.field(name).path());
            }
        }
        // A map's size is bounded, a message's is not.
        if properties.is_empty() {
            self.size(&node.limits, fields.len(), "properties", place);
        }
        if let Some(condition) = node.condition.as_ref().filter(|condition| !condition.holds(fields)) {
            let detail = condition.describe(fields);
            self.report.error(FieldError::invalid(place.path(), "object", detail));
        }
    }

    fn array(&mut self, node: &Node, items: &Node, unique: &Unique, list: &[Value], place: &Place<'_>, depth: usize) {
        self.size(&node.limits, list.len(), "items", place);
        for (index, item) in list.iter().enumerate() {
            self.value(items, item, &place.index(index), depth + 1);
        }
        let keys: &[Box<str>] = match unique {
            Unique::No => return,
            Unique::Item => &[],
            Unique::Keys(keys) => keys,
        };
        let mut seen = HashSet::new();
        for (index, item) in list.iter().enumerate() {
            let key = if keys.is_empty() {
                item.to_string()
            } else {
                let parts: Map<String, Value> =
                    keys.iter().map(|key| (key.to_string(), item[&**key].clone())).collect();
                Value::Object(parts).to_string()
            };
            if seen.contains(&key) {
                let error = FieldError::new(
                    place.index(index).path(),
                    FieldCause::Duplicate,
                    format!("Duplicate value: {key}"),
                );
                self.report.error(error);
            }
            seen.insert(key);
        }
    }

    fn string(&mut self, limits: &Limits, text: &str, place: &Place<'_>) {
        if !limits.enumeration.is_empty() && !limits.enumeration.iter().any(|known| **known == *text) {
            self.report.error(FieldError::not_supported(place.path(), text, &limits.enumeration));
        }
        if limits.min_size.is_some() || limits.max_size.is_some() {
            let length = text.chars().count() as u64;
            if let Some(max) = limits.max_size.filter(|max| length > *max) {
                self.report.error(FieldError::too_long(place.path(), max));
            }
            if let Some(min) = limits.min_size.filter(|min| length < *min) {
                self.in_body(place, text, &format!("should be at least {min} chars long"));
            }
        }
        if let Some(pattern) = limits.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.in_body(place, text, &format!("should match '{}'", pattern.as_str()));
        }
        match limits.format {
            Format::Byte if STANDARD.decode(text.replace(['\r', '\n'], "")).is_err() => {
                self.in_body(place, text, "must be base64 in the standard alphabet, padded");
            }
            Format::DateTime if !is_date_time(text) => {
                self.in_body(place, text, "must be a time such as 2026-01-31T12:00:00Z");
            }
            Format::Duration => {
                if let Err(error) = TextDuration::parse(text) {
                    self.report.invalid(place, text, error);
                }
            }
            _ => {}
        }
    }

    fn number(&mut self, limits: &Limits, value: &Value, place: &Place<'_>) {
        let number = value.as_f64().unwrap_or_default();
        if let Some(min) = limits.minimum.filter(|min| number < *min) {
            self.in_body(place, value, &format!("should be greater than or equal to {min}"));
        }
        if let Some(max) = limits.maximum.filter(|max| number > *max) {
            self.in_body(place, value, &format!("should be less than or equal to {max}"));
        }
        let fits = match limits.format {
            Format::Int32 => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            Format::Int64 => value.is_i64(),
            _ => true,
        };
        if !fits {
            let bits = if limits.format == Format::Int32 { 32 } else { 64 };
            self.in_body(place, value, &format!("must be an integer of {bits} bits"));
        }
    }

    fn size(&mut self, limits: &Limits, size: usize, what: &str, place: &Place<'_>) {
        if let Some(max) = limits.max_size.filter(|max| size as u64 > *max) {
            self.report.error(FieldError::too_many(place.path(), size, max));
        }
        if let Some(min) = limits.min_size.filter(|min| (size as u64) < *min) {
            let path = place.path();
            let detail = format!("{path} in body should have at least {min} {what}");
            self.report.error(FieldError::invalid(path, size as u32, detail));
        }
    }

    /// Bounds a value that has no schema.
    fn free_form(&mut self, value: &Value, place: &Place<'_>, depth: usize) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let place = place.field(name);
                    if self.enter(&place, depth + 1) {
                        self.free_form(value, &place, depth + 1);
                    }
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    let place = place.index(index);
                    if self.enter(&place, depth + 1) {
                        self.free_form(value, &place, depth + 1);
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether there is room to look at one more value.
    fn enter(&mut self, place: &Place<'_>, depth: usize) -> bool {
        self.values += 1;
        if depth > MAX_DEPTH {
            let detail = format!("must not be nested deeper than {MAX_DEPTH} levels");
            self.report.error(FieldError::invalid(place.path(), "object", detail));
            return false;
        }
        if self.values == MAX_VALUES + 1 {
            let message = format!("Too many: a document may hold at most {MAX_VALUES} values");
            self.report.error(FieldError::new(place.path(), FieldCause::TooMany, message));
        }
        self.values <= MAX_VALUES && !self.report.is_full()
    }

    fn rules(&mut self, node: &Node, value: &Value, place: &Place<'_>) {
        for rule in &node.rules {
            let broken = match (rule.check)(value) {
                Ok(true) => continue,
                Ok(false) => rule.message.to_string(),
                Err(error) => format!("{error} evaluating rule: {}", rule.message),
            };
            self.report.error(FieldError::invalid(place.path(), type_name(&node.shape), broken));
        }
    }

    /// Warns when nothing acts on a field that is written, once for all that lies below it.
    fn states(&mut self, node: &Node, value: &Value, place: &Place<'_>) {
        if self.quiet {
            return;
        }
        if let Some(state) = node.state {
            self.state(state, "", place);
        }
        if let Some(text) = value.as_str() {
            for (known, state) in &node.value_states {
                if known.eq_ignore_ascii_case(text) {
                    self.state(*state, known, place);
                }
            }
        }
    }

    fn state(&mut self, state: State, value: &str, place: &Place<'_>) {
        let path = place.path();
        let what = match (value, path.as_str()) {
            ("", "spec") => format!(" {} resources", self.kind.name()),
            ("", _) => " it".to_owned(),
            (value, _) => format!(" {value}"),
        };
        let message = match state {
            State::Since(_) | State::Sidecars(..) => return,
            State::NotYet => format!("accepted and stored; Fairway does not act on{what} yet"),
            State::Never(reason) => format!("accepted and stored; Fairway does not act on{what}: {reason}"),
        };
        self.report.warn(place, message);
        self.quiet = true;
    }

    fn wrong_type(&mut self, node: &Node, value: &Value, place: &Place<'_>) {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let path = place.path();
        let detail = format!("{path} in body must be of type {}: {found:?}", type_name(&node.shape));
        let message = format!("Invalid value: {found:?}: {detail}");
        self.report.error(FieldError::new(path, FieldCause::TypeInvalid, message));
    }

    /// The form of errors that an apiserver's schema validation has.
    fn in_body<'v>(&mut self, place: &Place<'_>, value: impl Into<crate::field::Shown<'v>>, problem: &str) {
        let path = place.path();
        let detail = format!("{path} in body {problem}");
        self.report.error(FieldError::invalid(path, value, detail));
    }
}

fn type_name(shape: &Shape) -> &'static str {
    match shape {
        Shape::Any | Shape::Object { .. } => "object",
        Shape::Array { .. } => "array",
        Shape::String => "string",
        Shape::Integer => "integer",
        Shape::Number => "number",
        Shape::Boolean => "boolean",
        Shape::IntOrString => "integer or string",
    }
}

/// RFC 3339: `2026-01-31T12:00:00Z`, with a fraction and an offset allowed.
fn is_date_time(text: &str) -> bool {
    let digits = |range: std::ops::Range<usize>, max: u32| {
        text.get(range)
            .filter(|part| part.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|part| part.parse::<u32>().ok())
            .is_some_and(|number| number <= max)
    };
    let bytes = text.as_bytes();
    let at = |index: usize, allowed: &[u8]| bytes.get(index).is_some_and(|byte| allowed.contains(byte));
    let head = digits(0..4, 9999)
        && at(4, b"-")
        && digits(5..7, 12)
        && at(7, b"-")
        && digits(8..10, 31)
        && at(10, b"Tt ")
        && digits(11..13, 23)
        && at(13, b":")
        && digits(14..16, 59)
        && at(16, b":")
        && digits(17..19, 60);
    let Some(rest) = text.get(19..).filter(|_| head) else { return false };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
        None => rest,
    };
    let start = text.len() - zone.len();
    zone.eq_ignore_ascii_case("z")
        || (zone.len() == 6
            && at(start, b"+-")
            && digits(start + 1..start + 3, 23)
            && at(start + 3, b":")
            && digits(start + 4..start + 6, 59))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resource::Resource;
    use crate::schema::arbitrary;

    fn schema(kind: Kind) -> &'static Value {
        kind.schema(kind.info().preferred_version()).unwrap()
    }

    /// Equal, where 100 and 100.0 are one number.
    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => a == b || (a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64(),
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
            }
            (a, b) => a == b,
        }
    }

    proptest! {
        /// No field is lost or changed on the way through the typed specs.
        #[test]
        fn documents_of_every_kind_go_out_as_they_came_in(seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            for kind in Kind::ALL {
                let document = arbitrary::document(schema(kind), &mut rng);
                let resource = Resource::from_object(kind, &document);
                prop_assert!(resource.is_ok(), "{kind:?} {document:#}: {resource:?}");
                let written = resource.unwrap().to_object();
                for (name, value) in document.as_object().unwrap().iter().filter(|(name, _)| *name != "metadata") {
                    prop_assert!(same(value, &written[name]), "{kind:?} {name}: {value:#} became {:#}", written[name]);
                }
            }
        }

        /// What the schema takes can be typed, whatever a client sends.
        #[test]
        fn what_passes_the_schema_can_be_typed(seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            for kind in Kind::ALL {
                let mut document = arbitrary::document(schema(kind), &mut rng);
                arbitrary::mutate(&mut document, &mut rng);
                let mut report = Report::default();
                check(kind, &document, &mut report);
                if report.verdict.errors.is_empty() && document["metadata"]["name"] == "a" {
                    let resource = Resource::from_object(kind, &document);
                    prop_assert!(resource.is_ok(), "{kind:?} {document:#}: {resource:?}");
                }
            }
        }

        /// Validation ends with a verdict on anything.
        #[test]
        fn anything_gets_a_verdict(seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            for kind in Kind::ALL {
                let mut document = arbitrary::document(schema(kind), &mut rng);
                for _ in 0..rng.usize(..3) {
                    arbitrary::mutate(&mut document, &mut rng);
                }
                let verdict = crate::validate::validate(kind, kind.info().preferred_version(), &document);
                prop_assert!(verdict.errors.iter().all(|error| !error.message.is_empty()));
            }
        }
    }
}
