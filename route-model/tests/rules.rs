//! The rules of each kind, case by case.
//!
//! `tests/data/rules/KIND.yaml` is a list of cases: a `spec` and the `errors` that it must get, no more and no less,
//! each given by a part of its text. Without `errors` the spec must be accepted. Where there are `warnings`, these
//! must be among those given.

use std::fs;
use std::path::Path;

use route_model::kind::Kind;
use route_model::validate::validate;
use serde_json::{Map, Value, json};

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What is wrong with the verdict on one case.
fn problems(kind: Kind, case: &Map<String, Value>) -> Vec<String> {
    let known = ["spec", "errors", "warnings", "unknown", "metadata", "object"];
    let mut problems: Vec<String> =
        case.keys().filter(|key| !known.contains(&key.as_str())).map(|key| format!("no such key: {key}")).collect();
    let version = kind.info().preferred_version();
    let mut object = json!({"apiVersion": kind.info().api_version(version), "kind": kind.name()});
    object["metadata"] =
        case.get("metadata").cloned().unwrap_or_else(|| json!({"name": "default", "namespace": "shop"}));
    if !kind.info().namespaced && !case.contains_key("metadata") {
        object["metadata"] = json!({"name": "default"});
    }
    if let Some(spec) = case.get("spec") {
        object["spec"] = spec.clone();
    }
    for (key, value) in case.get("object").and_then(Value::as_object).into_iter().flatten() {
        object[key] = value.clone();
    }
    let verdict = validate(kind, version, &object);
    let expected = |key: &str| case.get(key).map(texts).unwrap_or_default();
    for (what, found) in [("errors", &verdict.errors), ("unknown", &verdict.unknown)] {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let expected = expected(what);
        let all_found = expected.iter().all(|part| found.iter().any(|text| text.contains(part)));
        if !all_found || found.len() != expected.len() {
            problems.push(format!("expected {what} {expected:#?}, found {found:#?}"));
        }
    }
    for part in expected("warnings") {
        if !verdict.warnings.iter().any(|warning| warning.contains(part)) {
            problems.push(format!("expected the warning {part:?}, found {:#?}", verdict.warnings));
        }
    }
    problems
}

#[test]
fn every_case_gets_its_verdict() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rules");
    let mut failures = Vec::new();
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        files += 1;
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let kind = Kind::from_any_name(&name).unwrap_or_else(|| panic!("{name} is no kind"));
        let cases: Vec<Map<String, Value>> = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for (index, case) in cases.iter().enumerate() {
            for problem in problems(kind, case) {
                let spec = case.get("spec").unwrap_or(&Value::Null);
                failures.push(format!("{name}, case {}: {spec}\n{problem}", index + 1));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(files > 10, "only {files} files were read");
}
