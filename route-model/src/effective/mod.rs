//! What is in force for a rule of a VirtualService: every value with the field that it was written in, and what it took
//! the place of.

mod layers;
mod text;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::compile::effective::effective;
pub(crate) use layers::{Fallback, Layer, settings};

/// A rule with what applies to the requests that it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveRule {
    /// `http[].name`; of a delegated rule both names joined. Empty if there is none.
    pub name: String,
    pub origin: Source,
    /// The Gateways that the VirtualService is bound to, as `namespace/name`.
    pub gateways: Vec<String>,
    /// What the rule itself says, or the rule that delegated to it.
    pub settings: Vec<Setting>,
    /// The policies that are asked about its requests, in that order.
    pub policies: Vec<AppliedPolicy>,
    pub destinations: Vec<EffectiveDestination>,
}

/// A destination of a rule with how requests are sent to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveDestination {
    /// Fully qualified.
    pub host: String,
    /// `None`: the listener's.
    pub port: Option<u16>,
    pub subset: Option<String>,
    /// Its share of the rule's requests.
    pub percent: f64,
    pub origin: Source,
    /// The DestinationRules in force, the oldest first.
    pub rules: Vec<String>,
    pub settings: Vec<Setting>,
}

/// A policy that applies to a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedPolicy {
    /// `RateLimitPolicy default/per-client`.
    pub resource: String,
    /// What it does, in words.
    pub does: Vec<String>,
}

/// A value that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The path of the field below its block: `timeout`, `connectionPool.tcp.maxConnections`.
    pub name: String,
    pub value: Value,
    /// Where it was written; `None`: nowhere, it is the default.
    pub from: Option<Source>,
    /// What was written elsewhere and is not in force because of it, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Overridden>,
}

/// A value that is not in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overridden {
    pub value: Value,
    pub from: Source,
}

/// A field of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `DestinationRule default/reviews`.
    pub resource: String,
    /// `spec.trafficPolicy.connectionPool.tcp.maxConnections`.
    pub field: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EffectiveError {
    #[error("there is no {0}")]
    NotFound(String),
    #[error("{virtual_service} has no rule `{rule}`; its rules are {known}")]
    NoSuchRule { virtual_service: String, rule: String, known: String },
}
