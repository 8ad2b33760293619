//! Sets of field paths, and their `FieldsV1` form in `metadata.managedFields`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathElement {
    /// A field of an object: `f:name`.
    Field(String),
    /// The item of a keyed list with these values of its key fields, as compact JSON: `k:{"name":"http"}`.
    Key(String),
    /// The item of a set with this value, as compact JSON: `v:"x"`.
    Value(String),
    /// The item at a position: `i:3`. Read from clients, never written.
    Index(u64),
}

/// A set of paths as a tree. A node may be a member itself and have members below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    member: bool,
    children: BTreeMap<PathElement, FieldSet>,
}

/// Deepest tree that is read from a client.
const MAX_DEPTH: usize = 64;

impl PathElement {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            // Parsed and written again, so that the order of its fields does not matter.
            "k" => serde_json::from_str::<BTreeMap<String, Value>>(rest).ok().map(|key| Self::Key(compact(&key))),
            "v" => serde_json::from_str::<Value>(rest).ok().map(|value| Self::Value(value.to_string())),
            "i" => rest.parse().ok().map(Self::Index),
            _ => None,
        }
    }

    /// The step to an item of a keyed list; none if it lacks a key field.
    pub(super) fn of_item(item: &Value, keys: &[&str]) -> Option<Self> {
        let fields: Option<BTreeMap<&str, &Value>> = keys.iter().map(|key| Some((*key, item.get(key)?))).collect();
        fields.map(|fields| Self::Key(compact(&fields)))
    }
}

fn compact(key: &impl serde::Serialize) -> String {
    serde_json::to_string(key).unwrap_or_default()
}

impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, "f:{name}"),
            Self::Key(key) => write!(f, "k:{key}"),
            Self::Value(value) => write!(f, "v:{value}"),
            Self::Index(index) => write!(f, "i:{index}"),
        }
    }
}

impl FieldSet {
    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// The part of the set below one step.
    pub(crate) fn child(&self, step: &PathElement) -> Option<&Self> {
        self.children.get(step)
    }

    pub(crate) fn is_member(&self) -> bool {
        self.member
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = (&PathElement, &Self)> {
        self.children.iter()
    }

    #[cfg(test)]
    fn contains(&self, path: &[PathElement]) -> bool {
        path.iter().try_fold(self, |at, step| at.children.get(step)).is_some_and(|node| node.member)
    }

    pub(crate) fn insert(&mut self, path: &[PathElement]) {
        let mut at = self;
        for step in path {
            at = at.children.entry(step.clone()).or_default();
        }
        at.member = true;
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut result = self.clone();
        result.member |= other.member;
        for (step, theirs) in &other.children {
            let merged = result.children.get(step).map_or_else(|| theirs.clone(), |ours| ours.union(theirs));
            result.children.insert(step.clone(), merged);
        }
        result
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        self.combine(other, |ours, theirs| ours && !theirs, true)
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |ours, theirs| ours && theirs, false)
    }

    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool, keep_alone: bool) -> Self {
        let children = self.children.iter().filter_map(|(step, ours)| {
            let node = match other.children.get(step) {
                Some(theirs) => ours.combine(theirs, keep, keep_alone),
                None if keep_alone => ours.clone(),
                None => return None,
            };
            (!node.is_empty()).then(|| (step.clone(), node))
        });
        Self { member: keep(self.member, other.member), children: children.collect() }
    }

    /// Drops a subtree.
    pub(crate) fn remove(&mut self, path: &[PathElement]) {
        match path {
            [] => *self = Self::default(),
            [step] => drop(self.children.remove(step)),
            [step, rest @ ..] => {
                if let Some(child) = self.children.get_mut(step) {
                    child.remove(rest);
                    if child.is_empty() {
                        self.children.remove(step);
                    }
                }
            }
        }
    }

    /// All member paths, in order.
    pub(crate) fn paths(&self) -> Vec<Vec<PathElement>> {
        fn walk(node: &FieldSet, at: &mut Vec<PathElement>, out: &mut Vec<Vec<PathElement>>) {
            if node.member {
                out.push(at.clone());
            }
            for (step, child) in &node.children {
                at.push(step.clone());
                walk(child, at, out);
                at.pop();
            }
        }
        let mut out = Vec::new();
        walk(self, &mut Vec::new(), &mut out);
        out
    }

    /// Reads `fieldsV1`; none if it is not a tree of known steps.
    pub(crate) fn from_fields_v1(value: &Value) -> Option<Self> {
        fn read(value: &Value, depth: usize) -> Option<FieldSet> {
            let fields = value.as_object().filter(|_| depth < MAX_DEPTH)?;
            let mut node = FieldSet { member: fields.contains_key("."), children: BTreeMap::new() };
            for (step, below) in fields.iter().filter(|(step, _)| *step != ".") {
                let mut child = read(below, depth + 1)?;
                // An empty object is a member without anything below it.
                child.member |= child.children.is_empty();
                node.children.insert(PathElement::parse(step)?, child);
            }
            Some(node)
        }
        read(value, 0)
    }

    pub(crate) fn to_fields_v1(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (step, child) in &self.children {
            fields.insert(step.to_string(), child.to_fields_v1());
        }
        Value::Object(fields)
    }

    /// The set of an object's fields. `schema` is the OpenAPI schema of the whole object; without one, or where it
    /// says nothing, objects are walked and lists are atomic.
    pub(crate) fn of_object(object: &Value, schema: Option<&Value>) -> Self {
        let mut set = Self::default();
        let Some(fields) = object.as_object() else { return set };
        for (name, value) in fields {
            let below = Self::of_value(value, property(schema, name));
            set.children.insert(PathElement::Field(name.clone()), below);
        }
        set.remove(&path(&["apiVersion"]));
        set.remove(&path(&["kind"]));
        set.remove(&path(&["status"]));
        for field in SERVER_FIELDS {
            set.remove(&path(&["metadata", field]));
        }
        set
    }

    fn of_value(value: &Value, schema: Option<&Value>) -> Self {
        let mut node = Self::default();
        match (value, ListType::of(schema)) {
            (Value::Object(fields), _) => {
                for (name, value) in fields {
                    let below = Self::of_value(value, property(schema, name));
                    node.children.insert(PathElement::Field(name.clone()), below);
                }
                node.member = fields.is_empty();
            }
            (Value::Array(items), ListType::Map(keys)) => {
                for item in items {
                    let Some(step) = PathElement::of_item(item, &keys) else {
                        return Self { member: true, children: BTreeMap::new() };
                    };
                    let mut below = Self::of_value(item, schema.and_then(|s| s.get("items")));
                    below.member = true;
                    node.children.insert(step, below);
                }
                node.member = items.is_empty();
            }
            (Value::Array(items), ListType::Set) => {
                for item in items {
                    let below = Self { member: true, children: BTreeMap::new() };
                    node.children.insert(PathElement::Value(item.to_string()), below);
                }
                node.member = items.is_empty();
            }
            _ => node.member = true,
        }
        node
    }
}

