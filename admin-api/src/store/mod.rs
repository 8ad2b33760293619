//! Where resources live: one narrow trait, and what its callers and backends share.
//!
//! Two numbers order everything. A **resourceVersion** belongs to one write of one object; a [`Revision`] groups the
//! writes of one transaction. Both are taken under a lock that is held to commit, so they become visible in order and
//! whoever reads "everything after n" misses nothing.
//!
//! Handlers do not read the database: they read the in-memory [`Snapshot`], which the store's tail feeds, and
//! write through [`Snapshot::commit`]. So reads go on while the database is away.
//!
//! [`Revision`]: route_model::meta::Revision

mod change;
mod database;
mod decide;
mod dialect;
mod error;
mod migrations;
mod object;
mod postgres;
mod proxies;
mod row;
mod rows;
pub mod seal;
mod snapshot;
mod sqlite;
mod tokens;
mod upkeep;
mod workloads;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use route_model::meta::{ResourceKey, Revision};

use self::rows::{ClockRow, HistoryRow, WorkloadRow};
use self::seal::MasterKey;

pub use self::change::{Change, ChangeSet, Committed, Op, Precondition, RevisionRecord, Tail, Write, Written};
pub use self::error::StoreError;
pub use self::object::StoredObject;
pub use self::postgres::{PostgresOptions, PostgresStore};
pub use self::proxies::ProxyState;
pub use self::snapshot::{Health, Quarantined, Snapshot, View, Watch};
pub use self::sqlite::{SqliteOptions, SqliteStore};
pub use self::tokens::{Token, TokenHash, TokenUse};
pub use self::upkeep::Upkeep;
pub use self::workloads::{RegisteredWorkload, Registration};

/// Which history is asked for; the newest comes first.
#[derive(Clone, Debug, Default)]
pub struct HistoryQuery {
    /// Of this object only.
    pub key: Option<ResourceKey>,
    /// Of this revision only.
    pub revision: Option<Revision>,
    /// Only writes with a smaller resourceVersion: where the page before ended.
    pub before: Option<u64>,
    /// At most so many writes.
    pub limit: u32,
}

/// How far a store has come. Two heads are equal when nothing that a [`Snapshot`] shows was written in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Made with the database. Another one means that the database was replaced under us.
    pub store_id: String,
    /// The newest write, of a resource or of a workload; 0 in an empty store.
    pub resource_version: u64,
    pub revision: Revision,
    /// Counts the writes to tokens.
    pub tokens: u64,
}

/// Everything a store holds live, read at one instant.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub head: Head,
    pub objects: Vec<StoredObject>,
    pub tokens: Vec<Token>,
    /// Those that are there.
    pub workloads: Vec<RegisteredWorkload>,
}

