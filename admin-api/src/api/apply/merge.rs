//! The merge of server-side apply.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::field_set::{FieldSet, ListType, PathElement, property};
use super::managed::{Changes, Entry, ManagedFields, Manager, last_applied_path};
use crate::api::error::{ApiError, Cause};

/// Applies `config` in the name of `manager` (an `Apply` one) to `live`, which is an empty object on creation.
///
/// Fields that another manager owns with another value are a conflict (409) unless `force` takes them. Fields that the
/// manager applied last time and now leaves out are removed unless somebody else owns them too. Applying the same again
/// gives the live object as it is. `now` is RFC 3339.
pub(crate) fn apply(
    live: &Value,
    config: &Value,
    manager: &Manager,
    schema: Option<&Value>,
    force: bool,
    now: &str,
) -> Result<Value, ApiError> {
    let mut config = config.clone();
    drop_nulls(&mut config);
    let mut managed = ManagedFields::of(live)
        .map_err(|why| ApiError::unprocessable(format!("metadata.managedFields of the stored object {why}")))?;
    let wanted = FieldSet::of_object(&config, schema);
    let mut merged = merge(live, &config, schema);

    let changes = Changes::between(live, &merged, schema);
    let written = changes.added.union(&changes.modified);
    let conflicts = conflicts(&managed, manager, &wanted.intersection(&written), live);
    if !conflicts.is_empty() {
        if !force {
            return Err(ApiError::apply_conflict(causes(&conflicts)));
        }
        for (entry, lost) in &conflicts {
            if let Some(at) = managed.position(&entry.manager) {
                managed.entries[at].fields = managed.entries[at].fields.difference(lost);
            }
        }
    }

    let own = managed.position(manager);
    let before = own.map(|at| managed.entries[at].fields.clone()).unwrap_or_default();
    let still_owned = managed.others(manager).fold(wanted.clone(), |all, entry| all.union(&entry.fields));
    prune(&mut merged, &before.difference(&wanted), &still_owned, schema);

    match own {
        _ if wanted.is_empty() => managed.entries.retain(|entry| entry.manager != *manager),
        Some(at) => {
            let entry = &mut managed.entries[at];
            if entry.fields != wanted || !same_but_managed(live, &merged) {
                now.clone_into(&mut entry.time);
            }
            entry.manager = manager.clone();
            entry.fields = wanted;
        }
        None => managed.entries.push(Entry { manager: manager.clone(), time: now.to_owned(), fields: wanted }),
    }
    managed.entries.retain(|entry| !entry.fields.is_empty());
    managed.store(&mut merged);
    Ok(merged)
}

fn same_but_managed(a: &Value, b: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        ManagedFields::default().store(&mut object);
        object
    };
    without(a) == without(b)
}

/// Null in a configuration means that its writer has no opinion.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The owners, other than `manager`, of fields that would change, each with those fields.
fn conflicts<'a>(
    managed: &'a ManagedFields,
    manager: &'a Manager,
    written: &FieldSet,
    live: &Value,
) -> Vec<(Entry, FieldSet)> {
    managed
        .others(manager)
        .filter_map(|entry| {
            let mut both = entry.fields.intersection(written);
            if manager.name == "kubectl" && entry.manager.name == "kubectl-client-side-apply" {
                both = both.difference(&last_applied_fields(live));
            }
            (!both.is_empty()).then(|| (entry.clone(), both))
        })
        .collect()
}

/// What kubectl itself applied from the client side: when the same person moves on to server-side apply, their own
/// earlier values do not stand in the way.
fn last_applied_fields(live: &Value) -> FieldSet {
    let annotation = super::managed::value_at(live, &last_applied_path(), None);
    let config: Option<Value> = annotation.and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    let Some(config) = config else { return FieldSet::default() };
    let mut fields = FieldSet::of_object(&config, None);
    fields.insert(&last_applied_path());
    // Only values that are still those of the live object are its own.
    let unchanged = |path: &Vec<PathElement>| {
        let (then, now) = (super::managed::value_at(&config, path, None), super::managed::value_at(live, path, None));
        *path == last_applied_path() || then == now
    };
    let mut own = FieldSet::default();
    fields.paths().iter().filter(|path| unchanged(path)).for_each(|path| own.insert(path));
    own
}

fn causes(conflicts: &[(Entry, FieldSet)]) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (entry, fields) in conflicts {
        let manager = &entry.manager;
        let mut message = format!("conflict with {:?}", manager.name);
        if !manager.subresource.is_empty() {
            _ = write!(message, " with subresource {:?}", manager.subresource);
        }
        _ = write!(message, " using {}", manager.api_version);
        for path in fields.paths() {
            let field = dotted(&path);
            causes.push(Cause { reason: "FieldManagerConflict".to_owned(), message: message.clone(), field });
        }
    }
    causes
}

