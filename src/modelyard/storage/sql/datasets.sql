-- name: add
-- Add a dataset.
INSERT INTO datasets (tenant, id, name, description, settings, created_by, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: get
-- A dataset of a tenant by id.
SELECT * FROM datasets WHERE tenant = :tenant AND id = :id;

-- name: named
-- A dataset of a tenant by name.
SELECT * FROM datasets WHERE tenant = :tenant AND name = :name;

-- name: of_tenant
-- The datasets of a tenant, newest first.
SELECT * FROM datasets WHERE tenant = :tenant ORDER BY created_at DESC, id DESC;

-- name: change
-- Change name, description and settings of a dataset.
UPDATE datasets SET name = ?, description = ?, settings = ?, updated_at = ? WHERE tenant = ? AND id = ? RETURNING id;

-- name: exists
-- Whether a dataset exists.
SELECT 1 AS found FROM datasets WHERE tenant = ? AND id = ?;

-- name: bump
-- Increment the index generation. On PostgreSQL the row stays locked until the end of the transaction,
-- so changes of one dataset are serialised.
UPDATE datasets SET generation = generation + 1 WHERE tenant = ? AND id = ? RETURNING generation, space, dimensions, model;

-- name: measure
-- Store the embedding model and the number of dimensions once they are known.
UPDATE datasets SET dimensions = ?, model = ? WHERE id = ?;

-- name: switch
-- Switch to another index space.
UPDATE datasets SET space = ?, dimensions = ?, model = ?, settings = ? WHERE id = ?;

-- name: delete
-- Delete a dataset.
DELETE FROM datasets WHERE tenant = ? AND id = ?;
