-- The store on Postgres.
--
-- Triggers number the writes and keep the history, so that a row changed by hand counts like one changed through the
-- API. Whoever writes a resource holds the row of "clock" until the transaction ends: numbers become visible in
-- their order.

-- Which database this is.
CREATE TABLE instance (
    one        BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
    store_id   TEXT NOT NULL DEFAULT gen_random_uuid()::text,
    -- The fingerprint of the master key that secrets are sealed under.
    master_key TEXT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
INSERT INTO instance DEFAULT VALUES;

-- The counters, and the lock.
CREATE TABLE clock (
    one              BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
    resource_version BIGINT NOT NULL DEFAULT 0,
    revision         BIGINT NOT NULL DEFAULT 0,
    -- The transaction that made the newest revision: what else it writes belongs to the same one.
    writer           XID8,
    -- The history up to this resource version is incomplete.
    compacted        BIGINT NOT NULL DEFAULT 0,
    -- Writes to "tokens".
    tokens           BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO clock DEFAULT VALUES;

CREATE TABLE resources (
    "group"            TEXT NOT NULL DEFAULT '',
    kind               TEXT NOT NULL CHECK (kind <> ''),
    namespace          TEXT NOT NULL DEFAULT '',
    name               TEXT NOT NULL CHECK (name <> ''),
    -- These four are assigned by triggers; the uid only where none is given.
    uid                TEXT NOT NULL DEFAULT gen_random_uuid()::text,
    generation         BIGINT NOT NULL DEFAULT 1,
    resource_version   BIGINT NOT NULL DEFAULT 0,
    created_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
    deletion_timestamp TIMESTAMPTZ,
    labels             JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
    annotations        JSONB NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(annotations) = 'object'),
    finalizers         JSONB NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(finalizers) = 'array'),
    owner_references   JSONB NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(owner_references) = 'array'),
    managed_fields     JSONB NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(managed_fields) = 'array'),
    spec               JSONB,
    -- Fields of the object beside metadata, spec and status, and rare ones of its metadata.
    extra              JSONB CHECK (jsonb_typeof(extra) = 'object'),
    -- All of the above from deletion_timestamp on, encrypted: for kinds that are secret.
    sealed             BYTEA,
    PRIMARY KEY ("group", kind, namespace, name)
);

-- One row a transaction.
CREATE TABLE revisions (
    revision BIGINT PRIMARY KEY,
    at       TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    author   TEXT NOT NULL,
    via      TEXT NOT NULL,
    message  TEXT NOT NULL
);

-- One row a write.
CREATE TABLE history (
    resource_version BIGINT PRIMARY KEY,
    revision         BIGINT NOT NULL,
    "group"          TEXT NOT NULL,
    kind             TEXT NOT NULL,
    namespace        TEXT NOT NULL,
    name             TEXT NOT NULL,
    before           JSONB,
    after            JSONB
);
CREATE INDEX history_by_object ON history (kind, namespace, name, resource_version);
CREATE INDEX history_by_revision ON history (revision);

-- The control plane's own secrets, encrypted.
CREATE TABLE secret_keys (
    name       TEXT PRIMARY KEY,
    sealed     BYTEA NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE tokens (
    id           TEXT PRIMARY KEY,
    hash         BYTEA NOT NULL UNIQUE,
    purpose      TEXT NOT NULL,
    name         TEXT NOT NULL,
    scope        JSONB NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL,
    created_by   TEXT NOT NULL,
    expires_at   TIMESTAMPTZ,
    uses_left    BIGINT CHECK (uses_left >= 0),
    last_used_at TIMESTAMPTZ
);

-- What each replica of the control plane knows of the proxies connected to it.
CREATE TABLE proxies (
    node      TEXT NOT NULL,
    replica   TEXT NOT NULL,
    connected BOOLEAN NOT NULL,
    acked     BIGINT NOT NULL,
    sent      BIGINT NOT NULL,
    issues    JSONB NOT NULL,
    info      JSONB NOT NULL,
    seen      TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (node, replica)
);

-- A time as RFC 3339 in UTC, to the second as Kubernetes writes it.
CREATE FUNCTION fairway_time(t TIMESTAMPTZ) RETURNS TEXT LANGUAGE sql STABLE AS
$$ SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') $$;

-- A row as history keeps it and as the program reads it.
CREATE FUNCTION fairway_image(r resources) RETURNS JSONB LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT jsonb_build_object(
        'uid', r.uid,
        'generation', r.generation,
        'resourceVersion', r.resource_version,
        'createdAt', fairway_time(r.created_at),
        'deletionTimestamp', fairway_time(r.deletion_timestamp),
        'labels', r.labels,
        'annotations', r.annotations,
        'finalizers', r.finalizers,
        'ownerReferences', r.owner_references,
        'managedFields', r.managed_fields,
        'spec', r.spec,
        'extra', r.extra,
        'sealed', encode(r.sealed, 'hex'))
$$;

-- Begins a transaction of the program: says who writes, and takes the lock.
CREATE FUNCTION fairway_begin(author TEXT, via TEXT, message TEXT) RETURNS VOID LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('fairway.author', author, true),
            set_config('fairway.via', via, true),
            set_config('fairway.message', message, true),
            -- A transaction left open in psql holds the lock for as long as it likes; nobody waits that long.
            set_config('lock_timeout', '5s', true);
    PERFORM 1 FROM clock FOR UPDATE;
END $$;

-- The next resource version; the first of a transaction makes its revision.
CREATE FUNCTION fairway_tick() RETURNS BIGINT LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    tick clock;
BEGIN
    UPDATE clock SET
        resource_version = resource_version + 1,
        revision = revision + CASE WHEN writer IS DISTINCT FROM pg_current_xact_id() THEN 1 ELSE 0 END,
        writer = pg_current_xact_id()
    RETURNING * INTO tick;
    INSERT INTO revisions (revision, author, via, message) VALUES (
        tick.revision,
        COALESCE(NULLIF(current_setting('fairway.author', true), ''), session_user),
        COALESCE(NULLIF(current_setting('fairway.via', true), ''), 'sql'),
        COALESCE(current_setting('fairway.message', true), ''))
    ON CONFLICT DO NOTHING;
    RETURN tick.resource_version;
END $$;

-- Takes the lock before any row is touched, so that all writers take their locks in one order.
CREATE FUNCTION fairway_lock() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM 1 FROM clock FOR UPDATE;
    RETURN NULL;
END $$;

-- Assigns what writers do not choose, and lets a write that changes nothing fall away.
CREATE FUNCTION fairway_stamp() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW."group", NEW.kind, NEW.namespace, NEW.name)
            IS DISTINCT FROM (OLD."group", OLD.kind, OLD.namespace, OLD.name) THEN
            RAISE EXCEPTION 'a resource cannot be renamed: insert a new row and delete this one';
        END IF;
        NEW.uid := OLD.uid;
        NEW.created_at := OLD.created_at;
        NEW.updated_at := OLD.updated_at;
        NEW.generation := OLD.generation;
        NEW.resource_version := OLD.resource_version;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            RETURN NULL;
        END IF;
        IF (NEW.spec, NEW.extra) IS DISTINCT FROM (OLD.spec, OLD.extra) THEN
            NEW.generation := OLD.generation + 1;
        END IF;
    ELSE
        NEW.generation := 1;
        NEW.created_at := clock_timestamp();
    END IF;
    NEW.updated_at := clock_timestamp();
    NEW.resource_version := fairway_tick();
    RETURN NEW;
