//! The messages of the push protocol, and their way to and from the model's types.
//!
//! ```proto
//! service Push { rpc Stream(stream FromProxy) returns (stream Delta); }   // package fairway.push.v1
//! ```
//! Field numbers are part of the protocol: never reuse one.

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use prost::{Message, Oneof};
use route_model::compile::{ProxyRole, ProxyScope};
use route_model::kind::Kind;
use route_model::meta::{ResourceKey, Revision};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;

use crate::MAX_ISSUES;
use crate::workload::{Ready, Workload};

/// The service account of a proxy that names none, as in Kubernetes.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// What a proxy sends.
#[derive(Clone, PartialEq, Message)]
pub struct FromProxy {
    #[prost(oneof = "ProxyMessage", tags = "1, 2, 3, 4, 5")]
    pub message: Option<ProxyMessage>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum ProxyMessage {
    /// Once, first.
    #[prost(message, boxed, tag = "1")]
    Hello(Box<Hello>),
    #[prost(message, tag = "2")]
    Ack(Ack),
    #[prost(message, tag = "3")]
    Nack(Nack),
    /// Whether the workload of [`Hello::workload`] can serve.
    #[prost(message, tag = "4")]
    Ready(Ready),
    /// How the proxy is doing; only to a control plane that [takes it](Delta::takes_reports).
    #[prost(message, tag = "5")]
    Report(Report),
}

/// Who the proxy is and what it still holds from an earlier connection.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// Unique among the proxies of a control plane. A second connection with the same node replaces the first.
    #[prost(string, tag = "1")]
    pub node: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(map = "string, string", tag = "3")]
    pub labels: HashMap<String, String>,
    /// [`role_name`] of the proxy's role.
    #[prost(string, tag = "4")]
    pub role: String,
    /// The proxy's version, for people.
    #[prost(string, tag = "5")]
    pub build: String,
    /// [`crate::MODEL_VERSION`] of the proxy's build.
    #[prost(uint32, tag = "6")]
    pub model_version: u32,
    #[prost(message, optional, tag = "7")]
    pub resume: Option<Resume>,
    /// The last acknowledgement that the proxy gave, so that a control plane that restarted knows it at once.
    #[prost(message, optional, tag = "8")]
    pub applied: Option<Ack>,
    /// The service account that the proxy runs as; empty means [`DEFAULT_SERVICE_ACCOUNT`].
    #[prost(string, tag = "9")]
    pub service_account: String,
    /// What a sidecar registers for as long as the stream lasts.
    #[prost(message, optional, tag = "10")]
    pub workload: Option<Workload>,
    /// Milliseconds for which the proxy has been running; 0: not said.
    #[prost(uint64, tag = "11")]
    pub uptime: u64,
}

/// How a proxy is doing, for people.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Report {
    /// Its clients' connections that are open.
    #[prost(uint64, tag = "1")]
    pub connections: u64,
}

/// The set that a proxy holds.
#[derive(Clone, PartialEq, Message)]
pub struct Resume {
    #[prost(string, tag = "1")]
    pub scope: String,
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// [`crate::digest::SetDigest`] of the set.
    #[prost(bytes = "bytes", tag = "3")]
    pub digest: Bytes,
}

/// "Every worker runs this revision, and every listener that can be bound accepts."
#[derive(Clone, PartialEq, Message)]
pub struct Ack {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// Of the delta that brought the revision; 0 when it came over an earlier connection.
    #[prost(uint64, tag = "2")]
    pub nonce: u64,
    /// What of the revision could not be put in force; the rest is.
    #[prost(message, repeated, tag = "3")]
    pub issues: Vec<Issue>,
}

/// "Nothing of this revision is in force." The proxy goes on serving the revision before.
#[derive(Clone, PartialEq, Message)]
pub struct Nack {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(uint64, tag = "2")]
    pub nonce: u64,
    /// Each names the resource to blame.
    #[prost(message, repeated, tag = "3")]
    pub issues: Vec<Issue>,
    /// The set could be decoded, and the next delta may build on it; it is only not in force.
    #[prost(bool, tag = "4")]
    pub held: bool,
}

