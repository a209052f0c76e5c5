-- name: put
-- Add a response, or the mark that it was deleted.
INSERT INTO responses (id, tenant, previous, created_at, items, response)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, id) DO UPDATE
SET previous = excluded.previous, created_at = excluded.created_at, items = excluded.items, response = excluded.response;

-- name: one
-- One response of a tenant.
SELECT * FROM responses WHERE tenant = :tenant AND id = :id;
