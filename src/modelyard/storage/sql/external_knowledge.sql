-- name: add
-- Add an external knowledge API.
INSERT INTO external_knowledge (tenant, id, name, endpoint, secret) VALUES (?, ?, ?, ?, ?);

-- name: of_tenant
-- The external knowledge APIs of a tenant.
SELECT * FROM external_knowledge WHERE tenant = :tenant ORDER BY name;

-- name: reseal
-- Store a secret that was encrypted again, unless it was changed in the meantime.
UPDATE external_knowledge SET secret = ? WHERE tenant = ? AND id = ? AND secret = ? RETURNING id;

-- name: delete
-- Delete an external knowledge API.
DELETE FROM external_knowledge WHERE tenant = ? AND id = ? RETURNING id;