/// Something that is wrong with one resource on one proxy.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Issue {
    #[prost(message, optional, tag = "1")]
    pub key: Option<Key>,
    /// CamelCase, fit for a condition's `reason`: `PortInUse`, `CertificateInvalid` …
    #[prost(string, tag = "2")]
    pub reason: String,
    #[prost(string, tag = "3")]
    pub message: String,
}

/// The wire form of a [`ResourceKey`]. The kind may be one that this build does not know.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Message)]
pub struct Key {
    /// As in a document's `kind`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Empty for cluster-scoped kinds.
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub name: String,
}

/// What leads from one revision of a scope to another, or a part of it.
#[derive(Clone, PartialEq, Message)]
pub struct Delta {
    /// The revision that the proxy is at when the last part is applied.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// The revision that the delta is to be applied to. 0: to nothing; what is not in the parts is gone.
    #[prost(uint64, tag = "2")]
    pub base: u64,
    /// Names this delta in its acknowledgement; the same in all parts. 0 in messages that are no delta: the first of a
    /// stream says that the proxy was taken in, and into which scope, and later ones that [`Trust`] changed.
    #[prost(uint64, tag = "3")]
    pub nonce: u64,
    #[prost(message, repeated, tag = "4")]
    pub upserts: Vec<Upsert>,
    #[prost(message, repeated, tag = "5")]
    pub removed: Vec<Key>,
    /// Further parts follow. Nothing is in force before the last one.
    #[prost(bool, tag = "6")]
    pub more: bool,
    /// What to quote in [`Resume::scope`].
    #[prost(string, tag = "7")]
    pub scope: String,
    /// In the last part: [`crate::digest::SetDigest`] of the set that results.
    #[prost(bytes = "bytes", tag = "8")]
    pub digest: Bytes,
    /// In messages that are no delta: what is trusted from here on.
    #[prost(message, optional, tag = "9")]
    pub trust: Option<Trust>,
    /// In messages that are no delta: a [`Report`] may be sent.
    #[prost(bool, tag = "10")]
    pub takes_reports: bool,
}

/// Whose certificates to accept. It comes with the first message of a stream, whole, and again whenever it changes; it
/// belongs to no revision: it is the same for all proxies, counts also where a revision was refused, and no rollback of
/// the configuration brings back what was denied.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Trust {
    /// In DER: the roots of the mesh. While one takes over from another there are both.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub roots: Vec<Bytes>,
    /// SPIFFE ids that are denied although their certificates are good, in their order.
    #[prost(string, repeated, tag = "2")]
    pub denied: Vec<String>,
    /// The trust domains that the roots vouch for: the mesh's own, and its aliases. Empty: the proxy's own.
    #[prost(string, repeated, tag = "3")]
    pub trust_domains: Vec<String>,
}

/// A resource that was added or changed.
#[derive(Clone, PartialEq, Message)]
pub struct Upsert {
    #[prost(message, optional, tag = "1")]
    pub key: Option<Key>,
    /// [`crate::digest::Version`] of the body.
    #[prost(bytes = "bytes", tag = "2")]
    pub version: Bytes,
    /// The object as JSON.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
}

/// A role as [`Hello::role`] names it.
pub fn role_name(role: ProxyRole) -> &'static str {
    match role {
        ProxyRole::Gateway => "gateway",
        ProxyRole::Sidecar => "sidecar",
    }
}

/// The role that [`Hello::role`] names; `None` when this build does not know it.
pub fn role_of_name(name: &str) -> Option<ProxyRole> {
    ProxyRole::ALL.into_iter().find(|role| role_name(*role) == name)
}

