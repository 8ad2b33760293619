-- The table of a kind that came later, as those of 0001 are.
CREATE VIEW rate_limit_policies AS
    SELECT namespace, name, spec, labels, annotations, generation, resource_version, uid, created_at, updated_at,
           "group", kind
    FROM resources WHERE "group" = 'fairway.dev' AND kind = 'RateLimitPolicy'
    WITH LOCAL CHECK OPTION;
ALTER VIEW rate_limit_policies ALTER COLUMN "group" SET DEFAULT 'fairway.dev';
ALTER VIEW rate_limit_policies ALTER COLUMN kind SET DEFAULT 'RateLimitPolicy';
