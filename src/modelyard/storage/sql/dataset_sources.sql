-- name: add
-- Add a source, unless its dataset has one with its name or its address.
INSERT INTO dataset_sources (id, tenant, dataset, name, connector, address, settings, secret, access, schedule, timezone,
                             is_enabled, is_operators, created_at, due_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING *;

-- name: of_dataset
-- The sources of a dataset, by name.
SELECT * FROM dataset_sources WHERE tenant = :tenant AND dataset = :dataset ORDER BY name;

-- name: of_tenant
-- The sources of a tenant, for the rotation of the master key.
SELECT * FROM dataset_sources WHERE tenant = :tenant ORDER BY id;

-- name: one
-- A source by its id or its name.
SELECT * FROM dataset_sources WHERE tenant = :tenant AND dataset = :dataset AND (id = :source OR name = :source)
ORDER BY CASE WHEN id = :source THEN 0 ELSE 1 END LIMIT 1;

-- name: change
-- Change a source. A synchronisation that is under way loses its claim, and starts again with the new settings.
UPDATE dataset_sources SET name = ?, settings = ?, secret = ?, access = ?, schedule = ?, timezone = ?, is_enabled = ?,
                           due_at = ?, owner = '', lease_until = 0, attempt = attempt + 1
WHERE tenant = ? AND id = ? RETURNING *;

-- name: reseal
-- Store credentials that were encrypted again, unless they were changed in the meantime.
UPDATE dataset_sources SET secret = ? WHERE tenant = ? AND id = ? AND secret = ? RETURNING id;

-- name: request
-- Have a source synchronised as soon as possible, also if it is disabled.
UPDATE dataset_sources SET due_at = ? WHERE tenant = ? AND id = ? AND owner = '' RETURNING *;

-- name: stop
-- Disable a source, and have a synchronisation that is under way stop.
UPDATE dataset_sources SET is_enabled = 0, due_at = NULL, attempt = attempt + 1 WHERE tenant = ? AND id = ? RETURNING *;

-- name: remove
-- Remove a source.
DELETE FROM dataset_sources WHERE tenant = ? AND id = ? RETURNING id;

-- name: remove_all
-- Remove the sources of a deleted dataset.
DELETE FROM dataset_sources WHERE tenant = ? AND dataset = ?;

-- name: due
-- Sources whose synchronisation is due, longest waiting first; some may have an owner that has stopped.
SELECT id, owner, lease_until FROM dataset_sources WHERE due_at IS NOT NULL AND due_at <= :now ORDER BY due_at LIMIT 50;

-- name: claim
-- Claim a due source that has no living owner; another process may have been faster.
UPDATE dataset_sources SET owner = ?, lease_until = ?, attempt = attempt + 1, started_at = ?
WHERE id = ? AND due_at IS NOT NULL AND due_at <= ? AND owner = ? AND lease_until = ? RETURNING *;

-- name: renew
-- Extend the lease of a source that is still claimed.
UPDATE dataset_sources SET lease_until = ? WHERE id = ? AND owner = ? AND attempt = ? RETURNING id;

-- name: finish
-- Store how a synchronisation ended, and when the next one is due.
UPDATE dataset_sources SET owner = '', lease_until = 0, finished_at = ?, report = ?, error = ?, due_at = ?
WHERE id = ? AND owner = ? AND attempt = ? RETURNING id;

-- name: release
-- Give up a source without a result: it stays due, unless it was stopped.
UPDATE dataset_sources SET owner = '', lease_until = 0 WHERE id = ? AND owner = ? AND attempt <= ? RETURNING id;