impl Hello {
    /// The service account that the proxy runs as, by default too.
    pub fn service_account(&self) -> &str {
        service_account_or_default(&self.service_account)
    }

    /// The proxy's scope; `None` when this build does not know its role.
    pub fn proxy_scope(&self) -> Option<ProxyScope> {
        let role = role_of_name(&self.role)?;
        let labels = self.labels.clone().into_iter().collect();
        Some(ProxyScope { role, namespace: self.namespace.as_str().into(), labels })
    }
}

/// What an empty name of a service account stands for.
pub fn service_account_or_default(name: &str) -> &str {
    if name.is_empty() { DEFAULT_SERVICE_ACCOUNT } else { name }
}

impl From<&ResourceKey> for Key {
    fn from(key: &ResourceKey) -> Self {
        Self { kind: key.kind.name().to_owned(), namespace: key.namespace.to_string(), name: key.name.to_string() }
    }
}

impl Key {
    /// `None` when the kind is unknown to this build.
    pub fn resource_key(&self) -> Option<ResourceKey> {
        let kind: &str = &self.kind;
        let kind = Kind::deserialize(IntoDeserializer::<ValueError>::into_deserializer(kind)).ok()?;
        Some(ResourceKey::new(kind, self.namespace.as_str(), self.name.as_str()))
    }
}

/// As [`ResourceKey`]'s: `VirtualService shop/reviews`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl Issue {
    pub fn new(key: Option<Key>, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key, reason: reason.into(), message: message.into() }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{key}: {} ({})", self.message, self.reason),
            None => write!(f, "{} ({})", self.message, self.reason),
        }
    }
}

impl Ack {
    pub fn new(revision: Revision, issues: Vec<Issue>) -> Self {
        Self { revision: revision.0, nonce: 0, issues: at_most_max(issues) }
    }
}

impl Nack {
    pub(crate) fn undecodable(revision: u64, nonce: u64, issues: Vec<Issue>) -> Self {
        Self { revision, nonce, issues: at_most_max(issues), held: false }
    }

    pub(crate) fn decoded(revision: Revision, issues: Vec<Issue>) -> Self {
        Self { revision: revision.0, nonce: 0, issues: at_most_max(issues), held: true }
    }
}

/// Cuts a list of issues to [`MAX_ISSUES`] and says so.
pub(crate) fn at_most_max(mut issues: Vec<Issue>) -> Vec<Issue> {
    if issues.len() > MAX_ISSUES {
        let beyond = issues.len() - (MAX_ISSUES - 1);
        issues.truncate(MAX_ISSUES - 1);
        issues.push(Issue::new(None, "TooManyIssues", format!("{beyond} further issues are not listed")));
    }
    issues
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_wire_and_unknown_kinds_are_told_apart() {
        let key = ResourceKey::new(Kind::VirtualService, "shop", "reviews");
        let wire = Key::decode(Key::from(&key).encode_to_vec().as_slice()).unwrap();
        assert_eq!(wire.resource_key(), Some(key));
        assert_eq!(wire.to_string(), "VirtualService shop/reviews");

        let newer = Key { kind: "TrafficWeaver".into(), ..wire };
        assert_eq!(newer.resource_key(), None);
    }

    #[test]
    fn roles_survive_the_wire_and_unknown_ones_are_told_apart() {
        for role in ProxyRole::ALL {
            assert_eq!(role_of_name(role_name(role)), Some(role));
        }
        assert_eq!(role_name(ProxyRole::Sidecar), "sidecar");
        assert_eq!(role_of_name("waypoint"), None);
    }

    #[test]
    fn a_flood_of_issues_is_cut_and_counted() {
        let issues = vec![Issue::new(None, "PortInUse", "taken"); MAX_ISSUES + 5];
        let cut = at_most_max(issues);
        assert_eq!(cut.len(), MAX_ISSUES);
        assert_eq!(cut[MAX_ISSUES - 1].message, "6 further issues are not listed");
    }
}
