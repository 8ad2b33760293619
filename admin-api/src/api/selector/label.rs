//! Label selectors: `a=b`, `a!=b`, `a in (x,y)`, `a notin (x)`, `a`, `!a`, joined by commas.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::MAX_LENGTH;
use crate::api::error::ApiError;

/// All requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Exists,
    Missing,
    In(BTreeSet<String>),
    /// Also holds for objects without the label.
    NotIn(BTreeSet<String>),
}

impl LabelSelector {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let refuse = |why: String| ApiError::bad_request(format!("unable to parse requirement: {why}"));
        if text.len() > MAX_LENGTH {
            return Err(refuse(format!("a label selector has at most {MAX_LENGTH} bytes")));
        }
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            requirements.push(Requirement::parse(part).map_err(refuse)?);
        }
        Ok(Self(requirements))
    }

    /// Holds the selector against `metadata.labels` of an object.
    pub(crate) fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.and_then(|l| l.get(&requirement.key)).and_then(Value::as_str);
            match &requirement.operator {
                Operator::Exists => value.is_some(),
                Operator::Missing => value.is_none(),
                Operator::In(values) => value.is_some_and(|v| values.contains(v)),
                Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            }
        })
    }
}

impl Requirement {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(key) = text.strip_prefix('!') {
            return Ok(Self { key: key_of(key)?, operator: Operator::Missing });
        }
        if let Some((key, value)) = text.split_once("!=") {
            return Ok(Self { key: key_of(key)?, operator: Operator::NotIn(BTreeSet::from([value_of(value)?])) });
        }
        if let Some((key, value)) = text.split_once('=') {
            let value = value.strip_prefix('=').unwrap_or(value);
            return Ok(Self { key: key_of(key)?, operator: Operator::In(BTreeSet::from([value_of(value)?])) });
        }
        let Some((head, set)) = text.split_once('(') else {
            return Ok(Self { key: key_of(text)?, operator: Operator::Exists });
        };
        let set = set.strip_suffix(')').ok_or_else(|| format!("{text:?} has no closing parenthesis"))?;
        let values = set.split(',').map(value_of).collect::<Result<BTreeSet<_>, _>>()?;
        let mut words = head.split_whitespace();
        let (key, word, rest) = (words.next().unwrap_or_default(), words.next(), words.next());
        let operator = match (word, rest) {
            (Some("in"), None) => Operator::In(values),
            (Some("notin"), None) => Operator::NotIn(values),
            _ => return Err(format!("{text:?}: expected `in` or `notin` between the label and its values")),
        };
        Ok(Self { key: key_of(key)?, operator })
    }
}

/// Commas inside parentheses do not separate requirements.
fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

fn key_of(text: &str) -> Result<String, String> {
    let key = text.trim();
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let fine = is_label_text(name)
        && !name.is_empty()
        && prefix.is_none_or(|p| {
            !p.is_empty()
                && p.len() <= 253
                && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
        });
    if fine { Ok(key.to_owned()) } else { Err(format!("{key:?} is not a label key")) }
}

fn value_of(text: &str) -> Result<String, String> {
    let value = text.trim();
    if is_label_text(value) { Ok(value.to_owned()) } else { Err(format!("{value:?} is not a label value")) }
}

/// At most 63 letters, digits, `-`, `_`, `.`, with a letter or digit at both ends; or nothing.
fn is_label_text(text: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn matches_as_kubernetes_does() {
        let labels = json!({"app": "web", "tier": "front", "empty": "", "example.com/x": "1"});
        for (selector, matches) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app=api", false),
            ("app!=api", true),
            ("other!=api", true),
            ("app!=web", false),
            ("app in (web,api)", true),
            ("app in (api, web ),tier=front", true),
            ("app notin (api)", true),
            ("app notin (web)", false),
            ("other notin (web)", true),
            ("app", true),
            ("other", false),
            ("!other", true),
            ("!app", false),
            ("empty=", true),
            ("empty", true),
            ("example.com/x=1", true),
            ("app=web,tier=back", false),
            (" app = web , tier ", true),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
            assert_eq!(parsed.matches(labels.as_object()), matches, "{selector}");
        }
        assert!(!LabelSelector::parse("app").unwrap().matches(None));
        assert!(LabelSelector::parse("!app").unwrap().matches(None));
    }

    #[test]
    fn refuses_what_is_no_selector() {
        for bad in ["=x", "a=b=c", "a in (x", "a within (x)", "a b", "-a", "a=-", "a in x (y)", "!", "A/b=c", "a=b c"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }
}
