-- name: put
-- An answer, or in its place the mark that it was deleted.
INSERT OR REPLACE INTO responses (id, tenant, previous, created_at, items, response)
VALUES (?, ?, ?, ?, ?, ?);

-- name: one
-- One answer of a tenant.
SELECT * FROM responses WHERE tenant = :tenant AND id = :id;
