-- name: add
-- A dataset.
INSERT INTO datasets (tenant, id, name, description, settings, created_by, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: get
-- One of a tenant's.
SELECT * FROM datasets WHERE tenant = :tenant AND id = :id;

-- name: named
-- One by its name.
SELECT * FROM datasets WHERE tenant = :tenant AND name = :name;

-- name: of_tenant
-- A tenant's, newest first.
SELECT * FROM datasets WHERE tenant = :tenant ORDER BY created_at DESC, id DESC;

-- name: change
-- Another name, description, settings.
UPDATE datasets SET name = ?, description = ?, settings = ?, updated_at = ? WHERE tenant = ? AND id = ? RETURNING id;

-- name: exists
-- Whether there is one.
SELECT 1 AS found FROM datasets WHERE tenant = ? AND id = ?;

-- name: bump
-- Its index changes. In PostgreSQL the row stays locked until the end of it: changes of one dataset come one by one.
UPDATE datasets SET generation = generation + 1 WHERE tenant = ? AND id = ? RETURNING generation, space, dimensions, model;

-- name: measure
-- How long its vectors are, and whose, once that is known.
UPDATE datasets SET dimensions = ?, model = ? WHERE id = ?;

-- name: switch
-- Another index is in use.
UPDATE datasets SET space = ?, dimensions = ?, model = ?, settings = ? WHERE id = ?;

-- name: delete
-- It is gone.
DELETE FROM datasets WHERE tenant = ? AND id = ?;
