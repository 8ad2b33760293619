//! The statements that both databases understand in words of their own. What is done with them is in
//! [`database`](super::database); what is done in another way (the numbered writes, leases, waiting) is in each
//! backend.

use super::StoreError;
use super::migrations::Migration;

/// A database's statements. Each constant tells the values that it is given, in the order of their numbers; what rows
/// hold is in [`rows`](super::rows).
pub(super) trait Dialect: sqlx::Database {
    const MIGRATIONS: &'static [Migration];
    /// Begins a transaction that sees one state and writes nothing.
    const BEGIN_READ: &'static str;
    /// Begins a transaction that may write.
    const BEGIN_WRITE: &'static str;

    /// Makes those who upgrade the schema at once take turns, until the transaction ends.
    const LOCK_SCHEMA: Option<&'static str>;
    /// Makes the table of migrations unless it is there.
    const SCHEMA_TABLE: &'static str;
    /// version, name, additive
    const PUT_MIGRATION: &'static str;
    /// The fingerprint of a master key: keeps the first.
    const CLAIM_MASTER_KEY: &'static str;

    const OBJECTS: &'static str;
    /// A resourceVersion, how many writes less one: the writes after it, to the end of a revision.
    const TAIL: &'static str;
    /// All of the history; conditions are appended.
    const HISTORY: &'static str;
    /// The first revision that is not meant, how many
    const REVISIONS: &'static str;
    /// A time: moves the mark up to which the history is incomplete, and answers it.
    const COMPACT: &'static str;
    /// That mark, and a JSON list of the keys whose history stays
    const FORGET_HISTORY: &'static str;
    /// A time
    const FORGET_REVISIONS: &'static str;

    /// name
    const KEY: &'static str;
    /// name, sealed: unless there is one
    const ADD_KEY: &'static str;
    /// name, sealed: in place of what was there
    const PUT_KEY: &'static str;

    const TOKENS: &'static str;
    /// id, hash, purpose, name, scope, created_at, created_by, expires_at, uses_left: unless it is there
    const ADD_TOKEN: &'static str;
    /// hash: counts a use and answers the token, if it has one left
    const USE_TOKEN: &'static str;
    /// id
    const DELETE_TOKEN: &'static str;

    /// node, replica, connected, acked, sent, issues, info
    const PUT_PROXY: &'static str;
    /// Tells other replicas that proxies were written.
    const NOTIFY_PROXIES: Option<&'static str>;
    /// Seconds after which a proxy counts as disconnected; the rows of a proxy side by side, the better first
    const PROXIES: &'static str;
    /// Seconds
    const FORGET_PROXIES: &'static str;

    /// Makes this transaction the one that takes numbers, until it ends.
    const LOCK_CLOCK: Option<&'static str>;
    /// Tells other replicas that something was written that a snapshot shows.
    const NOTIFY: Option<&'static str>;
    /// Those that are there
    const WORKLOADS: &'static str;
    /// A version, a version: those written after the one, up to the other, gone or not
    const WORKLOADS_TAIL: &'static str;
    /// node
    const WORKLOAD: &'static str;
    /// node, namespace, service_account, spec, ready, replica, version
    const PUT_WORKLOAD: &'static str;
    /// node, replica: it is held there now, and nothing else changed
    const TAKE_WORKLOAD: &'static str;
    /// node, version
    const DROP_WORKLOAD: &'static str;
    /// Seconds, replica: the nodes whose replica is another and has written nothing about proxies for so long
    const ABANDONED_WORKLOADS: &'static str;
    /// Seconds: moves the mark up to which those that are gone are forgotten, and answers it
    const MARK_FORGOTTEN_WORKLOADS: &'static str;
    /// That mark
    const FORGET_WORKLOADS: &'static str;

    /// Of how many rows a statement made something else.
    fn rows_affected(result: &Self::QueryResult) -> u64;

    /// Tells what an error means; `action` completes the words "cannot".
    fn classify(location: &str, action: &'static str, error: sqlx::Error) -> StoreError;
}
