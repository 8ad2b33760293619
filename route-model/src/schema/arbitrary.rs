//! Random documents that fit a schema's types, for property tests.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::condition::Condition;
use super::node::is_duration;

/// A document of a kind's schema with a random choice of fields.
pub(crate) fn document(schema: &Value, rng: &mut Rng) -> Value {
    let mut document = json!({});
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        match name.as_str() {
            "apiVersion" | "kind" | "status" => {}
            "metadata" => document["metadata"] = json!({"name": "a", "namespace": "b"}),
            "spec" => document["spec"] = value(name, property, rng, 0),
            name => {
                if rng.bool() {
                    document[name] = value(name, property, rng, 0);
                }
            }
        }
    }
    document
}

fn value(name: &str, schema: &Value, rng: &mut Rng, depth: usize) -> Value {
    if schema["nullable"] == true && rng.u8(..8) == 0 {
        return Value::Null;
    }
    if let Some(choices) = schema["enum"].as_array() {
        return choices[rng.usize(..choices.len())].clone();
    }
    match schema["type"].as_str() {
        Some("object") => object(schema, rng, depth),
        Some("array") => {
            let items = &schema["items"];
            Value::Array((0..rng.usize(..3)).map(|_| value(name, items, rng, depth + 1)).collect())
        }
        Some("string") => string(name, schema, rng),
        Some("integer") => integer(schema, rng),
        Some("number") => json!(f64::from(rng.i32(-1000..100_000)) / [1.0, 8.0, 10.0][rng.usize(..3)]),
        Some("boolean") => json!(rng.bool()),
        _ => free_form(rng, depth),
    }
}

fn object(schema: &Value, rng: &mut Rng, depth: usize) -> Value {
    let mut fields = Map::new();
    if schema["additionalProperties"].is_object() {
        for _ in 0..rng.usize(..3) {
            fields.insert(text(rng), value("", &schema["additionalProperties"], rng, depth + 1));
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        // The deeper, the fewer: documents stay small.
        if rng.usize(..depth + 2) < 2 {
            fields.insert(name.clone(), value(name, property, rng, depth + 1));
        }
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == true && fields.is_empty() {
        for _ in 0..rng.usize(..3) {
            fields.insert(text(rng), free_form(rng, depth));
        }
    }
    if let Some(condition) = Condition::parse(schema) {
        while !condition.holds(&fields) && !fields.is_empty() {
            let name = fields.keys().nth(rng.usize(..fields.len())).cloned();
            fields.shift_remove(&name.unwrap_or_default());
        }
    }
    Value::Object(fields)
}

fn string(name: &str, schema: &Value, rng: &mut Rng) -> Value {
    let of_duration = schema["x-kubernetes-validations"].to_string().contains("duration(self)") || is_duration(name);
    if of_duration {
        let units = ["ns", "us", "ms", "s", "m", "h"];
        return json!(format!("{}{}", rng.u16(1..), units[rng.usize(..units.len())]));
    }
    match schema["format"].as_str() {
        Some("byte") => json!(["", "aGk=", "aGV5", "AA=="][rng.usize(..4)]),
        Some("date-time") => json!("2026-01-31T12:00:00Z"),
        _ => json!(text(rng)),
    }
}

fn integer(schema: &Value, rng: &mut Rng) -> Value {
    let min = schema["minimum"].as_i64().unwrap_or(i32::MIN.into());
    let max = match (schema["maximum"].as_i64(), schema["format"].as_str()) {
        (Some(max), _) => max,
        (None, Some("int32")) => i32::MAX.into(),
        (None, _) => i64::MAX,
    };
    json!([min, max, rng.i64(min..=max), 0.clamp(min, max)][rng.usize(..4)])
}

fn free_form(rng: &mut Rng, depth: usize) -> Value {
    match rng.u8(..if depth > 6 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => json!(rng.bool()),
        2 => json!(rng.i64(..)),
        3 => json!(rng.f64()),
        4 => json!(text(rng)),
        5 => Value::Array((0..rng.usize(..3)).map(|_| free_form(rng, depth + 1)).collect()),
        _ => Value::Object((0..rng.usize(..3)).map(|_| (text(rng), free_form(rng, depth + 1))).collect()),
    }
}

/// Short, of letters that matter and some that should not.
fn text(rng: &mut Rng) -> String {
    (0..rng.usize(..6))
        .map(|_| *rng.choice(&['a', 'Z', '0', '.', '-', '*', '/', '%', ' ', '"', '\\', 'é', '\u{0}']).unwrap_or(&'a'))
        .collect()
}

/// Puts a random value in a random place below the document's own fields.
pub(crate) fn mutate(document: &mut Value, rng: &mut Rng) {
    let mut at = document;
    loop {
        let inner = match &*at {
            Value::Object(fields) => fields.len(),
            Value::Array(items) => items.len(),
            _ => 0,
        };
        if inner == 0 || rng.u8(..6) == 0 {
            break;
        }
        let nth = rng.usize(..inner);
        at = match at {
            Value::Object(fields) => fields.values_mut().nth(nth),
            Value::Array(items) => items.get_mut(nth),
            _ => None,
        }
        .expect("there are that many");
    }
    *at = free_form(rng, 4);
}
