-- name: get
-- One value.
SELECT value FROM plugin_storage WHERE tenant = :tenant AND plugin = :plugin AND name = :name;

-- name: others
-- The size in bytes of the plugin's values, without one name.
SELECT COALESCE(SUM(size), 0) AS held FROM plugin_storage WHERE tenant = ? AND plugin = ? AND name <> ?;

-- name: put
-- Add or replace a value.
INSERT INTO plugin_storage (tenant, plugin, name, value, size) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant, plugin, name) DO UPDATE SET value = excluded.value, size = excluded.size;

-- name: remove
-- Delete a value.
DELETE FROM plugin_storage WHERE tenant = ? AND plugin = ? AND name = ? RETURNING name;

-- name: clear
-- Delete all values of a plugin.
DELETE FROM plugin_storage WHERE tenant = ? AND plugin = ?;
