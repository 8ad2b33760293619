//! Documents as nobody would write them: samples with values that do not belong and text that is broken.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use admin_api::yaml;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use route_model::kind::Kind;
use serde_json::{Map, Value, json};

/// A document that is sound, of a kind that the API serves.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) kind: Kind,
    pub(crate) version: &'static str,
    pub(crate) object: Value,
}

impl Sample {
    pub(crate) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The path under which objects of this kind are created.
    pub(crate) fn collection(&self) -> String {
        let info = self.kind.info();
        let group = if info.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", info.group) };
        let namespace = self.object["metadata"]["namespace"].as_str().unwrap_or("default");
        let place = if info.namespaced { format!("/namespaces/{namespace}") } else { String::new() };
        format!("{group}/{}{place}/{}", self.version, info.plural)
    }
}

/// Istio's samples and the cases of the validation suites.
pub(crate) fn samples() -> &'static [Sample] {
    static SAMPLES: OnceLock<Vec<Sample>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = Vec::new();
        for folder in ["tests/data/istio-samples", "route-model/tests/data/istio"] {
            for path in files(&root.join(folder)) {
                found.extend(read(&path).into_iter().filter_map(sample));
            }
        }
        for path in files(&root.join("route-model/tests/data/rules")) {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).unwrap();
            let info = kind.info();
            for case in read(&path).iter().filter_map(Value::as_array).flatten() {
                let mut object =
                    json!({"apiVersion": info.api_version(info.preferred_version()), "kind": kind.name(), "metadata": {"name": "default"}});
                object["spec"] = case["spec"].clone();
                object.as_object_mut().unwrap().extend(case["object"].as_object().cloned().unwrap_or_default());
                found.extend(sample(object));
            }
        }
        assert!(found.len() > 200, "only {} documents were found", found.len());
        found
    })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> Vec<Value> {
    yaml::documents(&fs::read_to_string(path).unwrap()).unwrap()
}

fn sample(mut object: Value) -> Option<Sample> {
    let (kind, version) = Kind::from_api_version(object["apiVersion"].as_str()?, object["kind"].as_str()?)?;
    // Events are not written by clients, and the only namespaces that are there are the first ones.
    if kind == Kind::Event {
        return None;
    }
    object.as_object_mut()?.shift_remove("_err");
    if kind.info().namespaced {
        object["metadata"]["namespace"] = json!("default");
    }
    Some(Sample { kind, version, object })
}

/// A sample that was damaged, and its text.
#[derive(Clone, Debug)]
pub(crate) struct Damaged {
    pub(crate) sample: Sample,
    /// With values that do not belong, but well-formed.
    pub(crate) object: Value,
    pub(crate) is_yaml: bool,
    pub(crate) text: Vec<u8>,
}

/// Samples with up to `values` wrong values and up to `breaks` damages to their text.
pub(crate) fn damaged(values: usize, breaks: usize) -> impl Strategy<Value = Damaged> {
    let swaps = vec((vec(any::<Index>(), 1..8), odd_value()), 0..=values);
    (any::<Index>(), swaps, vec(text_damage(), 0..=breaks), any::<bool>()).prop_map(|(at, swaps, breaks, is_yaml)| {
        let sample = at.get(samples()).clone();
        let mut object = sample.object.clone();
        for (way, value) in swaps {
            swap(&mut object, &way, value);
        }
        let text = if is_yaml { yaml::to_string(&object).unwrap() } else { object.to_string() };
        let mut text = text.into_bytes();
        for damage in &breaks {
            damage.apply(&mut text);
        }
        Damaged { sample, object, is_yaml, text }
    })
}

/// Puts a value in the place that a way down the document leads to.
fn swap(document: &mut Value, way: &[Index], value: Value) {
    let inside = match (&mut *document, way) {
        (Value::Object(fields), [step, rest @ ..]) if !fields.is_empty() => {
            let nth = step.index(fields.len());
            fields.values_mut().nth(nth).map(|inside| (inside, rest))
        }
        (Value::Array(items), [step, rest @ ..]) if !items.is_empty() => {
            let nth = step.index(items.len());
            Some((&mut items[nth], rest))
        }
        _ => None,
    };
    match inside {
        Some((inside, rest)) => swap(inside, rest, value),
        None => *document = value,
    }
}

