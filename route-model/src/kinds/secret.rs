//! Core `v1` Secret. It has no spec: its fields stand beside the metadata.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::value::{Base64, Omit, StringMap, Written};

/// Certificates, keys and other things that are not shown.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    /// `kubernetes.io/tls`, `Opaque` … Empty: `Opaque`.
    #[serde(rename = "type", skip_serializing_if = "Omit::omit")]
    pub secret_type: Written<String>,
    /// Decoded from base64.
    #[serde(skip_serializing_if = "Omit::omit")]
    pub data: Written<BTreeMap<String, Base64>>,
    /// Written in the clear; merged over `data` when the secret is stored.
    #[serde(skip_serializing_if = "Omit::omit")]
    pub string_data: Written<StringMap>,
    /// A true value makes later changes of the data an error.
    #[serde(skip_serializing_if = "Omit::omit")]
    pub immutable: Written<bool>,
}

impl Secret {
    /// The value of a key, from `stringData` or `data`.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        let written = self.string_data.get().and_then(|data| data.get(key)).map(String::as_bytes);
        written.or_else(|| self.data.get().and_then(|data| data.get(key)).map(|value| &**value))
    }
}

/// Without the values: a secret ends up in no log and no dump.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.data.keys().chain(self.string_data.keys()).collect();
        f.debug_struct("Secret").field("type", &*self.secret_type).field("keys", &keys).finish_non_exhaustive()
    }
}
