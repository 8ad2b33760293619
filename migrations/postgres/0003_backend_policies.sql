-- The table of a kind that came later, as those of 0001 are.
CREATE VIEW backend_policies AS
    SELECT namespace, name, spec, labels, annotations, generation, resource_version, uid, created_at, updated_at,
           "group", kind
    FROM resources WHERE "group" = 'fairway.dev' AND kind = 'BackendPolicy'
    WITH LOCAL CHECK OPTION;
ALTER VIEW backend_policies ALTER COLUMN "group" SET DEFAULT 'fairway.dev';
ALTER VIEW backend_policies ALTER COLUMN kind SET DEFAULT 'BackendPolicy';
