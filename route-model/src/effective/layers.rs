//! Values that are written in several places, of which the nearest counts.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Overridden, Setting, Source};
use crate::field::FieldPath;

/// One place where blocks of settings may be written. A block that is written counts as a whole: what it leaves out is
/// not looked for further away.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) resource: String,
    /// Of the object that holds the blocks.
    pub(crate) path: FieldPath,
    pub(crate) blocks: BTreeMap<String, Value>,
    /// Nothing that is written further away counts.
    pub(crate) last: bool,
}

/// What holds where nothing is written.
#[derive(Clone, Debug)]
pub(crate) struct Fallback {
    pub(crate) name: &'static str,
    pub(crate) value: Value,
    /// A setting of the mesh that says so.
    pub(crate) from: Option<Source>,
}

/// Works out what is in force, from the nearest layer to the farthest. Sorted by name.
pub(crate) fn settings(layers: &[Layer], defaults: impl IntoIterator<Item = Fallback>) -> Vec<Setting> {
    let mut found: BTreeMap<String, Setting> = BTreeMap::new();
    let mut decided: Vec<&str> = Vec::new();
    let mut overridden: Vec<(String, Overridden)> = Vec::new();
    let mut closed = false;
    for layer in layers {
        for (block, value) in &layer.blocks {
            let counts = !closed && !decided.contains(&block.as_str());
            each_leaf(block, value, &mut |name, value| {
                let from = Source { resource: layer.resource.clone(), field: format!("{}.{name}", layer.path) };
                let value = value.clone();
                if counts {
                    let setting = Setting { name: name.to_owned(), value, from: Some(from), overrides: Vec::new() };
                    found.insert(name.to_owned(), setting);
                } else {
                    overridden.push((name.to_owned(), Overridden { value, from }));
                }
            });
        }
        if !closed {
            decided.extend(layer.blocks.keys().map(String::as_str));
        }
        closed |= layer.last;
    }
    for Fallback { name, value, from } in defaults {
        let setting = || Setting { name: name.to_owned(), value, from, overrides: Vec::new() };
        found.entry(name.to_owned()).or_insert_with(setting);
    }
    for (name, value) in overridden {
        // Without a default that has a name, it is the absence of the field that took its place.
        let unset = || Setting { name: name.clone(), value: Value::Null, from: None, overrides: Vec::new() };
        found.entry(name.clone()).or_insert_with(unset).overrides.push(value);
    }
    found.into_values().collect()
}

/// Shows the values that are no objects, with their paths.
fn each_leaf(path: &str, value: &Value, visit: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(name, value)| each_leaf(&format!("{path}.{name}"), value, visit));
        }
        _ => visit(path, value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layer(resource: &str, blocks: Value, last: bool) -> Layer {
        let Value::Object(blocks) = blocks else { panic!("an object") };
        Layer { resource: resource.to_owned(), path: FieldPath::new("p"), blocks: blocks.into_iter().collect(), last }
    }

    /// `name=value from resource; instead of …`, a line a setting.
    fn lines(layers: &[Layer]) -> Vec<String> {
        let default = Fallback { name: "pool.max", value: json!("unlimited"), from: None };
        let all = settings(layers, [default]);
        let line = |setting: &Setting| {
            let from = setting.from.as_ref().map_or("default", |from| &from.resource);
            let mut parts = vec![format!("{}={} from {from}", setting.name, setting.value)];
            let other = |other: &Overridden| format!("instead of {} from {}", other.value, other.from.resource);
            parts.extend(setting.overrides.iter().map(other));
            parts.join("; ")
        };
        all.iter().map(line).collect()
    }

    #[test]
    fn the_nearest_block_counts_as_a_whole() {
        let subset = layer("subset", json!({"lb": {"simple": "RANDOM"}, "pool": {"idle": "1s"}}), false);
        let top = layer("top", json!({"pool": {"idle": "2s", "max": 7}, "outlier": {"n": 3}}), true);
        let later = layer("later", json!({"lb": {"simple": "ROUND_ROBIN"}, "tls": {}}), true);
        assert_eq!(
            lines(&[subset, top, later]),
            [
                "lb.simple=\"RANDOM\" from subset; instead of \"ROUND_ROBIN\" from later",
                "outlier.n=3 from top",
                "pool.idle=\"1s\" from subset; instead of \"2s\" from top",
                "pool.max=\"unlimited\" from default; instead of 7 from top",
                "tls=null from default; instead of {} from later",
            ]
        );
    }

    #[test]
    fn without_a_word_the_defaults_hold() {
        assert_eq!(lines(&[]), ["pool.max=\"unlimited\" from default"]);
        assert_eq!(
            lines(&[layer("port", json!({}), true), layer("top", json!({"pool": {"max": 1}}), true)]),
            ["pool.max=\"unlimited\" from default; instead of 1 from top"]
        );
    }
}