/// One of the words in a text that a § stands between.
fn words(text: &'static str) -> impl Strategy<Value = &'static str> {
    select(text.split('§').collect::<Vec<_>>())
}

/// Values of wrong types, beyond limits, and of the right type but senseless.
fn odd_value() -> impl Strategy<Value = Value> {
    let text = words(
        "§ §*§.§..§~§-§*.*§a.b.c§*.com§./*§a/b/c§[::1]§[§1.2.3.4/99§::/129§(a*)*b§((a{1000}){1000}){1000}§(§\
        \\§[^]§%REQ(§%REQ(:path)%§%§{§{a=b§{**}§/§//§-1s§9223372036854775807h§0.000000001ns§1h1h§1e9s§\u{0}§\
        \r\n§\u{feff}§é§null§true§~§1_000§0755§0x10§.inf§<<§=§!!str§&a§*a§- a§a: b§# a§@request.auth.claims§\
        2026-01-01T00:00:00Z§18446744073709551616§\
        -----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    );
    prop_oneof![
        4 => text.prop_map(Value::from),
        2 => select(vec![json!(null), json!(true), json!(0), json!(-1), json!(1.5), json!([]), json!({}), json!([null])]),
        2 => select(vec![json!(i64::MIN), json!(i64::MAX), json!(u64::MAX), json!(1e300), json!(-1e-300), json!(65536), json!(0.1)]),
        1 => any::<f64>().prop_filter("JSON has no such number", |number| number.is_finite()).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        2 => ".{0,12}".prop_map(Value::from),
        1 => (1..200_usize).prop_map(nested),
        1 => (1..70_000_usize).prop_map(|length| Value::from("a".repeat(length))),
        1 => (1..3_000_usize).prop_map(|length| vec![json!({"name": "a"}); length].into()),
        1 => (1..3_000_usize).prop_map(|length| Value::Object((0..length).map(|n| (format!("k{n}"), json!(n))).collect())),
        1 => vec((".{0,6}", any::<i16>()), 0..4)
            .prop_map(|fields| Value::Object(fields.into_iter().map(|(k, v)| (k, json!(v))).collect::<Map<_, _>>())),
    ]
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({"a": inner}) })
}

/// One damage to a text.
#[derive(Clone, Debug)]
enum Break {
    Byte(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index, usize),
    /// Text that comes several times: duplicate keys, runs of brackets.
    Repeat(Index, usize, usize),
    /// A line that comes twice.
    Line(Index),
    /// What follows the colon on a line.
    Value(Index, &'static str),
}

fn text_damage() -> impl Strategy<Value = Break> {
    let pieces = words(
        "\0§\t§\r§\n§\u{feff}§\u{2028}§\u{85}§\"§'§{§}§[§]§,§:§: §- §? §|§>§|9\n§#§%§%YAML 9.9\n---\n§\
            %TAG ! tag:a,2000:\n---\n§---\n§...\n§&a §*a§&a *a§<<: *a\n§<<: {a: 1}\n§<<: [1]\n§!!binary §!!int §\
            !!float §!!set §!!str §!include §!<§!a!b §\\u0000§\\ud800§\\x§1e999§-0§.inf§.nan§0x§\
            99999999999999999999999999§${HOME}§null§{a: {a: {a: {§[[[[[[[[§? ? ? §- - - - §!!§@§`",
    )
    .prop_map(|piece| piece.as_bytes().to_vec());
    let no_utf8 = select(vec![
        vec![0xff],
        vec![0xc3, 0x28],
        vec![0xed, 0xa0, 0x80],
        vec![0xff, 0xfe],
        vec![0xf4, 0x90, 0x80, 0x80],
    ]);
    let values = words(
        "&a [*a]§&a {b: *a}§*nowhere§!!binary aGk=§!!int x§.inf§-.INF§.nan§1e400§0o17§0xFF§1_0§\
         +12§0755§1:30§yes§~§2001-01-01§12345678901234567890123§-9223372036854775809§|\n§>-\n§[§\
        {§\"§'§\"\\q\"§@a§%a§- a§? a§!!null x§{? a}§[a: b]",
    );
    prop_oneof![
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Break::Byte(at, byte)),
        3 => (any::<Index>(), prop_oneof![9 => pieces, 1 => no_utf8]).prop_map(|(at, piece)| Break::Insert(at, piece)),
        1 => (any::<Index>(), 1..40_usize).prop_map(|(at, length)| Break::Cut(at, length)),
        1 => (any::<Index>(), 1..30_usize, 2..300_usize).prop_map(|(at, length, times)| Break::Repeat(at, length, times)),
        2 => any::<Index>().prop_map(Break::Line),
        3 => (any::<Index>(), values).prop_map(|(at, value)| Break::Value(at, value)),
    ]
}

impl Break {
    fn apply(&self, text: &mut Vec<u8>) {
        let position = |at: &Index, text: &[u8]| at.index(text.len() + 1);
        match self {
            Self::Byte(at, byte) if !text.is_empty() => {
                let at = at.index(text.len());
                text[at] = *byte;
            }
            Self::Byte(..) => {}
            Self::Insert(at, piece) => {
                let at = position(at, text);
                text.splice(at..at, piece.iter().copied());
            }
            Self::Cut(at, length) => {
                let at = position(at, text);
                text.drain(at..(at + length).min(text.len()));
            }
            Self::Repeat(at, length, times) => {
                let at = position(at, text);
                let end = (at + length).min(text.len());
                let repeated = text[at..end].repeat(*times);
                text.splice(at..end, repeated);
            }
            Self::Line(at) => {
                let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
                if !lines.is_empty() {
                    let nth = at.index(lines.len());
                    lines.insert(nth, lines[nth]);
                }
                *text = lines.concat();
            }
            Self::Value(at, value) => {
                let colons: Vec<usize> = (0..text.len()).filter(|at| text[*at] == b':').collect();
                if !colons.is_empty() {
                    let start = at.get(&colons) + 1;
                    let length = text[start..].iter().position(|byte| matches!(byte, b'\n' | b',' | b'}'));
                    let end = length.map_or(text.len(), |length| start + length);
                    text.splice(start..end, [b" ", value.as_bytes()].concat());
                }
            }
        }
    }
}
