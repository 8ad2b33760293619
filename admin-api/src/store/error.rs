//! What can go wrong with a store.

use route_model::meta::ResourceKey;

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object was written by somebody else in between.
    #[error("{key} is at resourceVersion {current}, not at {expected}")]
    Conflict { key: ResourceKey, expected: u64, current: u64 },

    #[error("{key} exists already")]
    AlreadyExists { key: ResourceKey },

    #[error("{key} does not exist")]
    NotFound { key: ResourceKey },

    #[error("a token with this id or hash exists already")]
    TokenExists,

    /// The database cannot hold this value, although it is well-formed (a NUL character in a string on Postgres).
    #[error("{key} cannot be stored: {reason}")]
    Invalid { key: ResourceKey, reason: String },

    /// The history that was asked for has been compacted.
    #[error("too old resource version: {asked} ({oldest})")]
    Expired {
        asked: u64,
        /// The smallest resourceVersion that can still be resumed from.
        oldest: u64,
    },

    /// The database cannot be reached, or cannot take the call now. Nothing was written, unless `reason` says that it
    /// is unknown. Trying again later is right.
    #[error("the database {location} is not available: {reason}")]
    Unavailable { location: String, reason: String },

    #[error("the disk of the database {location} is full: {reason}; free some space, nothing was lost")]
    Full { location: String, reason: String },

    #[error(
        "the database {location} has schema {found}, this build knows {known}: start a build at least as new as the \
         one that upgraded it, or restore a backup"
    )]
    SchemaTooNew { location: String, found: i64, known: i64 },

    #[error(
        "the database {location} is sealed under the master key with fingerprint {expected}, but the key given has \
         {given}: give the key it was made with by --master-key-file or FAIRWAY_MASTER_KEY"
    )]
    WrongMasterKey { location: String, expected: String, given: String },

    #[error("{0}")]
    MasterKey(#[from] super::seal::MasterKeyError),

    /// Sealed data does not open: it was altered, or moved from another row.
    #[error("the sealed data of {of} does not open: it was altered or belongs elsewhere")]
    Sealed { of: String },

    #[error("the file {path} is in use by another process; one file serves one process (use Postgres for several)")]
    InUse { path: String },

    /// The database answered what it should not have; a fault of ours or of whoever changed the schema.
    #[error("the database {location} failed to {action}: {reason}")]
    Database { location: String, action: &'static str, reason: String },
}

impl StoreError {
    /// Whether the same call may succeed later without a change to it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Full { .. })
    }
}
