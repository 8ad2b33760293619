//! From the parts of a delta to the next complete set.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use route_model::compile::Changed;
use route_model::meta::{ResourceKey, Revision};
use route_model::resource::Resource;
use thiserror::Error;

use super::Limits;
use super::held::Held;
use crate::digest::{SetDigest, Version};
use crate::message::{Delta, Issue, Key, Nack, Upsert};

/// What an upsert turned out to be.
pub(crate) enum Decoded {
    Resource(Arc<Resource>, Version),
    /// Of a kind that this build does not know.
    Unknown(Key, Version, Issue),
    Bad(Issue),
}

/// Decodes an upsert; one that `held` has in the same version already is shared instead.
pub(crate) fn decode(upsert: &Upsert, held: Option<&Held>) -> Decoded {
    let Some(key) = &upsert.key else {
        return Decoded::Bad(Issue::new(None, "Undecodable", "a resource without a key"));
    };
    let bad = |message: String| Decoded::Bad(Issue::new(Some(key.clone()), "Undecodable", message));
    let Some(version) = Version::from_bytes(&upsert.version) else {
        return bad("the resource's version is not 16 bytes long".to_owned());
    };
    let Some(resource_key) = key.resource_key() else {
        let message = format!("this proxy is older than the kind {} and leaves the resource out", key.kind);
        return Decoded::Unknown(key.clone(), version, Issue::new(Some(key.clone()), "UnknownKind", message));
    };
    if let Some(resource) = held.and_then(|held| held.unchanged(&resource_key, version)) {
        return Decoded::Resource(resource.clone(), version);
    }
    let object = match serde_json::from_slice(&upsert.body) {
        Ok(object) => object,
        Err(error) => return bad(format!("the resource's body is not JSON: {error}")),
    };
    match Resource::from_object(resource_key.kind, &object) {
        Ok(resource) if resource.key == resource_key => Decoded::Resource(Arc::new(resource), version),
        Ok(resource) => bad(format!("the resource's body is that of {}", resource.key)),
        Err(errors) => {
            let first = errors.first().map(ToString::to_string).unwrap_or_default();
            bad(format!("the resource's body cannot be read: {first}"))
        }
    }
}

/// A server that does not keep to the protocol. The connection ends, and the next one asks for everything.
#[derive(Debug, Error)]
pub(crate) enum ProtocolError {
    #[error("a delta for revision {base} came while revision {held} is held")]
    Base { base: u64, held: Revision },
    #[error("a part of delta {got} came in the middle of delta {expected}")]
    Interleaved { expected: u64, got: u64 },
    #[error("the set at revision {0} is not what the control plane meant: the digests differ")]
    Digest(u64),
}

/// A delta that is complete.
#[derive(Debug)]
pub(crate) enum Assembled {
    Next { changed: Changed },
    Refused(Nack),
}

/// Collects the parts of one delta.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    /// 0: no delta has begun.
    nonce: u64,
    resources: Vec<(Arc<Resource>, Version)>,
    unknown: Vec<(Key, Version, Issue)>,
    removed: Vec<Key>,
    bytes: usize,
    issues: Vec<Issue>,
}

impl Assembly {
    /// Takes the next part. With the last one, `held` becomes the new set, or stays as it is when the delta is
    /// refused.
    pub(crate) fn take(
        &mut self,
        part: Delta,
        held: &mut Arc<Held>,
        limits: Limits,
    ) -> Result<Option<Assembled>, ProtocolError> {
        if self.nonce == 0 {
            if part.base != 0 && part.base != held.revision().0 {
                return Err(ProtocolError::Base { base: part.base, held: held.revision() });
            }
            self.nonce = part.nonce;
        } else if self.nonce != part.nonce {
            return Err(ProtocolError::Interleaved { expected: self.nonce, got: part.nonce });
        }
        self.collect(&part, held, limits);
        if part.more {
            return Ok(None);
        }
        std::mem::take(self).finish(&part, held).map(Some)
    }

    fn collect(&mut self, part: &Delta, held: &Held, limits: Limits) {
        self.bytes += part.upserts.iter().map(|upsert| upsert.body.len()).sum::<usize>();
        let base = if part.base == 0 { 0 } else { held.len() };
        let count = base + self.resources.len() + self.unknown.len() + part.upserts.len();
        if self.bytes > limits.max_delta_bytes || count > limits.max_resources {
            if !self.issues.iter().any(|issue| issue.reason == "TooLarge") {
                let message = format!(
                    "the set is larger than this proxy takes: at most {} resources, at most {} bytes in one change",
                    limits.max_resources, limits.max_delta_bytes
                );
                self.issues.push(Issue::new(None, "TooLarge", message));
            }
            self.resources.clear();
            self.unknown.clear();
            return;
        }
        for upsert in &part.upserts {
            match decode(upsert, Some(held)) {
                Decoded::Resource(resource, version) => self.resources.push((resource, version)),
                Decoded::Unknown(key, version, issue) => self.unknown.push((key, version, issue)),
                Decoded::Bad(issue) => self.issues.push(issue),
            }
        }
        self.removed.extend_from_slice(&part.removed);
    }

    fn finish(self, last: &Delta, held: &mut Arc<Held>) -> Result<Assembled, ProtocolError> {
        if !self.issues.is_empty() {
            return Ok(Assembled::Refused(Nack::undecodable(last.revision, last.nonce, self.issues)));
        }
        let everything = last.base == 0 && held.len() == 0;
        let mut changed = BTreeSet::new();
        let mut next = Arc::unwrap_or_clone(std::mem::take(held));
        if last.base == 0 {
            let kept: HashSet<&ResourceKey> = self.resources.iter().map(|(resource, _)| &resource.key).collect();
            let gone: Vec<_> = next.keys().filter(|key| !kept.contains(key)).map(Key::from).collect();
            changed.extend(gone.iter().filter_map(|key| next.remove(key)));
            next.clear_skipped();
        }
        for key in &self.removed {
            changed.extend(next.remove(key));
        }
        for (resource, version) in self.resources {
            if next.unchanged(&resource.key, version).is_none() {
                changed.insert(resource.key.clone());
                next.insert(resource, version);
            }
        }
        for (key, version, issue) in self.unknown {
            next.insert_skipped(key, version, issue);
        }
        next.arrived(&last.scope, Revision(last.revision));
        if SetDigest::from_bytes(&last.digest) != Some(next.digest()) {
            // `held` is empty now, so the next complete set counts as entirely new.
            return Err(ProtocolError::Digest(last.revision));
        }
        *held = Arc::new(next);
        let changed = if everything { Changed::Everything } else { Changed::Keys(changed.into_iter().collect()) };
        Ok(Assembled::Next { changed })
    }
}
