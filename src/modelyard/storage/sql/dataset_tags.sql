-- name: add
-- A tag.
INSERT INTO dataset_tags (tenant, id, name) VALUES (?, ?, ?);

-- name: of_tenant
-- A tenant's tags, and how many datasets have each.
SELECT id, name, (SELECT COUNT(*) FROM dataset_tag_bindings WHERE dataset_tag_bindings.tag = dataset_tags.id) AS count
FROM dataset_tags WHERE tenant = :tenant ORDER BY name;

-- name: rename
-- Another name.
UPDATE dataset_tags SET name = ? WHERE tenant = ? AND id = ? RETURNING id;

-- name: delete
-- It is gone.
DELETE FROM dataset_tags WHERE tenant = ? AND id = ? RETURNING id;

-- name: unbind_tag
-- From all datasets.
DELETE FROM dataset_tag_bindings WHERE tenant = ? AND tag = ?;

-- name: bind
-- A dataset has a tag.
INSERT INTO dataset_tag_bindings (tenant, tag, dataset) VALUES (?, ?, ?) ON CONFLICT (tag, dataset) DO NOTHING;

-- name: unbind
-- It has it no more.
DELETE FROM dataset_tag_bindings WHERE tenant = ? AND tag = ? AND dataset = ?;

-- name: bindings
-- Which datasets have which tags.
SELECT dataset, tag, name FROM dataset_tag_bindings JOIN dataset_tags ON dataset_tags.id = dataset_tag_bindings.tag
WHERE dataset_tag_bindings.tenant = :tenant ORDER BY name;

-- name: unbind_dataset
-- A dataset is gone, with what it was tagged.
DELETE FROM dataset_tag_bindings WHERE dataset = ?;