END $$;

CREATE FUNCTION fairway_record() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    was JSONB;
    is_now JSONB;
    version BIGINT;
    subject resources;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        was := fairway_image(OLD);
        subject := OLD;
    END IF;
    IF TG_OP = 'DELETE' THEN
        version := fairway_tick();
    ELSE
        is_now := fairway_image(NEW);
        subject := NEW;
        version := NEW.resource_version;
    END IF;
    INSERT INTO history
        SELECT version, clock.revision, subject."group", subject.kind, subject.namespace, subject.name, was, is_now
        FROM clock;
    -- Equal notices of one transaction are delivered once.
    PERFORM pg_notify('fairway', '');
    RETURN NULL;
END $$;

CREATE FUNCTION fairway_refuse_truncate() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE would leave no history: use DELETE';
END $$;

CREATE FUNCTION fairway_tokens_changed() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE clock SET tokens = tokens + 1;
    PERFORM pg_notify('fairway', '');
    RETURN NULL;
END $$;

CREATE TRIGGER lock BEFORE INSERT OR UPDATE OR DELETE ON resources
    FOR EACH STATEMENT EXECUTE FUNCTION fairway_lock();
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON resources
    FOR EACH ROW EXECUTE FUNCTION fairway_stamp();
CREATE TRIGGER record AFTER INSERT OR UPDATE OR DELETE ON resources
    FOR EACH ROW EXECUTE FUNCTION fairway_record();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON resources
    FOR EACH STATEMENT EXECUTE FUNCTION fairway_refuse_truncate();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON tokens
    FOR EACH STATEMENT EXECUTE FUNCTION fairway_tokens_changed();

-- A table for each kind, to look at and to write to: gateways, virtual_services …
DO $$
DECLARE
    k RECORD;
BEGIN
    FOR k IN SELECT * FROM (VALUES
        ('gateways', 'networking.istio.io', 'Gateway'),
        ('virtual_services', 'networking.istio.io', 'VirtualService'),
        ('destination_rules', 'networking.istio.io', 'DestinationRule'),
        ('service_entries', 'networking.istio.io', 'ServiceEntry'),
        ('workload_entries', 'networking.istio.io', 'WorkloadEntry'),
        ('workload_groups', 'networking.istio.io', 'WorkloadGroup'),
        ('sidecars', 'networking.istio.io', 'Sidecar'),
        ('envoy_filters', 'networking.istio.io', 'EnvoyFilter'),
        ('proxy_configs', 'networking.istio.io', 'ProxyConfig'),
        ('peer_authentications', 'security.istio.io', 'PeerAuthentication'),
        ('request_authentications', 'security.istio.io', 'RequestAuthentication'),
        ('authorization_policies', 'security.istio.io', 'AuthorizationPolicy'),
        ('telemetries', 'telemetry.istio.io', 'Telemetry'),
        ('wasm_plugins', 'extensions.istio.io', 'WasmPlugin'),
        ('traffic_extensions', 'extensions.istio.io', 'TrafficExtension'),
        ('mesh_configs', 'fairway.dev', 'MeshConfig'),
        ('namespaces', '', 'Namespace')
    ) AS kinds (view_name, api_group, kind) LOOP
        EXECUTE format(
            'CREATE VIEW %I AS SELECT namespace, name, spec, labels, annotations, generation, resource_version, uid, '
            'created_at, updated_at, "group", kind FROM resources WHERE "group" = %L AND kind = %L '
            'WITH LOCAL CHECK OPTION',
            k.view_name, k.api_group, k.kind);
        EXECUTE format('ALTER VIEW %I ALTER COLUMN "group" SET DEFAULT %L', k.view_name, k.api_group);
        EXECUTE format('ALTER VIEW %I ALTER COLUMN kind SET DEFAULT %L', k.view_name, k.kind);
    END LOOP;
END $$;
