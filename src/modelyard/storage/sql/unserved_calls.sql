-- name: add
-- Add a row. A counting row is written again while its minute lasts, with the number so far.
INSERT INTO unserved_calls (id, tenant, created_at, day, calls, is_counting, outcome, status, code, message, route,
                            api_key, fingerprint, "user", app, asked, provider, model, model_type, session, project, tags)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET calls = excluded.calls;

-- name: one
-- A tenant's row by the id of its request.
SELECT * FROM unserved_calls WHERE tenant = :tenant AND id = :id;

-- name: some
-- A tenant's rows by their ids.
SELECT * FROM unserved_calls WHERE tenant = ? AND id IN ({ids});

-- name: oldest
-- The end of the next batch of rows that are older than the retention time.
SELECT MAX(created_at) AS until
FROM (SELECT created_at FROM unserved_calls WHERE {scope}created_at < :cutoff ORDER BY created_at LIMIT :batch) AS oldest;

-- name: forget
-- Delete that batch.
DELETE FROM unserved_calls WHERE {scope}created_at <= ?;
