-- The store on SQLite.
--
-- Triggers number the writes and keep the history, so that a row changed by hand counts like one changed through the
-- API. SQLite has one writer at a time, so numbers become visible in their order.

-- Which database this is.
CREATE TABLE instance (
    one        INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    store_id   TEXT NOT NULL,
    -- The fingerprint of the master key that secrets are sealed under.
    master_key TEXT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;
INSERT INTO instance (store_id) VALUES (lower(hex(randomblob(16))));

-- The counters.
CREATE TABLE clock (
    one              INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    resource_version INTEGER NOT NULL DEFAULT 0,
    revision         INTEGER NOT NULL DEFAULT 0,
    -- The revision whose transaction is under way, set and cleared by the program. What is written by hand finds none,
    -- and each row becomes a revision of its own: SQLite cannot tell one transaction from the next.
    open             INTEGER,
    -- The history up to this resource version is incomplete.
    compacted        INTEGER NOT NULL DEFAULT 0,
    -- Writes to "tokens".
    tokens           INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO clock DEFAULT VALUES;

CREATE TABLE resources (
    id                 INTEGER PRIMARY KEY,
    "group"            TEXT NOT NULL DEFAULT '',
    kind               TEXT NOT NULL CHECK (kind <> ''),
    namespace          TEXT NOT NULL DEFAULT '',
    name               TEXT NOT NULL CHECK (name <> ''),
    -- These are assigned by triggers; the uid only where none is given.
    uid                TEXT NOT NULL DEFAULT '',
    generation         INTEGER NOT NULL DEFAULT 1,
    resource_version   INTEGER NOT NULL DEFAULT 0,
    created_at         TEXT NOT NULL DEFAULT '',
    updated_at         TEXT NOT NULL DEFAULT '',
    -- RFC 3339 in UTC.
    deletion_timestamp TEXT,
    labels             TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(labels) AND json_type(labels) = 'object'),
    annotations        TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(annotations) AND json_type(annotations) = 'object'),
    finalizers         TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(finalizers) AND json_type(finalizers) = 'array'),
    owner_references   TEXT NOT NULL DEFAULT '[]'
                       CHECK (json_valid(owner_references) AND json_type(owner_references) = 'array'),
    managed_fields     TEXT NOT NULL DEFAULT '[]'
                       CHECK (json_valid(managed_fields) AND json_type(managed_fields) = 'array'),
    spec               TEXT CHECK (spec IS NULL OR json_valid(spec)),
    -- Fields of the object beside metadata, spec and status, and rare ones of its metadata.
    extra              TEXT CHECK (extra IS NULL OR (json_valid(extra) AND json_type(extra) = 'object')),
    -- All of the above from deletion_timestamp on, encrypted: for kinds that are secret.
    sealed             BLOB,
    UNIQUE ("group", kind, namespace, name)
) STRICT;

-- One row a transaction.
CREATE TABLE revisions (
    revision INTEGER PRIMARY KEY,
    at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    author   TEXT NOT NULL,
    via      TEXT NOT NULL,
    message  TEXT NOT NULL
) STRICT;

-- One row a write.
CREATE TABLE history (
    resource_version INTEGER PRIMARY KEY,
    revision         INTEGER NOT NULL,
    "group"          TEXT NOT NULL,
    kind             TEXT NOT NULL,
    namespace        TEXT NOT NULL,
    name             TEXT NOT NULL,
    before           TEXT,
    after            TEXT
) STRICT;
CREATE INDEX history_by_object ON history (kind, namespace, name, resource_version);
CREATE INDEX history_by_revision ON history (revision);

