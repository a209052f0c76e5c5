-- name: get
-- One value.
SELECT value, updated_at FROM kept WHERE tenant = :tenant AND scope = :scope AND name = :name;

-- name: list
-- What a scope holds, newest first.
SELECT name, size, updated_at FROM kept WHERE tenant = :tenant AND scope = :scope
ORDER BY updated_at DESC, name LIMIT :most;

-- name: values
-- The same with the values.
SELECT name, value, updated_at FROM kept WHERE tenant = :tenant AND scope = :scope
ORDER BY updated_at DESC, name LIMIT :most;

-- name: others
-- What a scope holds beside one name.
SELECT COALESCE(SUM(size), 0) AS held, COUNT(*) AS count FROM kept WHERE tenant = ? AND scope = ? AND name <> ?;

-- name: put
-- Keep a value.
INSERT INTO kept (tenant, scope, name, value, size, updated_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, scope, name) DO UPDATE SET value = excluded.value, size = excluded.size,
updated_at = excluded.updated_at;

-- name: remove
-- One value goes.
DELETE FROM kept WHERE tenant = ? AND scope = ? AND name = ? RETURNING name;

-- name: forget
-- What has not been touched since then, of scopes that begin so.
DELETE FROM kept WHERE scope LIKE ? AND updated_at < ?;