/// A database that keeps resources, their history, tokens, keys and what proxies acknowledged.
///
/// Every call may fail with [`StoreError::Unavailable`]; other errors are named at the call.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// How messages call this database: the file's path, or the server without the password.
    fn location(&self) -> &str;

    async fn head(&self) -> Result<Head, StoreError>;

    /// Everything that is live.
    async fn load(&self) -> Result<Loaded, StoreError>;

    /// Carries out all of the writes, as one revision, or none.
    ///
    /// The store assigns `uid`, `creationTimestamp`, `generation` and `resourceVersion`. A `Put` that changes nothing
    /// writes nothing; a change set of only such writes makes no revision.
    ///
    /// # Errors
    /// [`Conflict`](StoreError::Conflict), [`AlreadyExists`](StoreError::AlreadyExists) and
    /// [`NotFound`](StoreError::NotFound) name the first precondition that does not hold;
    /// [`Invalid`](StoreError::Invalid) what the database cannot hold; [`Full`](StoreError::Full) that its disk is.
    async fn commit(&self, changes: ChangeSet) -> Result<Committed, StoreError>;

    /// The writes after `after`, oldest first, whole revisions: at least `limit` of them if there are so many.
    ///
    /// # Errors
    /// [`Expired`](StoreError::Expired) when some of them were compacted.
    async fn tail(&self, after: u64, limit: u32) -> Result<Tail, StoreError>;

    /// Returns once something may have been written, and after `at_most` in any case. For one caller at a time.
    async fn changed(&self, at_most: Duration);

    /// The writes that match, newest first. What was compacted is missing.
    async fn history(&self, query: HistoryQuery) -> Result<Vec<Change>, StoreError>;

    /// Who wrote the revisions below `before` (or the newest ones), newest first.
    async fn revisions(&self, before: Option<Revision>, limit: u32) -> Result<Vec<RevisionRecord>, StoreError>;

    /// Forgets the history of what was written before `before`, except of the objects in `keep`. Answers the smallest
    /// resourceVersion that [`tail`](Self::tail) still resumes from.
    async fn compact(&self, before: Timestamp, keep: &[ResourceKey]) -> Result<u64, StoreError>;

    /// Takes the lease of this name unless another holds it. It ends when it is dropped, or with its holder.
    async fn lease(&self, name: &str) -> Result<Option<Lease>, StoreError>;

    /// A secret of the control plane itself (CA key, session key), opened.
    async fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Keeps `candidate` under `name` unless there is a value already; answers the value that is there now. So
    /// several replicas that start at once agree on one key.
    async fn secret_or(&self, name: &str, candidate: &[u8]) -> Result<Vec<u8>, StoreError>;

    /// Keeps `value` under `name`, in place of what was there.
    async fn put_secret(&self, name: &str, value: &[u8]) -> Result<(), StoreError>;

    /// # Errors
    /// [`TokenExists`](StoreError::TokenExists) when the id or the hash is taken.
    async fn put_token(&self, token: &Token) -> Result<(), StoreError>;

    /// Every token, expired ones too, by creation.
    async fn tokens(&self) -> Result<Vec<Token>, StoreError>;

    /// Counts one use of the token with this hash, if it exists, has not expired and has a use left. Two callers never
    /// both get the last use.
    async fn use_token(&self, hash: &TokenHash) -> Result<Option<Token>, StoreError>;

    /// Whether there was such a token.
    async fn delete_token(&self, id: &str) -> Result<bool, StoreError>;

    /// Writes what this replica knows of its proxies, in one transaction; `seen` becomes the database's now.
    async fn put_proxies(&self, replica: &str, states: &[ProxyState]) -> Result<(), StoreError>;

    /// Returns once another replica may have written what it knows of its proxies, and after `at_most` in any case. It is
    /// told while somebody else waits in [`changed`](Self::changed). For one caller at a time.
    async fn proxies_changed(&self, at_most: Duration);

    /// What all replicas know but this one, if given; one state a proxy: of the replica that saw it last. Those not seen
    /// for `stale_after` count as disconnected.
    async fn proxies(&self, stale_after: Duration, but: Option<&str>) -> Result<Vec<ProxyState>, StoreError>;

    /// Forgets the proxies that nobody has seen for so long.
    async fn forget_proxies(&self, unseen_for: Duration) -> Result<(), StoreError>;

    /// Registers workloads whose sidecars' streams this replica holds. One that is registered so already, here or at
    /// another replica, gets no new version.
    async fn put_workloads(&self, replica: &str, registrations: &[Registration]) -> Result<(), StoreError>;

    /// Removes workloads, of those that this replica still holds.
    async fn drop_workloads(&self, replica: &str, nodes: &[String]) -> Result<(), StoreError>;

    /// Removes the workloads of replicas other than this one that have confirmed no proxy for so long. Answers their
    /// nodes.
    async fn expire_workloads(&self, replica: &str, stale_after: Duration) -> Result<Vec<String>, StoreError>;

    /// Forgets that there were workloads which have been gone for so long: a tail from before says
    /// [`Expired`](StoreError::Expired).
    async fn forget_workloads(&self, gone_for: Duration) -> Result<(), StoreError>;

    /// Finishes what is under way and closes the connections.
    async fn close(&self);
}

/// The right to do what only one replica may do at a time. Dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    hold: Box<dyn LeaseHold>,
}

impl Lease {
    /// Whether the lease is still ours: with Postgres it is lost with the connection that took it. Ask before each step.
    pub async fn is_held(&mut self) -> bool {
        self.hold.is_held().await
    }
}

#[async_trait]
trait LeaseHold: fmt::Debug + Send {
    async fn is_held(&mut self) -> bool;
}

/// The last of the rows that followed `after`, and its revision.
fn end_of(rows: &[HistoryRow], after: u64, clock: &ClockRow) -> (i64, i64) {
    rows.last().map_or((after as i64, clock.revision), |row| (row.resource_version, row.revision))
}

/// Makes a tail of what followed `after` up to `end` (a resourceVersion and a revision), read together with the clock.
fn tail_of(
    after: u64,
    clock: &ClockRow,
    end: (i64, i64),
    rows: Vec<HistoryRow>,
    workloads: Vec<WorkloadRow>,
    master: &MasterKey,
) -> Result<Tail, StoreError> {
    let oldest = clock.compacted.max(clock.workloads) as u64;
    if after < oldest {
        return Err(StoreError::Expired { asked: after, oldest });
    }
    Ok(Tail {
        upto: end.0 as u64,
        revision: Revision(end.1 as u64),
        changes: rows.into_iter().filter_map(|row| row.read(master)).collect(),
        workloads: workloads.into_iter().filter_map(WorkloadRow::read).collect(),
    })
}

/// What a key of the control plane is sealed for.
fn key_owner(name: &str) -> String {
    format!("key {name}")
}

fn seal_key(master: &MasterKey, name: &str, value: &[u8]) -> Vec<u8> {
    master.seal(&key_owner(name), value)
}

fn open_key(master: &MasterKey, name: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
    let owner = key_owner(name);
    master.open(&owner, sealed).ok_or(StoreError::Sealed { of: owner })
}
