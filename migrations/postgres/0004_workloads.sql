-- The workloads that sidecars registered. No part of revisions or history: a row lasts as long as the sidecar's stream.
--
-- A version is a number of the sequence of resource versions, taken under the same lock, so that a watch sees one order
-- of what people wrote and of what is generated from these rows.
CREATE TABLE workloads (
    node            TEXT PRIMARY KEY,
    namespace       TEXT NOT NULL,
    service_account TEXT NOT NULL,
    spec            JSONB NOT NULL,
    ready           BOOLEAN NOT NULL,
    -- Who holds the sidecar's stream.
    replica         TEXT NOT NULL,
    -- Kept for a while, so that replicas learn of it.
    gone            BOOLEAN NOT NULL DEFAULT false,
    version         BIGINT NOT NULL,
    since           TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    -- When the row was written last.
    seen            TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX workloads_by_version ON workloads (version);
-- Workloads that left up to this version are forgotten.
ALTER TABLE clock ADD COLUMN workloads BIGINT NOT NULL DEFAULT 0;
