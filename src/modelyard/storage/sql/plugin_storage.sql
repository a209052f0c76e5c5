-- name: get
-- A value.
SELECT value FROM plugin_storage WHERE tenant = :tenant AND plugin = :plugin AND name = :name;

-- name: others
-- What the plugin holds beside one value, in bytes.
SELECT COALESCE(SUM(size), 0) AS held FROM plugin_storage WHERE tenant = ? AND plugin = ? AND name <> ?;

-- name: put
-- A value, in the place of what was there.
INSERT INTO plugin_storage (tenant, plugin, name, value, size) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant, plugin, name) DO UPDATE SET value = excluded.value, size = excluded.size;

-- name: remove
-- One value.
DELETE FROM plugin_storage WHERE tenant = ? AND plugin = ? AND name = ? RETURNING name;

-- name: clear
-- All of a plugin's.
DELETE FROM plugin_storage WHERE tenant = ? AND plugin = ?;
