-- name: asked
-- What was looked for.
INSERT INTO dataset_queries (tenant, dataset, content, source, created_at) VALUES (?, ?, ?, ?, ?);

-- name: newest
-- The newest of that.
SELECT content, source, created_at FROM dataset_queries WHERE tenant = :tenant AND dataset = :dataset ORDER BY created_at DESC LIMIT :most;

-- name: delete_of_dataset
-- A dataset is gone, with what it was asked.
DELETE FROM dataset_queries WHERE dataset = ?;
