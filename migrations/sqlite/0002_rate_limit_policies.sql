-- The table of a kind that came later.
CREATE VIEW rate_limit_policies AS SELECT * FROM resources WHERE kind = 'RateLimitPolicy';
