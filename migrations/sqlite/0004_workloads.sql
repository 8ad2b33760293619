-- The workloads that sidecars registered. No part of revisions or history: a row lasts as long as the sidecar's stream.
--
-- A version is a number of the sequence of resource versions, so that a watch sees one order of what people wrote and of
-- what is generated from these rows.
CREATE TABLE workloads (
    node            TEXT PRIMARY KEY,
    namespace       TEXT NOT NULL,
    service_account TEXT NOT NULL,
    spec            TEXT NOT NULL CHECK (json_valid(spec)),
    ready           INTEGER NOT NULL,
    -- Who holds the sidecar's stream.
    replica         TEXT NOT NULL,
    -- Kept for a while, so that its watchers learn of it.
    gone            INTEGER NOT NULL DEFAULT 0,
    version         INTEGER NOT NULL,
    since           TEXT NOT NULL,
    -- When the row was written last.
    seen            TEXT NOT NULL
) STRICT;
CREATE INDEX workloads_by_version ON workloads (version);
-- Workloads that left up to this version are forgotten.
ALTER TABLE clock ADD COLUMN workloads INTEGER NOT NULL DEFAULT 0;
