//! A delta as far as it is looked at here: resources stay as they came.

use bytes::Bytes;
use prost::Message;
use push::message::{Key, Upsert};

/// [`push::message::Delta`] with resources that are not decoded.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Delta {
    #[prost(uint64, tag = "1")]
    pub(crate) revision: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) nonce: u64,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub(crate) upserts: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(crate) removed: Vec<Bytes>,
    #[prost(bool, tag = "6")]
    pub(crate) more: bool,
    #[prost(string, tag = "7")]
    pub(crate) scope: String,
    #[prost(bytes = "bytes", tag = "8")]
    pub(crate) digest: Bytes,
}

/// Deltas with more resources are whole sets, of which the kinds do not matter.
const FEW: usize = 100;

impl Delta {
    pub(crate) fn bytes(&self) -> usize {
        self.upserts.iter().chain(&self.removed).map(Bytes::len).sum()
    }

    /// The kinds of its resources, if they are few.
    pub(crate) fn kinds(&self) -> Vec<String> {
        if self.upserts.len() + self.removed.len() > FEW {
            return Vec::new();
        }
        let changed = self.upserts.iter().filter_map(|upsert| Upsert::decode(upsert.clone()).ok()?.key);
        let removed = self.removed.iter().filter_map(|key| Key::decode(key.clone()).ok());
        changed.chain(removed).map(|key| key.kind).collect()
    }
}
