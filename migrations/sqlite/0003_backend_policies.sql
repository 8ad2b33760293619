-- The table of a kind that came later.
CREATE VIEW backend_policies AS SELECT * FROM resources WHERE kind = 'BackendPolicy';