-- The control plane's own secrets, encrypted.
CREATE TABLE secret_keys (
    name       TEXT PRIMARY KEY,
    sealed     BLOB NOT NULL,
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE TABLE tokens (
    id           TEXT PRIMARY KEY,
    hash         BLOB NOT NULL UNIQUE,
    purpose      TEXT NOT NULL,
    name         TEXT NOT NULL,
    scope        TEXT NOT NULL CHECK (json_valid(scope)),
    created_at   TEXT NOT NULL,
    created_by   TEXT NOT NULL,
    expires_at   TEXT,
    uses_left    INTEGER CHECK (uses_left >= 0),
    last_used_at TEXT
) STRICT;

-- What the control plane knows of the proxies connected to it.
CREATE TABLE proxies (
    node      TEXT NOT NULL,
    replica   TEXT NOT NULL,
    connected INTEGER NOT NULL,
    acked     INTEGER NOT NULL,
    sent      INTEGER NOT NULL,
    issues    TEXT NOT NULL,
    info      TEXT NOT NULL,
    seen      TEXT NOT NULL,
    PRIMARY KEY (node, replica)
) STRICT;

-- Rows as history keeps them and as the program reads them.
CREATE VIEW images AS SELECT
    id, "group", kind, namespace, name,
    json_object(
        'uid', uid,
        'generation', generation,
        'resourceVersion', resource_version,
        'createdAt', created_at,
        'deletionTimestamp', deletion_timestamp,
        'labels', json(labels),
        'annotations', json(annotations),
        'finalizers', json(finalizers),
        'ownerReferences', json(owner_references),
        'managedFields', json(managed_fields),
        'spec', json(spec),
        'extra', json(extra),
        'sealed', CASE WHEN sealed IS NULL THEN NULL ELSE lower(hex(sealed)) END
    ) AS image
FROM resources;

-- Counts a write and leaves its revision behind; fires for the triggers below, which insert into it.
CREATE VIEW ticks AS SELECT resource_version FROM clock;
CREATE TRIGGER tick INSTEAD OF INSERT ON ticks BEGIN
    UPDATE clock SET
        resource_version = resource_version + 1,
        revision = CASE WHEN open IS NULL THEN revision + 1 ELSE open END;
    INSERT OR IGNORE INTO revisions (revision, author, via, message) SELECT revision, 'sql', 'sql', '' FROM clock;
END;

CREATE TRIGGER resource_inserted AFTER INSERT ON resources BEGIN
    INSERT INTO ticks VALUES (0);
    UPDATE resources SET
        resource_version = (SELECT resource_version FROM clock),
        generation = 1,
        uid = CASE WHEN NEW.uid <> '' THEN NEW.uid ELSE lower(
            hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' ||
            substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))) END,
        created_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now'),
        updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
    WHERE id = NEW.id;
    INSERT INTO history
        SELECT resource_version, revision, NEW."group", NEW.kind, NEW.namespace, NEW.name, NULL,
               (SELECT image FROM images WHERE id = NEW.id)
        FROM clock;
END;

CREATE TRIGGER resource_renamed BEFORE UPDATE OF "group", kind, namespace, name ON resources
WHEN (NEW."group", NEW.kind, NEW.namespace, NEW.name) IS NOT (OLD."group", OLD.kind, OLD.namespace, OLD.name) BEGIN
    SELECT RAISE(ABORT, 'a resource cannot be renamed: insert a new row and delete this one');
END;

-- Not for the columns that are assigned: setting those, as here, is no write of its own.
CREATE TRIGGER resource_updated
AFTER UPDATE OF deletion_timestamp, labels, annotations, finalizers, owner_references, managed_fields, spec, extra, sealed
ON resources
WHEN (NEW.deletion_timestamp, NEW.labels, NEW.annotations, NEW.finalizers, NEW.owner_references, NEW.managed_fields,
      NEW.spec, NEW.extra, NEW.sealed)
    IS NOT (OLD.deletion_timestamp, OLD.labels, OLD.annotations, OLD.finalizers, OLD.owner_references,
            OLD.managed_fields, OLD.spec, OLD.extra, OLD.sealed)
