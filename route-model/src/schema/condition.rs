//! The `oneOf`, `anyOf`, `allOf` and `not` of a schema. In structural schemas they only ask which fields are there.

use serde_json::{Map, Value};

/// What has to be true of an object's fields.
#[derive(Debug)]
pub(crate) enum Condition {
    /// All of these fields are there.
    Has(Box<[Box<str>]>),
    Not(Box<Condition>),
    Any(Box<[Condition]>),
    All(Box<[Condition]>),
    /// Exactly one of the alternatives.
    One(Box<[Condition]>),
}

impl Condition {
    /// The conditions in a schema; `None` when there are none.
    pub(crate) fn parse(schema: &Value) -> Option<Self> {
        let mut all = Vec::new();
        for part in ["oneOf", "anyOf", "allOf"] {
            let Some(alternatives) = schema[part].as_array() else { continue };
            let alternatives: Box<[Self]> = alternatives.iter().map(Self::parse_nested).collect();
            all.push(match part {
                "oneOf" => Self::One(alternatives),
                "anyOf" => Self::Any(alternatives),
                _ => Self::All(alternatives),
            });
        }
        if schema["not"].is_object() {
            all.push(Self::Not(Box::new(Self::parse_nested(&schema["not"]))));
        }
        match all.len() {
            0 | 1 => all.pop(),
            _ => Some(Self::All(all.into())),
        }
    }

    fn parse_nested(schema: &Value) -> Self {
        let has = schema["required"]
            .as_array()
            .map(|fields| Self::Has(fields.iter().filter_map(Value::as_str).map(Into::into).collect()));
        match (has, Self::parse(schema)) {
            (Some(has), Some(more)) => Self::All(Box::new([has, more])),
            (Some(condition), None) | (None, Some(condition)) => condition,
            (None, None) => Self::All(Box::new([])),
        }
    }

    pub(crate) fn holds(&self, fields: &Map<String, Value>) -> bool {
        match self {
            Self::Has(names) => names.iter().all(|name| has(fields, name)),
            Self::Not(condition) => !condition.holds(fields),
            Self::Any(alternatives) => alternatives.iter().any(|condition| condition.holds(fields)),
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(fields)),
            Self::One(alternatives) => alternatives.iter().filter(|condition| condition.holds(fields)).count() == 1,
        }
    }

    /// What would be right, for people. The schemas have two forms: at most one of some fields, and exactly one.
    pub(crate) fn describe(&self, fields: &Map<String, Value>) -> String {
        let Some(alternatives) = self.broken_choice(fields) else {
            return "the combination of fields is not allowed".to_owned();
        };
        let optional = alternatives.iter().any(|condition| matches!(condition, Self::Not(_)));
        let names: Vec<&str> = alternatives.iter().flat_map(Self::names).collect();
        let (last, rest) = names.split_last().map_or(("", &[][..]), |(last, rest)| (*last, rest));
        let listed = if rest.is_empty() { last.to_owned() } else { format!("{} and {last}", rest.join(", ")) };
        format!("{} one of {listed} may be set", if optional { "only" } else { "exactly" })
    }

    fn broken_choice(&self, fields: &Map<String, Value>) -> Option<&[Self]> {
        match self {
            Self::One(alternatives) if !self.holds(fields) => Some(alternatives),
            Self::All(conditions) => conditions.iter().find_map(|condition| condition.broken_choice(fields)),
            _ => None,
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let names: &[Box<str>] = if let Self::Has(names) = self { names } else { &[] };
        names.iter().map(|name| &**name)
    }
}

/// A field counts as there unless it is `null`, which an apiserver drops.
pub(crate) fn has(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).is_some_and(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn at_most_one_and_exactly_one() {
        let at_most = json!({"oneOf": [
            {"not": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}}, {"required": ["a"]}, {"required": ["b"]}
        ]});
        let exactly = json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
        let cases = [
            (json!({}), true, false),
            (json!({"a": 1}), true, true),
            (json!({"a": null, "b": 1}), true, true),
            (json!({"a": 1, "b": 1}), false, false),
        ];
        let (at_most, exactly) = (Condition::parse(&at_most).unwrap(), Condition::parse(&exactly).unwrap());
        for (value, first, second) in cases {
            let fields = value.as_object().unwrap();
            assert_eq!((at_most.holds(fields), exactly.holds(fields)), (first, second), "{value}");
        }
        let both = json!({"a": 1, "b": 1});
        assert_eq!(at_most.describe(both.as_object().unwrap()), "only one of a and b may be set");
        assert_eq!(exactly.describe(both.as_object().unwrap()), "exactly one of a and b may be set");
    }
}
