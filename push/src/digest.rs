//! Fingerprints of resources and of whole sets.
//!
//! Revisions alone do not identify a set: a control plane may be reset, restored or newer than the one that made the
//! set. Digests do, so a proxy resumes only from what the control plane would have sent it.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};
use bytes::Bytes;

use crate::message::Key;

const LENGTH: usize = 16;

/// Fingerprint of one resource body: the first 16 bytes of its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version([u8; LENGTH]);

impl Version {
    pub fn of(body: &[u8]) -> Self {
        Self(first(digest(&SHA256, body).as_ref()))
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({:032x})", u128::from_be_bytes(self.0))
    }
}

/// Fingerprint of a set of (key, version) pairs, whatever their order. Adding and removing a pair costs the same
/// however large the set is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SetDigest(u128);

impl SetDigest {
    pub fn add(&mut self, key: &Key, version: Version) {
        self.0 = self.0.wrapping_add(pair(key, version));
    }

    pub fn remove(&mut self, key: &Key, version: Version) {
        self.0 = self.0.wrapping_sub(pair(key, version));
    }

    /// Of two sets that have no key in common, together.
    #[cfg(feature = "server")]
    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// Of what is left of a set without a part of it.
    #[cfg(feature = "server")]
    pub(crate) fn without(self, part: Self) -> Self {
        Self(self.0.wrapping_sub(part.0))
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u128::from_be_bytes(bytes)))
    }

    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }
}

impl fmt::Debug for SetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetDigest({:032x})", self.0)
    }
}

fn pair(key: &Key, version: Version) -> u128 {
    let mut context = Context::new(&SHA256);
    for part in [&key.kind, &key.namespace, &key.name] {
        // Names hold no NUL, so the parts cannot run into each other.
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    context.update(&version.0);
    u128::from_be_bytes(first(context.finish().as_ref()))
}

fn first(hash: &[u8]) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes.copy_from_slice(&hash[..LENGTH]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { kind: "Gateway".into(), namespace: "edge".into(), name: name.into() }
    }

    #[test]
    fn a_set_digest_depends_on_the_pairs_and_not_on_their_order() {
        let (one, two) = (Version::of(b"one"), Version::of(b"two"));
        let mut forward = SetDigest::default();
        forward.add(&key("a"), one);
        forward.add(&key("b"), two);
        let mut backward = SetDigest::default();
        backward.add(&key("b"), two);
        backward.add(&key("a"), one);
        assert_eq!(forward, backward);

        let mut swapped = SetDigest::default();
        swapped.add(&key("a"), two);
        swapped.add(&key("b"), one);
        assert_ne!(forward, swapped);

        forward.remove(&key("a"), one);
        forward.remove(&key("b"), two);
        assert_eq!(forward, SetDigest::default());
    }
}
