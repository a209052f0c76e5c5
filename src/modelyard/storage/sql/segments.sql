-- name: add
-- Add a segment.
INSERT INTO segments (tenant, dataset, document, id, position, content, answer, keywords, summary, heading, page, start, stop, words, tokens, digest, is_enabled, hits, error, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: listed
-- The segments of a document in order.
SELECT * FROM segments WHERE tenant = :tenant AND document = :document AND (:keyword = '' OR lower(content) LIKE :keyword)
  AND (:enabled < 0 OR is_enabled = :enabled)
ORDER BY position, id LIMIT :most OFFSET :skip;

-- name: count
-- The number of segments that the same filter matches.
SELECT COUNT(*) AS count FROM segments WHERE tenant = :tenant AND document = :document AND (:keyword = '' OR lower(content) LIKE :keyword)
  AND (:enabled < 0 OR is_enabled = :enabled);

-- name: get
-- One segment of a document.
SELECT * FROM segments WHERE tenant = :tenant AND document = :document AND id = :id;

-- name: last
-- The highest position in a document.
SELECT COALESCE(MAX(position), 0) AS position FROM segments WHERE tenant = ? AND document = ?;

-- name: change
-- Change the content and state of a segment.
UPDATE segments SET content = ?, answer = ?, keywords = ?, summary = ?, words = ?, tokens = ?, digest = ?, is_enabled = ?, updated_at = ? WHERE tenant = ? AND document = ? AND id = ? RETURNING id;

-- name: delete
-- Delete a segment.
DELETE FROM segments WHERE tenant = ? AND document = ? AND id = ? RETURNING id;

-- name: delete_of_document
-- Delete all segments of a document.
DELETE FROM segments WHERE tenant = ? AND document = ?;

-- name: delete_of_dataset
-- Delete all segments of a dataset.
DELETE FROM segments WHERE dataset = ?;

-- name: of_ids
-- Several enabled segments of a tenant by id.
SELECT * FROM segments WHERE tenant || '' = ? AND is_enabled = 1 AND id IN (*);

-- name: hit
-- Count a hit for each segment.
UPDATE segments SET hits = hits + 1 WHERE id IN (*);

-- name: totals
-- Numbers of segments, words and tokens of a document.
SELECT COUNT(*) AS count, COALESCE(SUM(words), 0) AS words, COALESCE(SUM(tokens), 0) AS tokens FROM segments WHERE tenant = ? AND document = ?;

-- name: of_dataset
-- Ids and states of all segments of a dataset.
SELECT id, document, is_enabled FROM segments WHERE dataset = :dataset;

-- name: add_child
-- Add a child chunk to a segment.
INSERT INTO children (tenant, dataset, document, segment, id, position, content, kind, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: children
-- The child chunks of a segment in order.
SELECT * FROM children WHERE tenant = :tenant AND segment = :segment AND (:keyword = '' OR lower(content) LIKE :keyword)
ORDER BY position, id LIMIT :most OFFSET :skip;

-- name: count_children
-- The number of child chunks that the same filter matches.
SELECT COUNT(*) AS count FROM children WHERE tenant = :tenant AND segment = :segment AND (:keyword = '' OR lower(content) LIKE :keyword);

-- name: child
-- One child chunk of a segment.
SELECT * FROM children WHERE tenant = :tenant AND segment = :segment AND id = :id;

-- name: delete_children_of
-- Delete the child chunks of a segment.
DELETE FROM children WHERE tenant = ? AND segment = ?;

-- name: delete_children_of_document
-- Delete the child chunks of a document.
DELETE FROM children WHERE document = ?;

-- name: delete_children_of_dataset
-- Delete the child chunks of a dataset.
DELETE FROM children WHERE dataset = ?;

-- name: children_of_ids
-- Several child chunks of a tenant by id.
SELECT * FROM children WHERE tenant || '' = ? AND id IN (*);
