-- name: revision
-- The revision of the latest change.
SELECT value FROM revisions WHERE name = 'resources';

-- name: raise
-- Increment the revision and return it.
UPDATE revisions SET value = value + 1 WHERE name = 'resources' RETURNING value;

-- name: since
-- Resources of all tenants that changed after a revision; updates the view of each process.
SELECT * FROM resources WHERE revision > :revision ORDER BY revision;

-- name: all
-- The resources of a tenant and kind, by name.
SELECT * FROM resources WHERE tenant = :tenant AND kind = :kind AND is_deleted = 0 AND name > :after
ORDER BY name LIMIT :most;

-- name: one
-- One resource of a tenant.
SELECT * FROM resources WHERE tenant = :tenant AND kind = :kind AND id = :id AND is_deleted = 0;

-- name: add
-- Add a resource.
INSERT INTO resources (tenant, kind, id, name, body, revision, created_at, updated_at, set_by)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: change
-- Change a resource.
UPDATE resources SET name = ?, body = ?, revision = ?, updated_at = ?, set_by = ?
WHERE tenant = ? AND kind = ? AND id = ? AND is_deleted = 0 RETURNING id;

-- name: swap
-- Change the body of a resource, unless the resource changed since it was read.
UPDATE resources SET body = ?, revision = ?, updated_at = ?
WHERE tenant = ? AND kind = ? AND id = ? AND revision = ? AND is_deleted = 0 RETURNING id;

-- name: remove
-- Mark a resource as deleted. Its content is deleted at once, its row later.
UPDATE resources SET body = '{}', revision = ?, updated_at = ?, is_deleted = 1
WHERE tenant = ? AND kind = ? AND id = ? AND is_deleted = 0 RETURNING id;

-- name: forget
-- Delete the rows of resources that were removed long ago. Rows of tenants are retained for ever, so
-- that a new tenant never inherits the data of a deleted one.
DELETE FROM resources WHERE is_deleted = 1 AND updated_at < ? AND kind <> 'tenant';
