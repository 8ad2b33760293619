//! The statements in Postgres' words. Times and JSON are sent and answered as text.

use sqlx::Postgres;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgQueryResult;

use super::super::StoreError;
use super::super::dialect::Dialect;
use super::super::migrations::Migration;
use super::CONNECT_WITHIN;

impl Dialect for Postgres {
    const MIGRATIONS: &'static [Migration] = &[
        Migration {
            version: 1,
            name: "store",
            additive: false,
            sql: include_str!("../../../../migrations/postgres/0001_store.sql"),
        },
        Migration {
            version: 2,
            name: "rate_limit_policies",
            additive: true,
            sql: include_str!("../../../../migrations/postgres/0002_rate_limit_policies.sql"),
        },
        Migration {
            version: 3,
            name: "backend_policies",
            additive: true,
            sql: include_str!("../../../../migrations/postgres/0003_backend_policies.sql"),
        },
        Migration {
            version: 4,
            name: "workloads",
            additive: true,
            sql: include_str!("../../../../migrations/postgres/0004_workloads.sql"),
        },
    ];
    const BEGIN_READ: &'static str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    const BEGIN_WRITE: &'static str = "BEGIN";

    /// Replicas that start at once take turns.
    const LOCK_SCHEMA: Option<&'static str> =
        Some("SELECT pg_advisory_xact_lock(hashtextextended('fairway schema', 0))");
    const SCHEMA_TABLE: &'static str = "CREATE TABLE IF NOT EXISTS fairway_schema (
        version    BIGINT PRIMARY KEY,
        name       TEXT NOT NULL,
        additive   BOOLEAN NOT NULL DEFAULT false,
        applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
    )";
    const PUT_MIGRATION: &'static str = "INSERT INTO fairway_schema (version, name, additive) VALUES ($1, $2, $3)";
    const CLAIM_MASTER_KEY: &'static str = "UPDATE instance SET master_key = $1 WHERE master_key IS NULL";

    const OBJECTS: &'static str = r#"SELECT "group", kind, namespace, name, fairway_image(r)::text AS image FROM resources r
           ORDER BY kind, namespace, name"#;
    const TAIL: &'static str = r#"SELECT resource_version, revision, "group", kind, namespace, name, before::text, after::text FROM history
           WHERE resource_version > $1 AND revision <= COALESCE(
               (SELECT revision FROM history WHERE resource_version > $1 ORDER BY resource_version
                LIMIT 1 OFFSET $2),
               9223372036854775807)
           ORDER BY resource_version"#;
    const HISTORY: &'static str =
        r#"SELECT resource_version, revision, "group", kind, namespace, name, before::text, after::text FROM history"#;
    const REVISIONS: &'static str =
        "SELECT revision, to_json(at) #>> '{}' AS at, author, via, message FROM revisions WHERE revision < $1
         ORDER BY revision DESC LIMIT $2";
    const COMPACT: &'static str = "UPDATE clock SET compacted = GREATEST(compacted,
             (SELECT max(resource_version) FROM history WHERE revision <=
                 (SELECT max(revision) FROM revisions WHERE at < $1::timestamptz)))
         RETURNING compacted";
    const FORGET_HISTORY: &'static str = r#"DELETE FROM history WHERE resource_version <= $1 AND NOT EXISTS (
             SELECT 1 FROM jsonb_array_elements($2::jsonb) AS kept (key)
             WHERE "group" = key ->> 0 AND kind = key ->> 1 AND namespace = key ->> 2 AND name = key ->> 3)"#;
    const FORGET_REVISIONS: &'static str =
        "DELETE FROM revisions WHERE at < $1::timestamptz AND revision < (SELECT revision FROM clock)
             AND NOT EXISTS (SELECT 1 FROM history WHERE history.revision = revisions.revision)";

    const KEY: &'static str = "SELECT sealed FROM secret_keys WHERE name = $1";
    const ADD_KEY: &'static str = "INSERT INTO secret_keys (name, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    const PUT_KEY: &'static str = "INSERT INTO secret_keys (name, sealed) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, updated_at = now()";

    const TOKENS: &'static str =
        "SELECT id, hash, purpose, name, scope::text, to_json(created_at) #>> '{}' AS created_at, created_by,
             to_json(expires_at) #>> '{}' AS expires_at, uses_left, to_json(last_used_at) #>> '{}' AS last_used_at
         FROM tokens ORDER BY tokens.created_at, id";
    const ADD_TOKEN: &'static str =
        "INSERT INTO tokens (id, hash, purpose, name, scope, created_at, created_by, expires_at, uses_left)
         VALUES ($1, $2, $3, $4, $5::jsonb, $6::timestamptz, $7, $8::timestamptz, $9) ON CONFLICT DO NOTHING";
    const USE_TOKEN: &'static str = "UPDATE tokens SET uses_left = uses_left - 1, last_used_at = now()
         WHERE hash = $1 AND (uses_left IS NULL OR uses_left > 0) AND (expires_at IS NULL OR expires_at > now())
         RETURNING id, hash, purpose, name, scope::text, to_json(created_at) #>> '{}' AS created_at, created_by,
             to_json(expires_at) #>> '{}' AS expires_at, uses_left, to_json(last_used_at) #>> '{}' AS last_used_at";
    const DELETE_TOKEN: &'static str = "DELETE FROM tokens WHERE id = $1";

    const PUT_PROXY: &'static str = "INSERT INTO proxies (node, replica, connected, acked, sent, issues, info, seen)
         VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, clock_timestamp())
         ON CONFLICT (node, replica) DO UPDATE SET connected = excluded.connected, acked = excluded.acked,
             sent = excluded.sent, issues = excluded.issues, info = excluded.info, seen = excluded.seen";
    const NOTIFY_PROXIES: Option<&'static str> = Some("SELECT pg_notify('fairway_proxies', '')");
    const PROXIES: &'static str =
        "SELECT node, replica, live AS connected, acked, sent, issues::text, info::text, to_json(seen) #>> '{}' AS seen
         FROM (SELECT *, connected AND seen >= clock_timestamp() - make_interval(secs => $1) AS live
               FROM proxies WHERE replica <> $2) p
         ORDER BY node, live DESC, p.seen DESC";
    const FORGET_PROXIES: &'static str =
        "DELETE FROM proxies WHERE seen < clock_timestamp() - make_interval(secs => $1)";

    const LOCK_CLOCK: Option<&'static str> = Some("SELECT 1 FROM clock FOR UPDATE");
    const NOTIFY: Option<&'static str> = Some("SELECT pg_notify('fairway', '')");
    const WORKLOADS: &'static str =
        "SELECT node, namespace, service_account, spec::text, ready, replica, gone, version,
             to_json(since) #>> '{}' AS since
         FROM workloads WHERE NOT gone ORDER BY node";
    const WORKLOADS_TAIL: &'static str = "SELECT node, namespace, service_account, spec::text, ready, replica, gone,
             version, to_json(since) #>> '{}' AS since
         FROM workloads WHERE version > $1 AND version <= $2 ORDER BY version";
    const WORKLOAD: &'static str = "SELECT node, namespace, service_account, spec::text, ready, replica, gone, version,
             to_json(since) #>> '{}' AS since
         FROM workloads WHERE node = $1";
    const PUT_WORKLOAD: &'static str =
        "INSERT INTO workloads (node, namespace, service_account, spec, ready, replica, version)
         VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7)
         ON CONFLICT (node) DO UPDATE SET namespace = excluded.namespace, service_account = excluded.service_account,
             spec = excluded.spec, ready = excluded.ready, replica = excluded.replica, version = excluded.version,
             since = CASE WHEN workloads.gone THEN excluded.since ELSE workloads.since END, gone = false,
             seen = excluded.seen";
    const TAKE_WORKLOAD: &'static str = "UPDATE workloads SET replica = $2, seen = clock_timestamp() WHERE node = $1";
    const DROP_WORKLOAD: &'static str =
        "UPDATE workloads SET gone = true, version = $2, seen = clock_timestamp() WHERE node = $1";
    const ABANDONED_WORKLOADS: &'static str = "SELECT node FROM workloads w
         WHERE NOT gone AND replica <> $2 AND seen < clock_timestamp() - make_interval(secs => $1) AND NOT EXISTS (
             SELECT 1 FROM proxies p
             WHERE p.replica = w.replica AND p.seen >= clock_timestamp() - make_interval(secs => $1))";
    const MARK_FORGOTTEN_WORKLOADS: &'static str = "UPDATE clock SET workloads = GREATEST(workloads,
             (SELECT max(version) FROM workloads
              WHERE gone AND seen < clock_timestamp() - make_interval(secs => $1)))
         RETURNING workloads";
    const FORGET_WORKLOADS: &'static str = "DELETE FROM workloads WHERE gone AND version <= $1";

    fn rows_affected(result: &PgQueryResult) -> u64 {
        result.rows_affected()
    }

    /// By SQLSTATE (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
    fn classify(location: &str, action: &'static str, error: sqlx::Error) -> StoreError {
        const DISK_FULL: &str = "53100";
        const LOCK_NOT_AVAILABLE: &str = "55P03";
        /// A standby, or a server that was told to take no writes.
        const READ_ONLY: &str = "25006";
        /// Connection exceptions, transactions rolled back, insufficient resources, operator intervention.
        const PASSING: [&str; 4] = ["08", "40", "53", "57"];

        let location = location.to_owned();
        let reason = error.to_string();
        let code = error.as_database_error().and_then(DatabaseError::code).unwrap_or_default();
        match &*code {
            DISK_FULL => StoreError::Full { location, reason },
            LOCK_NOT_AVAILABLE => {
                let reason =
                    "another transaction holds the lock on resources for long; is one left open in psql?".into();
                StoreError::Unavailable { location, reason }
            }
            READ_ONLY => StoreError::Unavailable { location, reason },
            code if code.get(..2).is_some_and(|class| PASSING.contains(&class)) => {
                StoreError::Unavailable { location, reason }
            }
            _ => match error {
                sqlx::Error::PoolTimedOut => {
                    let reason = format!("no connection within {} s", CONNECT_WITHIN.as_secs());
                    StoreError::Unavailable { location, reason }
                }
                sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                    StoreError::Unavailable { location, reason }
                }
                _ => StoreError::Database { location, action, reason },
            },
        }
    }
}
