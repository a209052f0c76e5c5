-- name: asked
-- Record a query.
INSERT INTO dataset_queries (tenant, dataset, content, source, created_at) VALUES (?, ?, ?, ?, ?);

-- name: newest
-- The recorded queries of a dataset, newest first.
SELECT content, source, created_at FROM dataset_queries WHERE tenant = :tenant AND dataset = :dataset ORDER BY created_at DESC LIMIT :most;

-- name: delete_of_dataset
-- Delete the recorded queries of a dataset.
DELETE FROM dataset_queries WHERE tenant = ? AND dataset = ?;
