-- name: get
-- One value.
SELECT value, updated_at FROM kept WHERE tenant = :tenant AND scope = :scope AND name = :name;

-- name: list
-- The names and sizes in a scope, last updated first.
SELECT name, size, updated_at FROM kept WHERE tenant = :tenant AND scope = :scope
ORDER BY updated_at DESC, name LIMIT :most;

-- name: values
-- The names and values in a scope, last updated first.
SELECT name, value, updated_at FROM kept WHERE tenant = :tenant AND scope = :scope
ORDER BY updated_at DESC, name LIMIT :most;

-- name: others
-- Size and number of the values in a scope, without one name.
SELECT COALESCE(SUM(size), 0) AS held, COUNT(*) AS count FROM kept WHERE tenant = ? AND scope = ? AND name <> ?;

-- name: put
-- Add or replace a value.
INSERT INTO kept (tenant, scope, name, value, size, updated_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, scope, name) DO UPDATE SET value = excluded.value, size = excluded.size,
updated_at = excluded.updated_at;

-- name: remove
-- Delete a value.
DELETE FROM kept WHERE tenant = ? AND scope = ? AND name = ? RETURNING name;

-- name: forget
-- Delete values that were not updated since a time, in scopes with a prefix.
DELETE FROM kept WHERE scope LIKE ? AND updated_at < ?;