BEGIN
    INSERT INTO ticks VALUES (0);
    UPDATE resources SET
        resource_version = (SELECT resource_version FROM clock),
        generation = OLD.generation + ((NEW.spec, NEW.extra) IS NOT (OLD.spec, OLD.extra)),
        uid = OLD.uid,
        created_at = OLD.created_at,
        updated_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
    WHERE id = NEW.id;
    INSERT INTO history
        SELECT resource_version, revision, NEW."group", NEW.kind, NEW.namespace, NEW.name,
               json_object(
                   'uid', OLD.uid,
                   'generation', OLD.generation,
                   'resourceVersion', OLD.resource_version,
                   'createdAt', OLD.created_at,
                   'deletionTimestamp', OLD.deletion_timestamp,
                   'labels', json(OLD.labels),
                   'annotations', json(OLD.annotations),
                   'finalizers', json(OLD.finalizers),
                   'ownerReferences', json(OLD.owner_references),
                   'managedFields', json(OLD.managed_fields),
                   'spec', json(OLD.spec),
                   'extra', json(OLD.extra),
                   'sealed', CASE WHEN OLD.sealed IS NULL THEN NULL ELSE lower(hex(OLD.sealed)) END),
               (SELECT image FROM images WHERE id = NEW.id)
        FROM clock;
END;

CREATE TRIGGER resource_deleted BEFORE DELETE ON resources BEGIN
    INSERT INTO ticks VALUES (0);
    INSERT INTO history
        SELECT resource_version, revision, OLD."group", OLD.kind, OLD.namespace, OLD.name,
               (SELECT image FROM images WHERE id = OLD.id), NULL
        FROM clock;
END;

CREATE TRIGGER token_inserted AFTER INSERT ON tokens BEGIN
    UPDATE clock SET tokens = tokens + 1;
END;
CREATE TRIGGER token_updated AFTER UPDATE ON tokens BEGIN
    UPDATE clock SET tokens = tokens + 1;
END;
CREATE TRIGGER token_deleted AFTER DELETE ON tokens BEGIN
    UPDATE clock SET tokens = tokens + 1;
END;

-- A table for each kind, to look at: gateways, virtual_services …
CREATE VIEW gateways AS SELECT * FROM resources WHERE kind = 'Gateway';
CREATE VIEW virtual_services AS SELECT * FROM resources WHERE kind = 'VirtualService';
CREATE VIEW destination_rules AS SELECT * FROM resources WHERE kind = 'DestinationRule';
CREATE VIEW service_entries AS SELECT * FROM resources WHERE kind = 'ServiceEntry';
CREATE VIEW workload_entries AS SELECT * FROM resources WHERE kind = 'WorkloadEntry';
CREATE VIEW workload_groups AS SELECT * FROM resources WHERE kind = 'WorkloadGroup';
CREATE VIEW sidecars AS SELECT * FROM resources WHERE kind = 'Sidecar';
CREATE VIEW envoy_filters AS SELECT * FROM resources WHERE kind = 'EnvoyFilter';
CREATE VIEW proxy_configs AS SELECT * FROM resources WHERE kind = 'ProxyConfig';
CREATE VIEW peer_authentications AS SELECT * FROM resources WHERE kind = 'PeerAuthentication';
CREATE VIEW request_authentications AS SELECT * FROM resources WHERE kind = 'RequestAuthentication';
CREATE VIEW authorization_policies AS SELECT * FROM resources WHERE kind = 'AuthorizationPolicy';
CREATE VIEW telemetries AS SELECT * FROM resources WHERE kind = 'Telemetry';
CREATE VIEW wasm_plugins AS SELECT * FROM resources WHERE kind = 'WasmPlugin';
CREATE VIEW traffic_extensions AS SELECT * FROM resources WHERE kind = 'TrafficExtension';
CREATE VIEW mesh_configs AS SELECT * FROM resources WHERE kind = 'MeshConfig';
CREATE VIEW namespaces AS SELECT * FROM resources WHERE kind = 'Namespace';
