//! YAML and JSON documents as JSON values, with limits against documents that blow up.

use serde_json::Value;

/// More documents than this in one file are refused.
const MAX_DOCUMENTS: usize = 20_000;
/// Validation takes objects that are nested 64 deep; a list or a change around one adds up to three levels. The reader
/// takes 20 KB of stack a level in a debug build, and threads have 2 MiB.
const MAX_DEPTH: usize = 70;
/// So many bytes of text may come out of a stream beyond those that are in it: what aliases repeat.
const MAX_REPEATED: usize = 4 * 1024 * 1024;

/// A document could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct YamlError(String);

/// Every document of a stream. JSON is YAML.
pub fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    serde_saphyr::from_multiple_with_options(text, options(text.len())).map_err(|error| YamlError(error.to_string()))
}

/// Exactly one document.
pub fn document(text: &str) -> Result<Value, YamlError> {
    serde_saphyr::from_str_with_options(text, options(text.len())).map_err(|error| YamlError(error.to_string()))
}

pub fn to_string(value: &Value) -> Result<String, YamlError> {
    serde_saphyr::to_string(value).map_err(|error| YamlError(error.to_string()))
}

/// For a stream of `length` bytes.
fn options(length: usize) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: MAX_DOCUMENTS,
            max_depth: MAX_DEPTH,
            max_events: 20_000_000,
            max_nodes: 10_000_000,
            max_total_scalar_bytes: length.saturating_add(MAX_REPEATED),
        },
        // YAML 1.2: `no`, `on` and `y` are text, as whoever matches a header by them means.
        strict_booleans: true,
        // Aliases are a convenience for a few repeated lines; a document that grows by them is a bomb.
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn streams_and_json_are_read() {
        assert_eq!(documents("a: 1\n---\n{\"b\": [\"x\"]}\n").unwrap(), [json!({"a": 1}), json!({"b": ["x"]})]);
        assert!(document("a: [1").is_err());
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            let line = format!("a{level}: &a{level} [{before}]\n");
            bomb.push_str(&line);
        }
        assert!(document(&bomb).is_err());
    }

    #[test]
    fn a_long_text_is_not_repeated_without_end() {
        let line = |anchor: usize| format!("- &a{anchor} {}\n", "x".repeat(100_000));
        let few = format!("{}- [{}]\n", line(0), "*a0, ".repeat(20));
        assert_eq!(document(&few).unwrap()[1].as_array().map(Vec::len), Some(20));
        let many = format!("{}- [{}]\n", line(0), "*a0, ".repeat(90));
        assert!(document(&many).is_err());
    }

    #[test]
    fn deep_nesting_is_refused() {
        for (open, close) in [("[", "]"), ("- ", ""), ("{a: 1, m: {n: 1}, b: ", "}")] {
            let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert!(document(&nested(67)).is_ok());
            for depth in [MAX_DEPTH + 1, 200, 50_000] {
                assert!(document(&nested(depth)).is_err(), "{open} {depth} times");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let value =
            json!({"on": "yes", "n": "1", "list": [{"a": null}], "text": "two\nlines", "empty": {}, "true": "true"});
        assert_eq!(document(&to_string(&value).unwrap()).unwrap(), value);
    }
}
