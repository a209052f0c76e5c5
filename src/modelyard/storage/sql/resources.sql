-- name: revision
-- The number of the latest change.
SELECT value FROM revisions WHERE name = 'resources';

-- name: raise
-- A change is about to be made; its number.
UPDATE revisions SET value = value + 1 WHERE name = 'resources' RETURNING value;

-- name: since
-- What was changed after a revision, by any tenant: for the view that each process keeps.
SELECT * FROM resources WHERE revision > :revision ORDER BY revision;

-- name: all
-- A tenant's resources of a kind, in the order of their names.
SELECT * FROM resources WHERE tenant = :tenant AND kind = :kind AND is_deleted = 0 AND name > :after
ORDER BY name LIMIT :most;

-- name: one
-- One resource of a tenant.
SELECT * FROM resources WHERE tenant = :tenant AND kind = :kind AND id = :id AND is_deleted = 0;

-- name: add
-- A new one.
INSERT INTO resources (tenant, kind, id, name, body, revision, created_at, updated_at, set_by)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: change
-- One of a tenant's, changed.
UPDATE resources SET name = ?, body = ?, revision = ?, updated_at = ?, set_by = ?
WHERE tenant = ? AND kind = ? AND id = ? AND is_deleted = 0 RETURNING id;

-- name: swap
-- One of a tenant's, changed where it is as it was read.
UPDATE resources SET body = ?, revision = ?, updated_at = ?
WHERE tenant = ? AND kind = ? AND id = ? AND revision = ? AND is_deleted = 0 RETURNING id;

-- name: remove
-- One of a tenant's, gone: its words at once, that it was there a while later.
UPDATE resources SET body = '{}', revision = ?, updated_at = ?, is_deleted = 1
WHERE tenant = ? AND kind = ? AND id = ? AND is_deleted = 0 RETURNING id;

-- name: forget
-- Those that were removed long ago. That a tenant was is known for ever: what was its own must not come to life again.
DELETE FROM resources WHERE is_deleted = 1 AND updated_at < ? AND kind <> 'tenant';
