//! Whatever arrives as a document, the answer is an object or says what is wrong, and what is accepted is kept.

use std::cell::Cell;
use std::time::{Duration, Instant};

use admin_api::yaml;
use http::Method;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use route_model::kind::Kind;
use serde_json::{Value, json};

use crate::damage::{Damaged, damaged, samples};
use crate::harness::{Answer, Api, VS};

/// Far more than any of these documents needs; what runs away takes longer.
const BOUND: Duration = Duration::from_secs(20);
/// A person has to read it.
const LONGEST_MESSAGE: usize = 64 * 1024;

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() })
}

/// Values of a document, in depth.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

#[test]
fn damaged_yaml_is_read_or_refused_and_what_is_read_is_written_again() {
    let read = |damaged: Damaged| {
        let Ok(text) = String::from_utf8(damaged.text) else { return Ok(()) };
        let start = Instant::now();
        match yaml::documents(&text) {
            Err(error) => prop_assert!((1..LONGEST_MESSAGE).contains(&error.to_string().len()), "{error}"),
            Ok(documents) => {
                for document in documents {
                    prop_assert!(count(&document) <= 200_000 + text.len());
                    let written = yaml::to_string(&document).unwrap();
                    let again = yaml::document(&written);
                    let again = again.map_err(|error| TestCaseError::fail(format!("{error}\n{written}")))?;
                    prop_assert_eq!(again, document, "{}", written);
                }
            }
        }
        prop_assert!(start.elapsed() < BOUND);
        Ok(())
    };
    runner(1_000).run(&damaged(2, 4), read).unwrap();
}

#[tokio::test]
async fn a_lot_of_anything_is_refused_in_time() {
    // What takes more time than in proportion shows at this size.
    const SIZE: usize = 128 * 1024;
    let api = Api::start().await;
    let units = "[§{§{a: §[{a: §- §? §- a\n§a: b\n§a:\n§\n§ §\t§\r§#§# a\n§\"§'§\\§a§a §a\n\n§: §,§|§|\n§>\n a\n§&a §\
        *a §- *a\n§- &a b\n§- &a [*a]\n§<<: §<<: *a\n§<<: {a: b}\n§!§!!a §!<a> §%§%YAML 1.2\n§---\n§--- a\n§\
        ...\n§é§\u{feff}§\0§- 1\n§- 1e9\n§[],§{},§[[]],§{\"a\":1},§1§- 'a'\n§? a\n: b\n";
    let starts = ["", "[", "{", "a: ", "spec: [", "a: &a [b, c]\nb: [", "a: &a {b: c}\nb:\n", "\"", "{\"a\":"];
    for unit in units.split('§') {
        for start in starts {
            let text = format!("{start}{}", unit.repeat(SIZE / unit.len()));
            for content_type in ["application/json", "application/yaml"] {
                let began = Instant::now();
                let answer = api.call(Method::POST, VS, &[("content-type", content_type)], text.clone()).await;
                assert!(answer.status.is_client_error(), "{start:?} {unit:?}: {}", answer.text);
                assert!(began.elapsed() < BOUND, "{start:?} and then {unit:?} took {:?}", began.elapsed());
            }
        }
    }
}

/// How a document is sent.
#[derive(Clone, Copy, Debug)]
enum Way {
    Create,
    Apply,
    Merge,
    Replace,
    Batch,
}

const WAYS: [Way; 5] = [Way::Create, Way::Apply, Way::Merge, Way::Replace, Way::Batch];

async fn send(api: &Api, way: Way, damaged: &Damaged) -> Answer {
    let collection = damaged.sample.collection();
    let object = format!("{collection}/{}", damaged.sample.name());
    let format = if damaged.is_yaml { "application/yaml" } else { "application/json" };
    let (method, path, content_type) = match way {
        Way::Create => (Method::POST, collection, format),
        Way::Replace => (Method::PUT, object, format),
        Way::Apply => (Method::PATCH, object, "application/apply-patch+yaml"),
        Way::Merge => (Method::PATCH, object, "application/merge-patch+json"),
        Way::Batch => (Method::POST, "/api/fairway/v1/changes".to_owned(), "application/yaml"),
    };
    let body = match way {
        Way::Batch => [b"changes:\n- op: apply\n  object: ", &*damaged.text].concat(),
        _ => damaged.text.clone(),
    };
    let path = format!("{path}?dryRun=All&fieldManager=test&fieldValidation=Strict");
    api.call(method, &path, &[("content-type", content_type)], body).await
}