/// `.spec.ports[name="http"].number`
fn dotted(path: &[PathElement]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            PathElement::Field(name) => _ = write!(text, ".{name}"),
            PathElement::Key(key) => {
                let fields: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
                _ = write!(text, "[{}]", pairs.join(","));
            }
            PathElement::Value(value) => _ = write!(text, "[={value}]"),
            PathElement::Index(index) => _ = write!(text, "[{index}]"),
        }
    }
    text
}

fn merge(live: &Value, config: &Value, schema: Option<&Value>) -> Value {
    match (live, config, ListType::of(schema)) {
        (Value::Object(ours), Value::Object(theirs), _) => {
            let mut merged = ours.clone();
            for (name, value) in theirs {
                let at = merged.entry(name.as_str()).or_insert(Value::Null);
                *at = merge(at, value, property(schema, name));
            }
            Value::Object(merged)
        }
        (Value::Array(ours), Value::Array(theirs), ListType::Map(keys)) => merge_items(
            ours,
            theirs,
            |item| PathElement::of_item(item, &keys),
            |a, b| merge(a, b, schema.and_then(|s| s.get("items"))),
        ),
        (Value::Array(ours), Value::Array(theirs), ListType::Set) => {
            merge_items(ours, theirs, |item| Some(PathElement::Value(item.to_string())), |_, b| b.clone())
        }
        _ => config.clone(),
    }
}

/// Items that only the live list has keep their places; the applied ones keep their order among each other.
fn merge_items(
    ours: &[Value],
    theirs: &[Value],
    key: impl Fn(&Value) -> Option<PathElement>,
    join: impl Fn(&Value, &Value) -> Value,
) -> Value {
    let find = |list: &[Value], wanted: &Value| {
        let wanted = key(wanted)?;
        list.iter().position(|item| key(item).as_ref() == Some(&wanted))
    };
    let mut applied = theirs.iter().map(|item| match find(ours, item) {
        Some(at) => join(&ours[at], item),
        None => item.clone(),
    });
    let mut merged = Vec::with_capacity(ours.len() + theirs.len());
    for item in ours {
        if find(theirs, item).is_some() {
            merged.extend(applied.next());
        } else {
            merged.push(item.clone());
        }
    }
    merged.extend(applied);
    Value::Array(merged)
}

/// Removes the fields of `gone` that are not in `owned`, and objects and lists which that empties.
fn prune(value: &mut Value, gone: &FieldSet, owned: &FieldSet, schema: Option<&Value>) {
    for (step, below) in gone.children() {
        let empty = FieldSet::default();
        let owned_below = owned.child(step).unwrap_or(&empty);
        let list_keys = ListType::of(schema);
        let (child, child_schema) = match (step, &mut *value) {
            (PathElement::Field(name), Value::Object(fields)) => (fields.get_mut(name), property(schema, name)),
            (PathElement::Key(_), Value::Array(items)) => {
                let ListType::Map(keys) = &list_keys else { continue };
                let item = items.iter_mut().find(|item| PathElement::of_item(item, keys).as_ref() == Some(step));
                (item, schema.and_then(|s| s.get("items")))
            }
            (PathElement::Value(wanted), Value::Array(items)) => {
                (items.iter_mut().find(|item| is_item(item, wanted)), None)
            }
            _ => continue,
        };
        let Some(child) = child else { continue };
        let drop_it = if !owned_below.is_empty() {
            prune(child, below, owned_below, child_schema);
            false
        } else if below.is_member() {
            true
        } else {
            prune(child, below, owned_below, child_schema);
            child.as_object().is_some_and(Map::is_empty) || child.as_array().is_some_and(Vec::is_empty)
        };
        if drop_it {
            match (step, &mut *value) {
                (PathElement::Field(name), Value::Object(fields)) => drop(fields.shift_remove(name)),
                (PathElement::Key(_), Value::Array(items)) => {
                    let ListType::Map(keys) = &list_keys else { continue };
                    items.retain(|item| PathElement::of_item(item, keys).as_ref() != Some(step));
                }
                (PathElement::Value(wanted), Value::Array(items)) => items.retain(|item| !is_item(item, wanted)),
                _ => {}
            }
        }
    }
}

