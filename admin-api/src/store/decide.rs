//! What a write comes to, given what is stored: the part of a commit that both backends share.

use std::sync::Arc;

use serde_json::Value;

use super::row::{Columns, Content};
use super::seal::MasterKey;
use super::{Op, Precondition, StoreError, StoredObject, Write, Written};

#[derive(Debug)]
pub(super) enum Decision {
    /// `uid` is empty where the writer gave none.
    Insert {
        columns: Columns,
        uid: String,
    },
    Update(Columns),
    Delete(StoredObject),
    /// The write would change nothing.
    Nothing(Written),
}

/// Holds the write against the stored object, which must have been read under the lock.
pub(super) fn decide(write: Write, stored: Option<StoredObject>, master: &MasterKey) -> Result<Decision, StoreError> {
    let Write { key, precondition, op } = write;
    match (precondition, &stored) {
        (Precondition::Absent, Some(_)) => return Err(StoreError::AlreadyExists { key }),
        (Precondition::Exists | Precondition::Version(_), None) => return Err(StoreError::NotFound { key }),
        (Precondition::Version(expected), Some(stored)) if stored.resource_version != expected => {
            return Err(StoreError::Conflict { key, expected, current: stored.resource_version });
        }
        _ => {}
    }
    Ok(match (op, stored) {
        (Op::Delete, None) => Decision::Nothing(Written { object: None, changed: false }),
        (Op::Delete, Some(stored)) => Decision::Delete(stored),
        (Op::Put(object), None) => {
            let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
            Decision::Insert { columns: Content::of(&object).into_columns(&key, master), uid }
        }
        (Op::Put(object), Some(stored)) => {
            let content = Content::of(&object);
            if stored.fault.is_none() && content == Content::of(&stored.object) {
                Decision::Nothing(Written { object: Some(Arc::new(stored)), changed: false })
            } else {
                Decision::Update(content.into_columns(&key, master))
            }
        }
    })
}
