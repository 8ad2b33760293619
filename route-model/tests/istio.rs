//! Istio's own documents get the verdict that Istio gives them.

use std::fs;
use std::path::{Path, PathBuf};

use route_model::kind::Kind;
use route_model::resource::Resource;
use route_model::validate::{Verdict, validate};
use serde_json::Value;

fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The verdict on a document of one of our kinds.
fn verdict(document: &Value) -> Option<(Kind, Verdict)> {
    let (kind, version) = Kind::from_api_version(document["apiVersion"].as_str()?, document["kind"].as_str()?)?;
    Some((kind, validate(kind, version, document)))
}

/// Equal, where 100 and 100.0 are one number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

#[test]
fn validation_cases_get_the_verdict_of_their_file() {
    let mut problems = Vec::new();
    let mut count = 0;
    for path in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/istio"), "yaml") {
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        let valid = file.ends_with("-valid");
        assert!(valid || file.ends_with("-invalid"), "{file}");
        for mut document in documents(&path) {
            count += 1;
            let expected = document.as_object_mut().unwrap().shift_remove("_err");
            let name = format!("{file}/{}", document["metadata"]["name"].as_str().unwrap_or("?"));
            let (_, verdict) = verdict(&document).unwrap_or_else(|| panic!("{name} is of no kind of ours"));
            let errors: Vec<String> = verdict.errors.iter().map(ToString::to_string).collect();
            if !verdict.unknown.is_empty() {
                problems.push(format!("{name}: unknown fields {:?}", verdict.unknown));
            }
            match expected.as_ref().and_then(Value::as_str) {
                None if !errors.is_empty() => problems.push(format!("{name}: refused: {errors:#?}")),
                Some(expected) if !errors.iter().any(|error| error.contains(expected.trim())) => {
                    problems.push(format!("{name}: expected {expected:?}, found {errors:#?}"));
                }
                _ => assert_eq!(expected.is_none(), valid, "{name}"),
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 60, "only {count} documents were read");
}

#[test]
fn samples_are_accepted() {
    let mut count = 0;
    for path in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/istio-samples"), "yaml") {
        for document in documents(&path) {
            let Some((kind, verdict)) = verdict(&document) else {
                let api_version = document["apiVersion"].as_str().unwrap_or_default();
                assert!(!api_version.contains("istio.io"), "{}: {api_version} is not served", path.display());
                continue;
            };
            count += 1;
            assert!(verdict.errors.is_empty() && verdict.unknown.is_empty(), "{}: {verdict:#?}", path.display());
            let resource = Resource::from_object(kind, &document).unwrap();
            let written = resource.to_object();
            assert!(same(&written["spec"], &document["spec"]), "{}: {written:#}", path.display());
        }
    }
    assert!(count >= 30, "only {count} documents were read");
}
