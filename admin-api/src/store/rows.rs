//! The rows of both backends, and what they become. Queries name their columns so that one shape fits both; times are
//! RFC 3339 text and JSON is text.

use jiff::Timestamp;
use push::workload::Workload;
use route_model::meta::{ResourceKey, Revision};
use serde_json::Value;
use sqlx::FromRow;

use super::row::{key_of, read_image};
use super::seal::MasterKey;
use super::{
    Change, Head, ProxyState, RegisteredWorkload, Registration, RevisionRecord, StoredObject, Token, TokenHash,
    TokenUse,
};

/// `clock` beside `instance`.
#[derive(Debug, FromRow)]
pub(super) struct ClockRow {
    pub(super) store_id: String,
    pub(super) resource_version: i64,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) tokens: i64,
    pub(super) workloads: i64,
}

impl ClockRow {
    pub(super) fn head(self) -> Head {
        Head {
            store_id: self.store_id,
            resource_version: self.resource_version as u64,
            revision: Revision(self.revision as u64),
            tokens: self.tokens as u64,
        }
    }
}

#[derive(Debug, FromRow)]
pub(super) struct ObjectRow {
    group: String,
    kind: String,
    namespace: String,
    name: String,
    image: String,
}

impl ObjectRow {
    pub(super) fn read(self, master: &MasterKey) -> Option<StoredObject> {
        let key = key_of(&self.group, &self.kind, &self.namespace, &self.name)?;
        Some(read_image(key, &self.image, master))
    }
}

#[derive(Debug, FromRow)]
pub(super) struct HistoryRow {
    pub(super) resource_version: i64,
    pub(super) revision: i64,
    group: String,
    kind: String,
    namespace: String,
    name: String,
    before: Option<String>,
    after: Option<String>,
}

impl HistoryRow {
    pub(super) fn read(self, master: &MasterKey) -> Option<Change> {
        let key = key_of(&self.group, &self.kind, &self.namespace, &self.name)?;
        let read = |image: Option<String>| image.map(|image| read_image(key.clone(), &image, master).into());
        Some(Change {
            resource_version: self.resource_version as u64,
            revision: Revision(self.revision as u64),
            before: read(self.before),
            after: read(self.after),
            key,
        })
    }
}

#[derive(Debug, FromRow)]
pub(super) struct RevisionRow {
    revision: i64,
    at: String,
    author: String,
    via: String,
    message: String,
}

impl RevisionRow {
    pub(super) fn read(self) -> RevisionRecord {
        RevisionRecord {
            revision: Revision(self.revision as u64),
            at: time(&self.at),
            author: self.author,
            via: self.via,
            message: self.message,
        }
    }
}

#[derive(Debug, FromRow)]
pub(super) struct TokenRow {
    id: String,
    hash: Vec<u8>,
    purpose: String,
    name: String,
    scope: String,
    created_at: String,
    created_by: String,
    expires_at: Option<String>,
    uses_left: Option<i64>,
    last_used_at: Option<String>,
}

impl TokenRow {
    /// Nothing for a purpose that this build does not know.
    pub(super) fn read(self) -> Option<Token> {
        Some(Token {
            hash: TokenHash::from_bytes(&self.hash)?,
            purpose: TokenUse::from_name(&self.purpose)?,
            id: self.id,
            name: self.name,
            scope: json(&self.scope),
            created_at: time(&self.created_at),
            created_by: self.created_by,
            // A token whose end cannot be read has ended.
            expires_at: self.expires_at.map(|end| time(&end)),
            uses_left: self.uses_left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)),
            last_used_at: self.last_used_at.map(|at| time(&at)),
        })
    }
}

#[derive(Debug, FromRow)]
pub(super) struct ProxyRow {
    node: String,
    replica: String,
    connected: bool,
    acked: i64,
    sent: i64,
    issues: String,
    info: String,
    seen: String,
}

impl ProxyRow {
    fn read(self) -> ProxyState {
        ProxyState {
            node: self.node,
            replica: self.replica,
            connected: self.connected,
            acked: Revision(self.acked as u64),
            sent: Revision(self.sent as u64),
            issues: json(&self.issues),
            info: json(&self.info),
            seen: time(&self.seen),
        }
    }
}

#[derive(Debug, FromRow)]
pub(super) struct WorkloadRow {
    node: String,
    namespace: String,
    service_account: String,
    spec: String,
    ready: bool,
    replica: String,
    gone: bool,
    version: i64,
    since: String,
}

impl WorkloadRow {
    /// Nothing for one that this build cannot read.
    pub(super) fn read(self) -> Option<RegisteredWorkload> {
        let workload: Workload = serde_json::from_str(&self.spec).ok()?;
        let registration = Registration {
            node: self.node,
            namespace: self.namespace,
            service_account: self.service_account,
            workload: Workload { ready: self.ready, ..workload },
        };
        Some(RegisteredWorkload {
            registration,
            version: self.version as u64,
            since: time(&self.since),
            replica: self.replica,
            gone: self.gone,
        })
    }
}

/// One state a proxy: the connected one that was seen last, else the one that was seen last. Expects the rows of a
/// proxy side by side, the better first.
pub(super) fn merge_proxies(rows: Vec<ProxyRow>) -> Vec<ProxyState> {
    let mut states: Vec<ProxyState> = rows.into_iter().map(ProxyRow::read).collect();
    states.dedup_by(|next, first| next.node == first.node);
    states
}

/// The columns of a key, as they are bound.
pub(super) fn key_columns(key: &ResourceKey) -> (&'static str, &'static str, &str, &str) {
    let info = key.kind.info();
    (info.group, info.name, &key.namespace, &key.name)
}

/// What cannot be read counts as long ago.
fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
