//! What Fairway does with each field: since when it works, that it does not yet, or that it never will and why.
//!
//! One table for all kinds. Validation warns about every field that is written and does nothing, and `docs/fields.md`
//! is made from it.

mod docs;
mod table;

use crate::kind::Kind;

pub use docs::markdown;

/// What Fairway does with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Works since this version.
    Since(&'static str),
    /// Accepted and stored; nothing acts on it so far.
    NotYet,
    /// Works at sidecars since this version. A gateway does not act on it, for this reason, which its findings tell where
    /// it matters.
    Sidecars(&'static str, &'static str),
    /// Accepted and stored; nothing will ever act on it, for this reason.
    Never(&'static str),
}

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `spec.http[].fault`, with `[]` for the items of a list and `.*` for the values of a map. The entry also holds
    /// for what lies below, where no other entry is closer. `path=VALUE` speaks of one value of a field.
    pub path: &'static str,
    pub state: State,
}

impl Entry {
    pub(crate) fn covers_field(&self, path: &str) -> bool {
        self.path == path
    }

    /// The value that this entry speaks of, if it speaks of one of this field.
    pub(crate) fn value_of(&self, path: &str) -> Option<&'static str> {
        self.path.strip_prefix(path)?.strip_prefix('=')
    }
}

/// The table of a kind.
pub fn entries(kind: Kind) -> &'static [Entry] {
    table::of(kind)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::schema::node::{Node, Shape};

    /// Collects every field path, with the state that holds for it.
    fn walk(node: &Node, path: &str, state: Option<State>, found: &mut Vec<(String, Option<State>, bool)>) {
        let state = node.state.or(state);
        let leaf = match &node.shape {
            Shape::Object { properties, additional, .. } => {
                for (name, property) in properties {
                    let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
                    walk(property, &path, state, found);
                }
                if let Some(additional) = additional {
                    walk(additional, &format!("{path}.*"), state, found);
                }
                properties.is_empty() && additional.is_none()
            }
            Shape::Array { items, .. } => {
                walk(items, &format!("{path}[]"), state, found);
                false
            }
            _ => true,
        };
        found.push((path.to_owned(), state, leaf));
    }

    fn fields(kind: Kind) -> Vec<(String, Option<State>, bool)> {
        let mut found = Vec::new();
        walk(kind.node(), "", None, &mut found);
        let common = |path: &str| {
            path.is_empty()
                || ["apiVersion", "kind", "metadata", "status"].contains(&path.split(['.', '[']).next().unwrap())
        };
        found.retain(|(path, ..)| !common(path));
        found
    }

    #[test]
    fn every_field_of_every_kind_is_in_the_table() {
        for kind in Kind::ALL {
            let missing: Vec<String> = fields(kind)
                .into_iter()
                .filter(|(_, state, leaf)| *leaf && state.is_none())
                .map(|(path, ..)| path)
                .collect();
            assert!(missing.is_empty(), "{kind:?}: {missing:#?}");
        }
    }

    #[test]
    fn the_table_speaks_of_fields_that_exist_and_of_each_once() {
        for kind in Kind::ALL {
            let known: BTreeSet<String> = fields(kind).into_iter().map(|(path, ..)| path).collect();
            let mut seen = BTreeSet::new();
            for entry in entries(kind) {
                let path = entry.path.split('=').next().unwrap();
                assert!(known.contains(path), "{kind:?}: {} is no field", entry.path);
                assert!(seen.insert(entry.path), "{kind:?}: {} stands twice", entry.path);
            }
        }
    }

    #[test]
    fn nothing_of_what_routes_requests_is_still_to_come() {
        for kind in [
            Kind::Gateway,
            Kind::VirtualService,
            Kind::DestinationRule,
            Kind::ServiceEntry,
            Kind::WorkloadEntry,
            Kind::Sidecar,
            Kind::PeerAuthentication,
        ] {
            let missing: Vec<_> = entries(kind).iter().filter(|entry| matches!(entry.state, State::NotYet)).collect();
            assert!(missing.is_empty(), "{kind:?}: {missing:?}");
        }
    }

    #[test]
    fn the_documentation_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/fields.md");
        let text = markdown();
        if std::env::var_os("UPDATE").is_some_and(|update| update == "1") {
            std::fs::write(path, &text).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == text, "docs/fields.md is out of date; run this test with UPDATE=1 to write it anew");
    }
}