/// Whether the item of a set is the one with this compact JSON.
fn is_item(item: &Value, json: &str) -> bool {
    let text = item.to_string();
    text == json
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::managed::Operation;
    use super::*;

    const NOW: &str = "2024-01-01T00:00:00Z";

    fn manager(name: &str) -> Manager {
        Manager {
            name: name.into(),
            operation: Operation::Apply,
            api_version: "networking.istio.io/v1".into(),
            subresource: String::new(),
        }
    }

    fn schema() -> Value {
        json!({"properties": {"spec": {"properties": {
            "ports": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                      "items": {"properties": {"name": {}, "number": {}}}},
        }}}})
    }

    fn run(live: &Value, name: &str, config: Value, force: bool) -> Result<Value, ApiError> {
        apply(live, &config, &manager(name), Some(&schema()), force, NOW)
    }

    #[test]
    fn a_second_manager_conflicts_unless_it_agrees_or_forces() {
        let live = run(&json!({"metadata": {"name": "a"}}), "ci", json!({"spec": {"hosts": ["a"], "x": 1}}), false);
        let live = live.unwrap();
        let refused = run(&live, "kubectl", json!({"spec": {"hosts": ["b"]}}), false).unwrap_err();
        assert_eq!(
            refused.message,
            r#"Apply failed with 1 conflict: conflict with "ci" using networking.istio.io/v1: .spec.hosts"#
        );
        let shared = run(&live, "kubectl", json!({"spec": {"hosts": ["a"]}}), false).unwrap();
        assert_eq!(ManagedFields::of(&shared).unwrap().entries.len(), 2);
        let forced = run(&live, "kubectl", json!({"spec": {"hosts": ["b"]}}), true).unwrap();
        assert_eq!(forced["spec"], json!({"hosts": ["b"], "x": 1}));
        let ci = &forced["metadata"]["managedFields"][0];
        assert_eq!((&ci["manager"], &ci["fieldsV1"]), (&json!("ci"), &json!({"f:spec": {"f:x": {}}})));
        // Taken over, so the first manager no longer removes it by leaving it out.
        let left_out = run(&forced, "ci", json!({"spec": {}}), false).unwrap();
        assert_eq!(left_out["spec"], json!({"hosts": ["b"]}));
    }

    #[test]
    fn what_is_left_out_goes_unless_another_owns_it() {
        let live = run(&json!({}), "a", json!({"metadata": {"labels": {"x": "1"}}, "spec": {"p": 1, "q": 2}}), false);
        let live = run(&live.unwrap(), "b", json!({"spec": {"q": 2}}), false).unwrap();
        let after = run(&live, "a", json!({"spec": {}}), false).unwrap();
        assert_eq!(after["spec"], json!({"q": 2}));
        assert_eq!(after["metadata"].get("labels"), None, "an object that the removal empties goes too");
    }

    #[test]
    fn applying_the_same_again_changes_nothing() {
        let config = json!({"spec": {"hosts": ["a"], "ports": [{"name": "http", "number": 80}]}});
        let live = run(&json!({"metadata": {}}), "a", config.clone(), false).unwrap();
        let again = apply(&live, &config, &manager("a"), Some(&schema()), false, "2025-01-01T00:00:00Z").unwrap();
        assert_eq!(again, live);
    }

    #[test]
    fn keyed_lists_merge_by_their_key() {
        let ports = |ports: Value| json!({"spec": {"ports": ports}});
        let live = run(&json!({}), "a", ports(json!([{"name": "http", "number": 80}])), false).unwrap();
        let both = run(&live, "b", ports(json!([{"name": "tls", "number": 443}])), false).unwrap();
        assert_eq!(both["spec"]["ports"], json!([{"name": "http", "number": 80}, {"name": "tls", "number": 443}]));
        let refused = run(&both, "b", ports(json!([{"name": "http", "number": 8080}])), false).unwrap_err();
        assert!(refused.message.ends_with(r#".spec.ports[name="http"].number"#), "{}", refused.message);
        let without = run(&both, "a", json!({"spec": {}}), false).unwrap();
        assert_eq!(without["spec"]["ports"], json!([{"name": "tls", "number": 443}]));
    }

    #[test]
    fn kubectl_may_move_from_client_side_to_server_side() {
        let applied = json!({"metadata": {"annotations": {}}, "spec": {"hosts": ["a"]}}).to_string();
        let mut live = json!({
            "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied}},
            "spec": {"hosts": ["a"]},
        });
        let client_side = Manager { operation: Operation::Update, ..manager("kubectl-client-side-apply") };
        let mut managed = ManagedFields::default();
        managed.record_update(&client_side, &json!({}), &live, None, NOW);
        managed.store(&mut live);
        let moved = run(&live, "kubectl", json!({"spec": {"hosts": ["b"]}}), false).unwrap();
        assert_eq!(moved["spec"]["hosts"], json!(["b"]));
        assert!(run(&live, "other", json!({"spec": {"hosts": ["b"]}}), false).is_err());
    }
}
