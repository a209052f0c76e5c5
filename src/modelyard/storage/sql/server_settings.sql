-- name: version
-- The number of the latest version; 0 before the first.
SELECT COALESCE(MAX(version), 0) AS version FROM server_settings;

-- name: latest
-- The latest version.
SELECT version, sealed, changed_at, changed_by FROM server_settings ORDER BY version DESC LIMIT 1;

-- name: add
-- The next version. Another server that adds the same one fails.
INSERT INTO server_settings (version, sealed, changed_at, changed_by) VALUES (?, ?, ?, ?);

-- name: forget
-- Delete versions before one.
DELETE FROM server_settings WHERE version < ?;
