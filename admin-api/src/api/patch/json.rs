//! JSON patch (RFC 6902) over JSON pointers (RFC 6901).

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// Most operations in one patch, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;
/// Most bytes of JSON that `copy` operations of one patch may add up to: without it a short patch that copies the
/// document into itself doubles it with every line.
const MAX_COPIED: usize = 3 * 1024 * 1024;

#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum JsonPatchError {
    #[error("the patch is not a list of JSON patch operations: {0}")]
    Malformed(String),
    #[error("the patch has more than {MAX_OPERATIONS} operations")]
    TooLong,
    #[error("the copy operations of the patch add up to more than {MAX_COPIED} bytes")]
    CopiesTooMuch,
    #[error("operation {index} ({op} {path:?}): {why}")]
    Failed { index: usize, op: &'static str, path: String, why: &'static str },
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Operation {
    Add { path: String, value: Value },
    Remove { path: String },
    Replace { path: String, value: Value },
    Move { from: String, path: String },
    Copy { from: String, path: String },
    Test { path: String, value: Value },
}

/// Applies every operation or none: on an error `target` is as it was.
pub(crate) fn apply_json_patch(target: &mut Value, patch: &Value) -> Result<(), JsonPatchError> {
    if patch.as_array().is_some_and(|list| list.len() > MAX_OPERATIONS) {
        return Err(JsonPatchError::TooLong);
    }
    let operations =
        Vec::<Operation>::deserialize(patch).map_err(|error| JsonPatchError::Malformed(error.to_string()))?;
    let mut document = target.clone();
    let mut copied = 0;
    for (index, operation) in operations.into_iter().enumerate() {
        let (op, path) = operation.name_and_path();
        let failed = |why| JsonPatchError::Failed { index, op, path: path.clone(), why };
        match operation {
            Operation::Add { path, value } => add(&mut document, &path, value),
            Operation::Remove { path } => remove(&mut document, &path).map(drop),
            Operation::Replace { path, value } => find(&mut document, &path).map(|slot| *slot = value),
            Operation::Move { from, path } => {
                if path.strip_prefix(&from).is_some_and(|rest| rest.starts_with('/')) {
                    Err("a value cannot be moved into itself")
                } else {
                    remove(&mut document, &from).and_then(|value| add(&mut document, &path, value))
                }
            }
            Operation::Copy { from, path } => match find(&mut document, &from) {
                Ok(value) => {
                    let value = value.clone();
                    copied += value.to_string().len();
                    if copied > MAX_COPIED {
                        return Err(JsonPatchError::CopiesTooMuch);
                    }
                    add(&mut document, &path, value)
                }
                Err(why) => Err(why),
            },
            Operation::Test { path, value } => match find(&mut document, &path) {
                Ok(found) if same(found, &value) => Ok(()),
                Ok(_) => Err("the value is not the one tested for"),
                Err(why) => Err(why),
            },
        }
        .map_err(failed)?;
    }
    *target = document;
    Ok(())
}

impl Operation {
    fn name_and_path(&self) -> (&'static str, String) {
        let (op, path) = match self {
            Self::Add { path, .. } => ("add", path),
            Self::Remove { path } => ("remove", path),
            Self::Replace { path, .. } => ("replace", path),
            Self::Move { path, .. } => ("move", path),
            Self::Copy { path, .. } => ("copy", path),
            Self::Test { path, .. } => ("test", path),
        };
        (op, path.clone())
    }
}

const NO_SUCH_PATH: &str = "the path does not exist";

/// Numbers are equal by value (section 4.6), so `1` and `1.0` are.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}

/// The tokens of a pointer, `~1` and `~0` resolved.
fn tokens(pointer: &str) -> Result<Vec<String>, &'static str> {
    match pointer.strip_prefix('/') {
        Some(rest) => Ok(rest.split('/').map(|t| t.replace("~1", "/").replace("~0", "~")).collect()),
        None if pointer.is_empty() => Ok(Vec::new()),
        None => Err("a path starts with `/`"),
    }
}

/// A list position without sign or leading zeros (RFC 6901, section 4).
fn position(token: &str) -> Result<usize, &'static str> {
    let digits = !token.is_empty() && token.bytes().all(|b| b.is_ascii_digit());
    if !digits || (token.len() > 1 && token.starts_with('0')) {
        return Err("a list position must be a whole number");
    }
    token.parse().map_err(|_| NO_SUCH_PATH)
}

fn step<'a>(at: &'a mut Value, token: &str) -> Result<&'a mut Value, &'static str> {
    match at {
        Value::Object(fields) => fields.get_mut(token),
        Value::Array(items) => items.get_mut(position(token)?),
        _ => None,
    }
    .ok_or(NO_SUCH_PATH)
}

