-- name: put
-- An answer, or in its place the mark that it was deleted.
INSERT INTO responses (id, tenant, previous, created_at, items, response)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, id) DO UPDATE
SET previous = excluded.previous, created_at = excluded.created_at, items = excluded.items, response = excluded.response;

-- name: one
-- One answer of a tenant.
SELECT * FROM responses WHERE tenant = :tenant AND id = :id;