/// Fields of `metadata` that belong to the server or name the object, so nobody owns them.
const SERVER_FIELDS: [&str; 10] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

/// A path of plain fields.
pub(super) fn path(fields: &[&str]) -> Vec<PathElement> {
    fields.iter().map(|f| PathElement::Field((*f).to_owned())).collect()
}

/// What the schema says about a field of an object.
pub(super) fn property<'a>(schema: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    let schema = schema?;
    schema.get("properties").and_then(|p| p.get(name)).or_else(|| schema.get("additionalProperties"))
}

/// How the items of a list are told apart.
pub(super) enum ListType<'a> {
    Atomic,
    Map(Vec<&'a str>),
    Set,
}

impl<'a> ListType<'a> {
    pub(super) fn of(schema: Option<&'a Value>) -> Self {
        let Some(schema) = schema else { return Self::Atomic };
        match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => Self::Set,
            Some("map") => {
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                Self::Map(keys.into_iter().flatten().filter_map(Value::as_str).collect())
            }
            _ => Self::Atomic,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"properties": {"spec": {"properties": {
            "ports": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {}},
            "tags": {"x-kubernetes-list-type": "set"},
        }}}})
    }

    #[test]
    fn sets_of_objects_follow_the_schema() {
        let object = json!({
            "apiVersion": "v1", "kind": "X", "status": {"x": 1},
            "metadata": {"name": "a", "uid": "1", "labels": {"app": "web"}},
            "spec": {"hosts": ["a", "b"], "ports": [{"name": "http", "number": 80}], "tags": ["x"], "empty": {}},
        });
        let set = FieldSet::of_object(&object, Some(&schema()));
        let v1 = json!({
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {
                "f:empty": {},
                "f:hosts": {},
                "f:ports": {"k:{\"name\":\"http\"}": {".": {}, "f:name": {}, "f:number": {}}},
                "f:tags": {"v:\"x\"": {}},
            },
        });
        assert_eq!(set.to_fields_v1(), v1);
        assert_eq!(FieldSet::from_fields_v1(&v1), Some(set));
    }

    #[test]
    fn refuses_trees_that_are_none() {
        for bad in [json!([]), json!({"x:y": {}}), json!({"f:a": 1}), json!({"k:{": {}})] {
            assert_eq!(FieldSet::from_fields_v1(&bad), None, "{bad}");
        }
    }

    fn sets() -> impl Strategy<Value = FieldSet> {
        prop::collection::vec(prop::collection::vec("[a-c]", 1..4), 0..8).prop_map(|paths| {
            let mut set = FieldSet::default();
            for path in paths {
                set.insert(&path.into_iter().map(PathElement::Field).collect::<Vec<_>>());
            }
            set
        })
    }

    proptest! {
        #[test]
        fn set_operations_agree_with_membership(a in sets(), b in sets()) {
            for path in a.paths().into_iter().chain(b.paths()) {
                let (in_a, in_b) = (a.contains(&path), b.contains(&path));
                prop_assert_eq!(a.union(&b).contains(&path), in_a || in_b);
                prop_assert_eq!(a.difference(&b).contains(&path), in_a && !in_b);
                prop_assert_eq!(a.intersection(&b).contains(&path), in_a && in_b);
            }
        }

        #[test]
        fn fields_v1_round_trips(set in sets()) {
            prop_assert_eq!(FieldSet::from_fields_v1(&set.to_fields_v1()), Some(set));
        }
    }
}