fn find<'a>(document: &'a mut Value, pointer: &str) -> Result<&'a mut Value, &'static str> {
    tokens(pointer)?.iter().try_fold(document, |at, token| step(at, token))
}

/// The container that the last token names a place in.
fn parent<'a>(document: &'a mut Value, pointer: &str) -> Result<Option<(&'a mut Value, String)>, &'static str> {
    let mut path = tokens(pointer)?;
    let Some(last) = path.pop() else { return Ok(None) };
    Ok(Some((path.iter().try_fold(document, |at, token| step(at, token))?, last)))
}

fn add(document: &mut Value, pointer: &str, value: Value) -> Result<(), &'static str> {
    match parent(document, pointer)? {
        None => *document = value,
        Some((Value::Object(fields), name)) => drop(fields.insert(name, value)),
        Some((Value::Array(items), token)) => {
            let at = if token == "-" { items.len() } else { position(&token)? };
            if at > items.len() {
                return Err("the list position is out of range");
            }
            items.insert(at, value);
        }
        Some(_) => return Err(NO_SUCH_PATH),
    }
    Ok(())
}

fn remove(document: &mut Value, pointer: &str) -> Result<Value, &'static str> {
    match parent(document, pointer)? {
        None => Ok(document.take()),
        Some((Value::Object(fields), name)) => fields.shift_remove(&name).ok_or(NO_SUCH_PATH),
        Some((Value::Array(items), token)) => {
            let at = position(&token)?;
            if at < items.len() { Ok(items.remove(at)) } else { Err(NO_SUCH_PATH) }
        }
        Some(_) => Err(NO_SUCH_PATH),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_operation() {
        for (mut document, patch, result) in [
            (json!({"a":1}), json!([{"op":"add","path":"/b","value":2}]), json!({"a":1,"b":2})),
            (json!({"a":[1,3]}), json!([{"op":"add","path":"/a/1","value":2}]), json!({"a":[1,2,3]})),
            (json!({"a":[1]}), json!([{"op":"add","path":"/a/-","value":2}]), json!({"a":[1,2]})),
            (json!({"a":1,"b":2}), json!([{"op":"remove","path":"/a"}]), json!({"b":2})),
            (json!({"a":[1,2]}), json!([{"op":"replace","path":"/a/0","value":9}]), json!({"a":[9,2]})),
            (json!({"a":{"b":1}}), json!([{"op":"move","from":"/a/b","path":"/c"}]), json!({"a":{},"c":1})),
            (json!({"a":{"b":1}}), json!([{"op":"copy","from":"/a","path":"/c"}]), json!({"a":{"b":1},"c":{"b":1}})),
            (json!({"a/b":{"~":1}}), json!([{"op":"replace","path":"/a~1b/~0","value":2}]), json!({"a/b":{"~":2}})),
            (json!({"a":1}), json!([{"op":"test","path":"/a","value":1.0}]), json!({"a":1})),
            (json!({"a":1}), json!([{"op":"replace","path":"","value":[]}]), json!([])),
        ] {
            apply_json_patch(&mut document, &patch).unwrap_or_else(|e| panic!("{patch}: {e}"));
            assert_eq!(document, result, "{patch}");
        }
    }

    #[test]
    fn a_failing_operation_leaves_the_document_alone() {
        for patch in [
            json!([{"op":"add","path":"/b","value":2},{"op":"test","path":"/a","value":2}]),
            json!([{"op":"remove","path":"/x"}]),
            json!([{"op":"replace","path":"/x","value":1}]),
            json!([{"op":"add","path":"/x/y","value":1}]),
            json!([{"op":"add","path":"/l/3","value":1}]),
            json!([{"op":"add","path":"/l/01","value":1}]),
            json!([{"op":"add","path":"a","value":1}]),
            json!([{"op":"move","from":"/o","path":"/o/x"}]),
            json!([{"op":"jump","path":"/a"}]),
            json!([{"op":"add","path":"/a"}]),
            json!({"a":1}),
        ] {
            let mut document = json!({"a":1,"l":[0],"o":{}});
            let before = document.clone();
            assert!(apply_json_patch(&mut document, &patch).is_err(), "{patch}");
            assert_eq!(document, before);
        }
    }

    #[test]
    fn copies_cannot_blow_the_document_up() {
        let mut document = json!({"a": "x".repeat(1000)});
        let patch: Vec<Value> = (0..40).map(|i| json!({"op":"copy","from":"","path":format!("/c{i}")})).collect();
        assert_eq!(apply_json_patch(&mut document, &Value::Array(patch)), Err(JsonPatchError::CopiesTooMuch));
    }
}
