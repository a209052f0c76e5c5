-- name: add
-- Add a tag.
INSERT INTO dataset_tags (tenant, id, name) VALUES (?, ?, ?);

-- name: of_tenant
-- The tags of a tenant with their numbers of datasets.
SELECT id, name, (SELECT COUNT(*) FROM dataset_tag_bindings WHERE dataset_tag_bindings.tag = dataset_tags.id) AS count
FROM dataset_tags WHERE tenant = :tenant ORDER BY name;

-- name: rename
-- Rename a tag.
UPDATE dataset_tags SET name = ? WHERE tenant = ? AND id = ? RETURNING id;

-- name: delete
-- Delete a tag.
DELETE FROM dataset_tags WHERE tenant = ? AND id = ? RETURNING id;

-- name: unbind_tag
-- Remove a tag from all datasets.
DELETE FROM dataset_tag_bindings WHERE tenant = ? AND tag = ?;

-- name: bind
-- Add a tag to a dataset.
INSERT INTO dataset_tag_bindings (tenant, tag, dataset) VALUES (?, ?, ?) ON CONFLICT (tag, dataset) DO NOTHING;

-- name: unbind
-- Remove a tag from a dataset.
DELETE FROM dataset_tag_bindings WHERE tenant = ? AND tag = ? AND dataset = ?;

-- name: bindings
-- The tags of all datasets of a tenant.
SELECT dataset, tag, name FROM dataset_tag_bindings JOIN dataset_tags ON dataset_tags.id = dataset_tag_bindings.tag
WHERE dataset_tag_bindings.tenant = :tenant ORDER BY name;

-- name: unbind_dataset
-- Remove all tags from a dataset.
DELETE FROM dataset_tag_bindings WHERE tenant = ? AND dataset = ?;
