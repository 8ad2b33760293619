//! Core `v1` Event. Nothing is routed by events, so they are kept as they came.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Every field but those that all objects have.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Event {
    pub fields: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        for common in ["apiVersion", "kind", "metadata"] {
            fields.shift_remove(common);
        }
        Ok(Self { fields })
    }
}
