-- name: add
-- A segment.
INSERT INTO segments (tenant, dataset, document, id, position, content, answer, keywords, summary, heading, page, start, stop, words, tokens, digest, is_enabled, hits, error, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: listed
-- A document's, in order.
SELECT * FROM segments WHERE tenant = :tenant AND document = :document AND (:keyword = '' OR lower(content) LIKE :keyword)
  AND (:enabled < 0 OR is_enabled = :enabled)
ORDER BY position, id LIMIT :most OFFSET :skip;

-- name: count
-- How many those are.
SELECT COUNT(*) AS count FROM segments WHERE tenant = :tenant AND document = :document AND (:keyword = '' OR lower(content) LIKE :keyword)
  AND (:enabled < 0 OR is_enabled = :enabled);

-- name: get
-- One of a document.
SELECT * FROM segments WHERE tenant = :tenant AND document = :document AND id = :id;

-- name: last
-- Where the next goes.
SELECT COALESCE(MAX(position), 0) AS position FROM segments WHERE document = ?;

-- name: change
-- Other words, switched on or off.
UPDATE segments SET content = ?, answer = ?, keywords = ?, summary = ?, words = ?, tokens = ?, digest = ?, is_enabled = ?, updated_at = ? WHERE tenant = ? AND document = ? AND id = ? RETURNING id;

-- name: delete
-- It is gone.
DELETE FROM segments WHERE tenant = ? AND document = ? AND id = ? RETURNING id;

-- name: delete_of_document
-- All of a document's are gone.
DELETE FROM segments WHERE document = ?;

-- name: delete_of_dataset
-- All of a dataset's are gone.
DELETE FROM segments WHERE dataset = ?;

-- name: of_ids
-- Those of a tenant's that may be found.
SELECT * FROM segments WHERE tenant || '' = ? AND is_enabled = 1 AND id IN (*);

-- name: hit
-- Each was found once more.
UPDATE segments SET hits = hits + 1 WHERE id IN (*);

-- name: totals
-- What a document has.
SELECT COUNT(*) AS count, COALESCE(SUM(words), 0) AS words, COALESCE(SUM(tokens), 0) AS tokens FROM segments WHERE document = ?;

-- name: of_dataset
-- All of a dataset's, in short.
SELECT id, document, is_enabled FROM segments WHERE dataset = :dataset;

-- name: add_child
-- A piece of a segment.
INSERT INTO children (tenant, dataset, document, segment, id, position, content, kind, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: children
-- A segment's, in order.
SELECT * FROM children WHERE tenant = :tenant AND segment = :segment AND (:keyword = '' OR lower(content) LIKE :keyword)
ORDER BY position, id LIMIT :most OFFSET :skip;

-- name: count_children
-- How many those are.
SELECT COUNT(*) AS count FROM children WHERE tenant = :tenant AND segment = :segment AND (:keyword = '' OR lower(content) LIKE :keyword);

-- name: child
-- One of a segment.
SELECT * FROM children WHERE tenant = :tenant AND segment = :segment AND id = :id;

-- name: delete_children_of
-- All of a segment's.
DELETE FROM children WHERE tenant = ? AND segment = ?;

-- name: delete_children_of_document
-- All of a document's are gone.
DELETE FROM children WHERE document = ?;

-- name: delete_children_of_dataset
-- All of a dataset's are gone.
DELETE FROM children WHERE dataset = ?;

-- name: children_of_ids
-- Some of a tenant's.
SELECT * FROM children WHERE tenant || '' = ? AND id IN (*);