#[test]
fn damaged_bodies_are_answered_by_an_object_or_an_error_that_says_what_is_wrong() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let api = runtime.block_on(async {
        let api = Api::start().await;
        // What is there to be patched and replaced.
        for sample in samples() {
            let body = sample.object.to_string();
            api.call(Method::POST, &sample.collection(), &[("content-type", "application/json")], body).await;
        }
        api
    });
    let ways = prop::sample::select(WAYS.to_vec());
    let tried = |(way, damaged): (Way, Damaged)| {
        let start = Instant::now();
        let answer = runtime.block_on(send(&api, way, &damaged));
        prop_assert!(start.elapsed() < BOUND);
        let body = answer.json();
        if answer.status.is_success() {
            prop_assert!(body.is_object());
            return Ok(());
        }
        prop_assert!(answer.status.is_client_error(), "{}: {}", answer.status, answer.text);
        let message = body["message"].as_str().or(body["detail"].as_str()).unwrap_or_default();
        prop_assert!((1..LONGEST_MESSAGE).contains(&message.len()), "{}", answer.text);
        Ok(())
    };
    runner(1_000).run(&(ways, damaged(2, 2)), tried).unwrap();
}

#[tokio::test]
async fn a_page_in_the_place_of_a_name_is_not_repeated() {
    let api = Api::start().await;
    let sample = samples().iter().find(|sample| sample.kind == Kind::Gateway).unwrap();
    let mut object = sample.object.clone();
    object["metadata"] = json!({"namespace": "a".repeat(2 * LONGEST_MESSAGE), "name": 1});
    let text = object.to_string().into_bytes();
    let damaged = Damaged { sample: sample.clone(), object: Value::Null, is_yaml: false, text };
    for way in WAYS {
        let answer = send(&api, way, &damaged).await;
        assert!(answer.status.is_client_error() && answer.text.len() < LONGEST_MESSAGE, "{way:?}: {}", answer.text);
    }
}

#[tokio::test]
async fn however_deep_a_document_is_its_way_ends_in_an_answer() {
    let api = Api::start().await;
    let sample = samples().iter().find(|sample| sample.kind == Kind::EnvoyFilter).unwrap();
    api.post(&sample.collection(), &sample.object).await.expect(201);
    for way in WAYS {
        for depth in [40, 70, 120, 200, 50_000] {
            for (open, close) in [("{\"a\":", "}"), ("[", "]"), ("{\"a\":[", "]}")] {
                let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                for place in [sample.object["spec"].to_string(), json!(sample.name()).to_string()] {
                    let text = sample.object.to_string().replacen(&place, &nested, 1).into_bytes();
                    let damaged = Damaged { sample: sample.clone(), object: Value::Null, is_yaml: false, text };
                    let answer = send(&api, way, &damaged).await;
                    assert!(answer.status.is_client_error(), "{way:?} {depth} {open}: {}", answer.text);
                }
            }
        }
    }
}

#[test]
fn what_is_accepted_is_kept_as_it_was_sent() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let api = runtime.block_on(Api::start());
    let accepted = Cell::new(0);
    let tried = |damaged: Damaged| {
        let answer = runtime.block_on(send(&api, Way::Create, &damaged));
        if !answer.status.is_success() {
            return Ok(());
        }
        accepted.set(accepted.get() + 1);
        let mut shown = answer.json();
        // Kubernetes' own kinds are stored with defaults.
        if !damaged.sample.kind.info().group.is_empty() {
            prop_assert_eq!(&shown["spec"], &damaged.object["spec"]);
        }
        // What the server shows can be sent again, as YAML too.
        shown["metadata"].as_object_mut().unwrap().shift_remove("resourceVersion");
        let again = Damaged { text: yaml::to_string(&shown).unwrap().into_bytes(), is_yaml: true, ..damaged };
        let again = runtime.block_on(send(&api, Way::Create, &again));
        prop_assert!(again.status.is_success(), "{}", again.text);
        for field in ["spec", "data", "type"] {
            prop_assert_eq!(&again.json()[field], &shown[field], "{}", field);
        }
        Ok(())
    };
    runner(1_000).run(&damaged(1, 0), tried).unwrap();
    assert!(accepted.get() > 100, "only {} documents were accepted", accepted.get());
}
