-- name: add
-- Somebody else's server, to be asked.
INSERT INTO external_knowledge (tenant, id, name, endpoint, secret) VALUES (?, ?, ?, ?, ?);

-- name: of_tenant
-- A tenant's.
SELECT * FROM external_knowledge WHERE tenant = :tenant ORDER BY name;

-- name: reseal
-- The secret of one, encrypted anew, where it is as it was read.
UPDATE external_knowledge SET secret = ? WHERE tenant = ? AND id = ? AND secret = ? RETURNING id;

-- name: delete
-- It is asked no more.
DELETE FROM external_knowledge WHERE tenant = ? AND id = ? RETURNING id;
