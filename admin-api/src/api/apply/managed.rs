//! `metadata.managedFields`: which manager owns which fields, and how each kind of write changes that.

use serde_json::{Map, Value, json};

use super::field_set::{FieldSet, ListType, PathElement, path, property};

/// Most entries by plain updates; the oldest are merged beyond that, as in Kubernetes.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that owns what the merged entries owned.
const ANCIENT: &str = "ancient-changes";
/// Most entries that are accepted from a client.
const MAX_ENTRIES: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Apply,
    Update,
}

/// Who writes, and by which version of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) name: String,
    pub(crate) operation: Operation,
    /// `networking.istio.io/v1`
    pub(crate) api_version: String,
    /// `status` for writes to that subresource, else empty.
    pub(crate) subresource: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(crate) manager: Manager,
    /// RFC 3339, or empty if the client that wrote the entry gave none.
    pub(crate) time: String,
    pub(crate) fields: FieldSet,
}

/// All entries of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ManagedFields {
    pub(super) entries: Vec<Entry>,
}

impl ManagedFields {
    /// Reads the entries of an object. `[]`, `[{}]` and absence all mean that nobody owns anything.
    pub(crate) fn of(object: &Value) -> Result<Self, String> {
        let list = match object.get("metadata").and_then(|m| m.get("managedFields")) {
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(Value::Array(list)) if list.len() <= MAX_ENTRIES => list,
            Some(Value::Array(_)) => return Err(format!("has more than {MAX_ENTRIES} entries")),
            Some(_) => return Err("must be a list".to_owned()),
        };
        let filled = list.iter().filter(|entry| entry.as_object().is_none_or(|fields| !fields.is_empty()));
        Ok(Self { entries: filled.map(Entry::parse).collect::<Result<_, _>>()? })
    }

    /// Writes the entries into an object's metadata; none at all remove the field.
    pub(crate) fn store(&self, object: &mut Value) {
        let Some(root) = object.as_object_mut() else { return };
        if self.entries.is_empty() && !root.contains_key("metadata") {
            return;
        }
        let metadata = root.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        let Some(metadata) = metadata.as_object_mut() else { return };
        if self.entries.is_empty() {
            metadata.shift_remove("managedFields");
        } else {
            let list = self.entries.iter().map(Entry::to_value).collect();
            metadata.insert("managedFields".to_owned(), Value::Array(list));
        }
    }

    pub(super) fn position(&self, manager: &Manager) -> Option<usize> {
        self.entries.iter().position(|entry| entry.manager.same_as(manager))
    }

    pub(super) fn others<'a>(&'a self, manager: &'a Manager) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| !entry.manager.same_as(manager))
    }

    /// What a plain write changed goes to its manager and is taken from the others; what it removed nobody owns.
    pub(crate) fn record_update(
        &mut self,
        manager: &Manager,
        before: &Value,
        after: &Value,
        schema: Option<&Value>,
        now: &str,
    ) {
        let changes = Changes::between(before, after, schema);
        let written = changes.added.union(&changes.modified);
        let gone = written.union(&changes.removed);
        if gone.is_empty() {
            return;
        }
        for entry in &mut self.entries {
            let taken = if entry.manager.same_as(manager) { &changes.removed } else { &gone };
            entry.fields = entry.fields.difference(taken);
        }
        if !written.is_empty() {
            match self.position(manager) {
                Some(at) => {
                    let entry = &mut self.entries[at];
                    entry.fields = entry.fields.union(&written);
                    now.clone_into(&mut entry.time);
                }
                None => {
                    self.entries.push(Entry { manager: manager.clone(), time: now.to_owned(), fields: written });
                }
            }
        }
        self.entries.retain(|entry| !entry.fields.is_empty());
        self.merge_oldest_updates();
    }

    fn merge_oldest_updates(&mut self) {
        let is_update = |entry: &Entry| entry.manager.operation == Operation::Update;
        while self.entries.iter().filter(|e| is_update(e)).count() > MAX_UPDATE_MANAGERS {
            let mut oldest: Vec<usize> = (0..self.entries.len()).filter(|&i| is_update(&self.entries[i])).collect();
            oldest.sort_by(|&a, &b| self.entries[a].time.cmp(&self.entries[b].time));
            let (keep, gone) = (oldest[0].min(oldest[1]), oldest[0].max(oldest[1]));
            let merged = self.entries.remove(gone);
            let entry = &mut self.entries[keep];
            entry.fields = entry.fields.union(&merged.fields);
            entry.time = merged.time.max(std::mem::take(&mut entry.time));
            ANCIENT.clone_into(&mut entry.manager.name);
        }
    }
}

impl Manager {
    /// The version of the API is no part of a plain update's identity here: all versions have the same fields.
    fn same_as(&self, other: &Self) -> bool {
        self.name == other.name && self.operation == other.operation && self.subresource == other.subresource
    }
}

impl Entry {
    fn parse(value: &Value) -> Result<Self, String> {
        let text = |name: &str| match value.get(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("{name} must be a string")),
        };
        let operation = match text("operation")?.as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            other => return Err(format!("operation must be Apply or Update, not {other:?}")),
        };
        let fields = value.get("fieldsV1").filter(|v| !v.is_null());
        let fields = fields.map_or(Some(FieldSet::default()), FieldSet::from_fields_v1);
        Ok(Self {
            manager: Manager {
                name: text("manager")?,
                operation,
                api_version: text("apiVersion")?,
                subresource: text("subresource")?,
            },
            time: text("time")?,
            fields: fields.ok_or("fieldsV1 is not a tree of fields")?,
        })
    }

    fn to_value(&self) -> Value {
        let mut entry = Map::new();
        let operation = match self.manager.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        entry.insert("manager".to_owned(), json!(self.manager.name));
        entry.insert("operation".to_owned(), json!(operation));
        entry.insert("apiVersion".to_owned(), json!(self.manager.api_version));
        if !self.time.is_empty() {
            entry.insert("time".to_owned(), json!(self.time));
        }
        entry.insert("fieldsType".to_owned(), json!("FieldsV1"));
        entry.insert("fieldsV1".to_owned(), self.fields.to_fields_v1());
        if !self.manager.subresource.is_empty() {
            entry.insert("subresource".to_owned(), json!(self.manager.subresource));
        }
        Value::Object(entry)
    }
}

