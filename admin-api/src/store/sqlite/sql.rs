//! The statements in SQLite's words. Times are text, all of the same length; JSON is text.

use sqlx::Sqlite;
use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteQueryResult;

use super::super::StoreError;
use super::super::dialect::Dialect;
use super::super::migrations::Migration;

impl Dialect for Sqlite {
    const MIGRATIONS: &'static [Migration] = &[
        Migration {
            version: 1,
            name: "store",
            additive: false,
            sql: include_str!("../../../../migrations/sqlite/0001_store.sql"),
        },
        Migration {
            version: 2,
            name: "rate_limit_policies",
            additive: true,
            sql: include_str!("../../../../migrations/sqlite/0002_rate_limit_policies.sql"),
        },
        Migration {
            version: 3,
            name: "backend_policies",
            additive: true,
            sql: include_str!("../../../../migrations/sqlite/0003_backend_policies.sql"),
        },
        Migration {
            version: 4,
            name: "workloads",
            additive: true,
            sql: include_str!("../../../../migrations/sqlite/0004_workloads.sql"),
        },
    ];
    const BEGIN_READ: &'static str = "BEGIN";
    const BEGIN_WRITE: &'static str = "BEGIN IMMEDIATE";

    /// Who may write has the file for itself.
    const LOCK_SCHEMA: Option<&'static str> = None;
    const SCHEMA_TABLE: &'static str = "CREATE TABLE IF NOT EXISTS fairway_schema (
        version    INTEGER PRIMARY KEY,
        name       TEXT NOT NULL,
        additive   INTEGER NOT NULL DEFAULT 0,
        applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
    ) STRICT";
    const PUT_MIGRATION: &'static str = "INSERT INTO fairway_schema (version, name, additive) VALUES (?1, ?2, ?3)";
    const CLAIM_MASTER_KEY: &'static str = "UPDATE instance SET master_key = ?1 WHERE master_key IS NULL";

    const OBJECTS: &'static str =
        r#"SELECT "group", kind, namespace, name, image FROM images ORDER BY kind, namespace, name"#;
    const TAIL: &'static str = r#"SELECT resource_version, revision, "group", kind, namespace, name, before, after FROM history
           WHERE resource_version > ?1 AND revision <= COALESCE(
               (SELECT revision FROM history WHERE resource_version > ?1 ORDER BY resource_version
                LIMIT 1 OFFSET ?2),
               9223372036854775807)
           ORDER BY resource_version"#;
    const HISTORY: &'static str =
        r#"SELECT resource_version, revision, "group", kind, namespace, name, before, after FROM history"#;
    const REVISIONS: &'static str =
        "SELECT revision, at, author, via, message FROM revisions WHERE revision < ?1 ORDER BY revision DESC LIMIT ?2";
    const COMPACT: &'static str = "UPDATE clock SET compacted = max(compacted, COALESCE(
             (SELECT max(resource_version) FROM history WHERE revision <=
                 (SELECT max(revision) FROM revisions WHERE at < ?1)), 0))
         RETURNING compacted";
    const FORGET_HISTORY: &'static str = r#"DELETE FROM history WHERE resource_version <= ?1 AND NOT EXISTS (
             SELECT 1 FROM json_each(?2) AS kept WHERE "group" = kept.value ->> 0 AND kind = kept.value ->> 1
                 AND namespace = kept.value ->> 2 AND name = kept.value ->> 3)"#;
    const FORGET_REVISIONS: &'static str =
        "DELETE FROM revisions WHERE at < ?1 AND revision < (SELECT revision FROM clock)
             AND NOT EXISTS (SELECT 1 FROM history WHERE history.revision = revisions.revision)";

    const KEY: &'static str = "SELECT sealed FROM secret_keys WHERE name = ?1";
    const ADD_KEY: &'static str = "INSERT INTO secret_keys (name, sealed) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    const PUT_KEY: &'static str = "INSERT INTO secret_keys (name, sealed) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE
         SET sealed = excluded.sealed, updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

    const TOKENS: &'static str =
        "SELECT id, hash, purpose, name, scope, created_at, created_by, expires_at, uses_left, last_used_at
         FROM tokens ORDER BY created_at, id";
    const ADD_TOKEN: &'static str =
        "INSERT INTO tokens (id, hash, purpose, name, scope, created_at, created_by, expires_at, uses_left)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING";
    const USE_TOKEN: &'static str =
        "UPDATE tokens SET uses_left = uses_left - 1, last_used_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
         WHERE hash = ?1 AND (uses_left IS NULL OR uses_left > 0)
             AND (expires_at IS NULL OR expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
         RETURNING id, hash, purpose, name, scope, created_at, created_by, expires_at, uses_left, last_used_at";
    const DELETE_TOKEN: &'static str = "DELETE FROM tokens WHERE id = ?1";

    const PUT_PROXY: &'static str = "INSERT INTO proxies (node, replica, connected, acked, sent, issues, info, seen)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
         ON CONFLICT (node, replica) DO UPDATE SET connected = excluded.connected, acked = excluded.acked,
             sent = excluded.sent, issues = excluded.issues, info = excluded.info, seen = excluded.seen";
    const NOTIFY_PROXIES: Option<&'static str> = None;
    const PROXIES: &'static str = "SELECT node, replica, live AS connected, acked, sent, issues, info, seen
         FROM (SELECT *, connected AND seen >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('-%f seconds', ?1)) AS live
               FROM proxies WHERE replica <> ?2)
         ORDER BY node, live DESC, seen DESC";
    const FORGET_PROXIES: &'static str =
        "DELETE FROM proxies WHERE seen < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('-%f seconds', ?1))";

    const LOCK_CLOCK: Option<&'static str> = None;
    const NOTIFY: Option<&'static str> = None;
    const WORKLOADS: &'static str =
        "SELECT node, namespace, service_account, spec, ready, replica, gone, version, since
         FROM workloads WHERE NOT gone ORDER BY node";
    const WORKLOADS_TAIL: &'static str =
        "SELECT node, namespace, service_account, spec, ready, replica, gone, version, since
         FROM workloads WHERE version > ?1 AND version <= ?2 ORDER BY version";
    const WORKLOAD: &'static str = "SELECT node, namespace, service_account, spec, ready, replica, gone, version, since
         FROM workloads WHERE node = ?1";
    const PUT_WORKLOAD: &'static str =
        "INSERT INTO workloads (node, namespace, service_account, spec, ready, replica, version, since, seen)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
             strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
         ON CONFLICT (node) DO UPDATE SET namespace = excluded.namespace, service_account = excluded.service_account,
             spec = excluded.spec, ready = excluded.ready, replica = excluded.replica, version = excluded.version,
             since = CASE WHEN workloads.gone THEN excluded.since ELSE workloads.since END, gone = 0,
             seen = excluded.seen";
    const TAKE_WORKLOAD: &'static str =
        "UPDATE workloads SET replica = ?2, seen = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE node = ?1";
    const DROP_WORKLOAD: &'static str =
        "UPDATE workloads SET gone = 1, version = ?2, seen = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE node = ?1";
    const ABANDONED_WORKLOADS: &'static str = "SELECT node FROM workloads w
         WHERE NOT gone AND replica <> ?2
             AND seen < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('-%f seconds', ?1)) AND NOT EXISTS (
             SELECT 1 FROM proxies p WHERE p.replica = w.replica
                 AND p.seen >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('-%f seconds', ?1)))";
    const MARK_FORGOTTEN_WORKLOADS: &'static str = "UPDATE clock SET workloads = max(workloads, COALESCE(
             (SELECT max(version) FROM workloads
              WHERE gone AND seen < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('-%f seconds', ?1))), 0))
         RETURNING workloads";
    const FORGET_WORKLOADS: &'static str = "DELETE FROM workloads WHERE gone AND version <= ?1";

    fn rows_affected(result: &SqliteQueryResult) -> u64 {
        result.rows_affected()
    }

    /// By SQLite's result codes (<https://sqlite.org/rescode.html>); the primary code is in the low byte.
    fn classify(location: &str, action: &'static str, error: sqlx::Error) -> StoreError {
        const BUSY: i32 = 5;
        const LOCKED: i32 = 6;
        const READONLY: i32 = 8;
        const IOERR: i32 = 10;
        const FULL: i32 = 13;
        const CANTOPEN: i32 = 14;
        /// The shared memory file could not grow.
        const IOERR_SHMSIZE: i32 = 4874;

        let code = error.as_database_error().and_then(DatabaseError::code).and_then(|code| code.parse::<i32>().ok());
        let reason = error.to_string();
        let location = location.to_owned();
        match code.map(|code| (code, code & 0xff)) {
            Some((IOERR_SHMSIZE, _) | (_, FULL)) => StoreError::Full { location, reason },
            Some((_, BUSY | LOCKED | READONLY | IOERR | CANTOPEN)) => StoreError::Unavailable { location, reason },
            _ if matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed) => {
                StoreError::Unavailable { location, reason }
            }
            _ => StoreError::Database { location, action, reason },
        }
    }
}
