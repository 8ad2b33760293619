//! What a proxy holds: a complete set, and what identifies it towards the control plane.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use route_model::meta::{ResourceKey, Revision};
use route_model::resource::{Resource, ResourceSet};
use thiserror::Error;

use super::assembly::{Decoded, decode};
use crate::MODEL_VERSION;
use crate::digest::{SetDigest, Version};
use crate::message::{Issue, Key, Resume, Upsert};

/// A complete set of resources as the control plane sent it.
#[derive(Clone, Debug, Default)]
pub struct Held {
    set: ResourceSet,
    scope: String,
    versions: HashMap<ResourceKey, Version>,
    /// Resources that this build cannot read. They count for the digest.
    skipped: BTreeMap<Key, (Version, Issue)>,
    digest: SetDigest,
}

/// Why stored bytes are no set.
#[derive(Debug, Error)]
pub enum HeldError {
    #[error("the stored set cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("the stored set holds a resource that cannot be read: {0}")]
    Resource(Issue),
}

/// [`Held`] at rest.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(uint32, tag = "1")]
    model_version: u32,
    #[prost(message, optional, tag = "2")]
    resume: Option<Resume>,
    #[prost(message, repeated, tag = "3")]
    resources: Vec<Upsert>,
}

impl Held {
    pub fn set(&self) -> &ResourceSet {
        &self.set
    }

    /// Resources that the control plane sent and this build cannot read.
    pub fn skipped(&self) -> impl Iterator<Item = &Issue> {
        self.skipped.values().map(|(_, issue)| issue)
    }

    pub(crate) fn digest(&self) -> SetDigest {
        self.digest
    }

    pub(crate) fn revision(&self) -> Revision {
        self.set.revision
    }

    /// `None` when there is nothing to resume from.
    pub(crate) fn resume(&self) -> Option<Resume> {
        (!self.scope.is_empty()).then(|| Resume {
            scope: self.scope.clone(),
            revision: self.set.revision.0,
            digest: self.digest.to_bytes(),
        })
    }

    /// Forgets where the set came from: the control plane will send all of it again. What is unchanged is still
    /// recognised when it arrives.
    pub(crate) fn forget_origin(&mut self) {
        self.scope.clear();
    }

    pub(crate) fn arrived(&mut self, scope: &str, revision: Revision) {
        if self.scope != scope {
            scope.clone_into(&mut self.scope);
        }
        self.set.revision = revision;
    }

    /// The resource under `key`, if it is held in exactly this version.
    pub(crate) fn unchanged(&self, key: &ResourceKey, version: Version) -> Option<&Arc<Resource>> {
        if self.versions.get(key) == Some(&version) { self.set.get(key) } else { None }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &ResourceKey> {
        self.versions.keys()
    }

    pub(crate) fn len(&self) -> usize {
        self.versions.len() + self.skipped.len()
    }

    pub(crate) fn insert(&mut self, resource: Arc<Resource>, version: Version) {
        let key = resource.key.clone();
        let wire = Key::from(&key);
        if let Some(previous) = self.versions.insert(key, version) {
            self.digest.remove(&wire, previous);
        }
        self.digest.add(&wire, version);
        self.set.insert(resource);
    }

    pub(crate) fn insert_skipped(&mut self, key: Key, version: Version, issue: Issue) {
        self.digest.add(&key, version);
        if let Some((previous, _)) = self.skipped.insert(key.clone(), (version, issue)) {
            self.digest.remove(&key, previous);
        }
    }

    pub(crate) fn clear_skipped(&mut self) {
        for (key, (version, _)) in std::mem::take(&mut self.skipped) {
            self.digest.remove(&key, version);
        }
    }

    /// Answers with the key if the model knows it and it was there.
    pub(crate) fn remove(&mut self, wire: &Key) -> Option<ResourceKey> {
        if let Some((previous, _)) = self.skipped.remove(wire) {
            self.digest.remove(wire, previous);
        }
        let key = wire.resource_key()?;
        let previous = self.versions.remove(&key)?;
        self.digest.remove(wire, previous);
        self.set.remove(&key);
        Some(key)
    }

    /// The set as bytes that [`Held::from_bytes`] reads. They hold private keys.
    pub fn to_bytes(&self) -> Vec<u8> {
        let resources = self
            .set
            .iter()
            .filter_map(|resource| {
                let version = self.versions.get(&resource.key)?;
                let body = serde_json::to_vec(&resource.to_object()).ok()?;
                Some(Upsert {
                    key: Some(Key::from(&resource.key)),
                    version: version.to_bytes(),
                    body: Bytes::from(body),
                })
            })
            .collect();
        let resume = Resume {
            scope: self.scope.clone(),
            revision: self.set.revision.0,
            // What was skipped is not stored, so such a set is no base for a resume.
            digest: if self.skipped.is_empty() { self.digest.to_bytes() } else { Bytes::new() },
        };
        Stored { model_version: MODEL_VERSION, resume: Some(resume), resources }.encode_to_vec()
    }

    /// Reads what [`Held::to_bytes`] wrote. A set that another build wrote serves, but is fetched again.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HeldError> {
        let stored = Stored::decode(bytes)?;
        let resume = stored.resume.unwrap_or_default();
        let mut held = Self::default();
        for upsert in &stored.resources {
            match decode(upsert, None) {
                Decoded::Resource(resource, version) => held.insert(resource, version),
                Decoded::Unknown(key, version, issue) => held.insert_skipped(key, version, issue),
                Decoded::Bad(issue) => return Err(HeldError::Resource(issue)),
            }
        }
        held.arrived(&resume.scope, Revision(resume.revision));
        let complete = SetDigest::from_bytes(&resume.digest) == Some(held.digest);
        if stored.model_version != MODEL_VERSION || !complete {
            held.forget_origin();
        }
        Ok(held)
    }
}