/// The difference between two forms of an object, as sets of paths.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(crate) added: FieldSet,
    pub(crate) modified: FieldSet,
    pub(crate) removed: FieldSet,
}

impl Changes {
    pub(super) fn between(before: &Value, after: &Value, schema: Option<&Value>) -> Self {
        let (old, new) = (FieldSet::of_object(before, schema), FieldSet::of_object(after, schema));
        let mut modified = FieldSet::default();
        for leaf in old.intersection(&new).paths() {
            let values = (value_at(before, &leaf, schema), value_at(after, &leaf, schema));
            let below = |set: &FieldSet| leaf.iter().try_fold(set, |at, step| at.child(step)).cloned();
            let is_leaf = |set: &FieldSet| below(set).is_none_or(|node| node.children().next().is_none());
            if values.0 != values.1 && (is_leaf(&old) || is_leaf(&new)) {
                modified.insert(&leaf);
            }
        }
        Self { added: new.difference(&old), modified, removed: old.difference(&new) }
    }
}

/// The value that a path leads to.
pub(super) fn value_at<'a>(object: &'a Value, steps: &[PathElement], schema: Option<&Value>) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(object) };
    match step {
        PathElement::Field(name) => value_at(object.get(name)?, rest, property(schema, name)),
        PathElement::Key(_) => {
            let ListType::Map(keys) = ListType::of(schema) else { return None };
            let item = object.as_array()?.iter().find(|i| PathElement::of_item(i, &keys).as_ref() == Some(step))?;
            value_at(item, rest, schema.and_then(|s| s.get("items")))
        }
        PathElement::Value(value) => object.as_array()?.iter().find(|item| item.to_string() == *value),
        PathElement::Index(index) => value_at(object.get(usize::try_from(*index).ok()?)?, rest, None),
    }
}

/// The annotation in which kubectl keeps what it applied last.
pub(super) fn last_applied_path() -> Vec<PathElement> {
    path(&["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &str) -> Manager {
        Manager {
            name: name.into(),
            operation: Operation::Update,
            api_version: "networking.istio.io/v1".into(),
            subresource: String::new(),
        }
    }

    fn owned(object: &Value, name: &str) -> Value {
        let list = object["metadata"]["managedFields"].as_array().unwrap();
        list.iter().find(|e| e["manager"] == name).map_or(Value::Null, |e| e["fieldsV1"].clone())
    }

    #[test]
    fn a_write_takes_what_it_changes() {
        let mut object = json!({"metadata": {"name": "a"}, "spec": {"hosts": ["a"], "x": 1}});
        let mut managed = ManagedFields::default();
        managed.record_update(&manager("one"), &json!({}), &object, None, "2024-01-01T00:00:00Z");
        managed.store(&mut object);
        assert_eq!(owned(&object, "one"), json!({"f:spec": {"f:hosts": {}, "f:x": {}}}));

        let mut changed = object.clone();
        changed["spec"] = json!({"hosts": ["b"], "y": 2});
        managed.record_update(&manager("two"), &object, &changed, None, "2024-01-02T00:00:00Z");
        managed.store(&mut changed);
        assert_eq!(owned(&changed, "one"), Value::Null, "hosts went to two, x is gone");
        assert_eq!(owned(&changed, "two"), json!({"f:spec": {"f:hosts": {}, "f:y": {}}}));
        assert_eq!(ManagedFields::of(&changed), Ok(managed.clone()));

        let before = managed.clone();
        managed.record_update(&manager("three"), &changed, &changed, None, "2024-01-03T00:00:00Z");
        assert_eq!(managed, before, "a write that changes nothing owns nothing");
    }

    #[test]
    fn clients_may_clear_or_replace_entries() {
        for cleared in [json!([]), json!([{}]), Value::Null] {
            assert_eq!(
                ManagedFields::of(&json!({"metadata": {"managedFields": cleared}})),
                Ok(ManagedFields::default())
            );
        }
        for bad in
            [json!({}), json!([1]), json!([{"operation": "Delete"}]), json!([{"operation": "Apply", "fieldsV1": []}])]
        {
            assert!(ManagedFields::of(&json!({"metadata": {"managedFields": bad}})).is_err(), "{bad}");
        }
    }

    #[test]
    fn old_updates_are_merged() {
        let mut managed = ManagedFields::default();
        let mut object = json!({"spec": {}});
        for i in 0..15 {
            let before = object.clone();
            object["spec"][format!("f{i}")] = i.into();
            managed.record_update(
                &manager(&format!("m{i}")),
                &before,
                &object,
                None,
                &format!("2024-01-01T00:00:{i:02}Z"),
            );
        }
        assert_eq!(managed.entries.len(), MAX_UPDATE_MANAGERS);
        let ancient = managed.entries.iter().find(|e| e.manager.name == ANCIENT).unwrap();
        assert_eq!(ancient.fields.paths().len(), 6);
    }
}
