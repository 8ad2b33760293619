//! What a resource's writer should know.

use serde::Serialize;

use crate::field::FieldPath;
use crate::meta::ResourceKey;

/// Something about a resource that its writer should know. Findings make warnings and conditions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub resource: ResourceKey,
    pub path: FieldPath,
    pub severity: Severity,
    /// CamelCase, fit for a condition's `reason`: `GatewayNotFound`, `SubsetNotFound`, `RuleShadowed` …
    pub reason: &'static str,
    /// What is the matter and what to do about it.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    /// Works, but probably not as meant.
    Warning,
    /// A reference leads nowhere: what depends on it answers 503, 404 or fails its handshake. `ResolvedRefs` is False.
    Unresolved,
    /// The resource or a part of it cannot be in force. `Accepted` is False.
    Rejected,
}
