-- name: last_position
-- Where the next document goes.
SELECT COALESCE(MAX(position), 0) AS position FROM documents WHERE tenant = ? AND dataset = ?;

-- name: add
-- A document.
INSERT INTO documents (tenant, dataset, id, position, name, batch, source, form, language, rule, status, error, is_enabled, is_archived, metadata, readers, words, tokens, segments, done, hits, digest, times, command, created_by, created_at, updated_at, owner, lease_until, api_key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: get
-- One of a dataset.
SELECT * FROM documents WHERE tenant = :tenant AND dataset = :dataset AND id = :id;

-- name: listed
-- A dataset's, in order.
SELECT * FROM documents WHERE tenant = :tenant AND dataset = :dataset AND (:keyword = '' OR lower(name) LIKE :keyword)
  AND (:batch = '' OR batch = :batch)
  AND (:state = ''
    OR (:state = 'queuing' AND status = 'waiting')
    OR (:state = 'indexing' AND status IN ('parsing', 'cleaning', 'splitting', 'indexing'))
    OR (:state = 'paused' AND status = 'paused')
    OR (:state = 'error' AND status = 'error')
    OR (:state = 'completed' AND status = 'completed')
    OR (:state = 'available' AND status = 'completed' AND is_enabled = 1 AND is_archived = 0)
    OR (:state = 'disabled' AND status = 'completed' AND is_enabled = 0 AND is_archived = 0)
    OR (:state = 'archived' AND is_archived = 1))
ORDER BY position DESC, id DESC LIMIT :most OFFSET :skip;

-- name: count
-- How many those are.
SELECT COUNT(*) AS count FROM documents WHERE tenant = :tenant AND dataset = :dataset AND (:keyword = '' OR lower(name) LIKE :keyword)
  AND (:batch = '' OR batch = :batch)
  AND (:state = ''
    OR (:state = 'queuing' AND status = 'waiting')
    OR (:state = 'indexing' AND status IN ('parsing', 'cleaning', 'splitting', 'indexing'))
    OR (:state = 'paused' AND status = 'paused')
    OR (:state = 'error' AND status = 'error')
    OR (:state = 'completed' AND status = 'completed')
    OR (:state = 'available' AND status = 'completed' AND is_enabled = 1 AND is_archived = 0)
    OR (:state = 'disabled' AND status = 'completed' AND is_enabled = 0 AND is_archived = 0)
    OR (:state = 'archived' AND is_archived = 1));

-- name: of_ids
-- Some of a tenant's.
SELECT * FROM documents WHERE tenant || '' = ? AND id IN (*);

-- name: exists
-- Whether there is one.
SELECT 1 AS found FROM documents WHERE id = ? AND tenant = ?;

-- name: counts
-- What is in a tenant's datasets.
SELECT dataset, COUNT(*) AS documents, COALESCE(SUM(words), 0) AS words,
  COALESCE(SUM(CASE WHEN status = 'completed' AND is_enabled = 1 AND is_archived = 0 THEN 1 ELSE 0 END), 0) AS available
FROM documents WHERE tenant = :tenant AND (:dataset = '' OR dataset = :dataset) GROUP BY dataset;

-- name: unfinished
-- How many of a batch are still on their way.
SELECT COUNT(*) AS count FROM documents WHERE tenant = :tenant AND dataset = :dataset AND batch = :batch
  AND status NOT IN ('completed', 'error', 'paused');

-- name: about
-- What filters look at, of all that may be found.
SELECT id, name, metadata, source, readers, created_by, created_at, updated_at FROM documents
WHERE tenant = :tenant AND dataset = :dataset AND status IN ('completed', 'parsing', 'cleaning', 'splitting', 'indexing', 'waiting', 'paused', 'error')
  AND is_enabled = 1 AND is_archived = 0;

-- name: has_exceptions
-- Whether there is a document that not everybody finds.
SELECT 1 AS found FROM documents WHERE dataset = :dataset AND (readers <> '[]' OR is_enabled = 0 OR is_archived = 1) LIMIT 1;

-- name: sources
-- What came from where, for those who bring it up to date.
SELECT id, name, digest, source, status FROM documents WHERE tenant = :tenant AND dataset = :dataset;

-- name: describe
-- Another name, other metadata, other readers.
UPDATE documents SET name = ?, metadata = ?, readers = ?, updated_at = ? WHERE tenant = ? AND dataset = ? AND id = ? RETURNING id;

-- name: again
-- It is to be indexed anew: of another source, perhaps, or by other rules.
UPDATE documents SET name = ?, source = ?, form = ?, language = ?, rule = ?, metadata = ?, digest = ?, batch = ?, status = 'waiting', error = '', command = '', times = '{}', done = 0, turn = turn + 1, owner = '', lease_until = 0, updated_at = ?
WHERE tenant = ? AND dataset = ? AND id = ? RETURNING id;

-- name: retry
-- What failed is tried again, what paused goes on.
UPDATE documents SET status = 'waiting', error = '', command = '', owner = '', lease_until = 0, updated_at = ?
WHERE tenant = ? AND dataset = ? AND id = ? AND (status IN ('error', 'paused') OR command <> '') RETURNING id;

-- name: command
-- Somebody wants it to pause, or to stop.
UPDATE documents SET command = ?, updated_at = ? WHERE tenant = ? AND dataset = ? AND id = ? AND status NOT IN ('completed', 'error', 'paused') RETURNING id;

-- name: obey
-- Nobody has it who could be told: it pauses, or stops, at once.
UPDATE documents SET status = ?, command = '', error = ? WHERE id = ? AND tenant = ? AND owner = '' AND status = 'waiting' AND command <> '';

-- name: flags
-- Switched on or off, put away or taken back.
UPDATE documents SET is_enabled = ?, is_archived = ?, updated_at = ? WHERE tenant = ? AND dataset = ? AND id = ? RETURNING id;

-- name: recount
-- Its segments were changed by hand.
UPDATE documents SET segments = ?, done = ?, words = ?, tokens = ?, updated_at = ? WHERE id = ?;

-- name: sizes
-- How many segments each says that it has.
SELECT id, segments FROM documents WHERE dataset = :dataset AND status = 'completed';

-- name: hit
-- Something of each was found once more.
UPDATE documents SET hits = hits + 1 WHERE id IN (*);

-- name: delete
-- It is gone.
DELETE FROM documents WHERE tenant = ? AND dataset = ? AND id = ? RETURNING id;

-- name: delete_of_dataset
-- All of a dataset's are.
DELETE FROM documents WHERE tenant = ? AND dataset = ? RETURNING id;

-- name: commands
-- What is wanted of documents that a process has.
SELECT id, command FROM documents WHERE owner = :owner AND command <> '';

-- name: to_do
-- Documents that nobody has.
SELECT id, owner FROM documents WHERE status IN ('waiting', 'parsing', 'cleaning', 'splitting', 'indexing') AND (lease_until < :now OR owner = '')
ORDER BY created_at, position LIMIT :most;

-- name: owned
-- Owners of documents that are being worked on.
SELECT DISTINCT owner FROM documents WHERE status IN ('waiting', 'parsing', 'cleaning', 'splitting', 'indexing') AND owner <> '';

-- name: release
-- A process is gone; what it had is free.
UPDATE documents SET owner = '', lease_until = 0 WHERE owner = ? AND status IN ('waiting', 'parsing', 'cleaning', 'splitting', 'indexing');

-- name: claim
-- This process has it.
UPDATE documents SET owner = ?, lease_until = ? WHERE id = ? AND status IN ('waiting', 'parsing', 'cleaning', 'splitting', 'indexing') AND (lease_until < ? OR owner = '') RETURNING *;

-- name: renew
-- Its process is there.
UPDATE documents SET lease_until = ? WHERE owner = ? AND status IN ('waiting', 'parsing', 'cleaning', 'splitting', 'indexing');

-- name: give_back
-- Somebody else may have it.
UPDATE documents SET owner = '', lease_until = 0 WHERE id = ? AND owner = ?;

-- name: progress
-- How far it is.
UPDATE documents SET status = ?, segments = ?, done = ?, times = ? WHERE id = ? AND owner = ? AND turn = ?;

-- name: failed
-- It could not be read, or was told to wait.
UPDATE documents SET status = ?, error = ?, command = '', owner = '', lease_until = 0, times = ?, updated_at = ? WHERE id = ? AND owner = ? AND turn = ? RETURNING id;

-- name: turns
-- Which of these a process has, and in which turn.
SELECT id, turn FROM documents WHERE dataset = ? AND owner = ? AND id IN (*);

-- name: finished
-- It can be searched.
UPDATE documents SET status = 'completed', error = '', command = '', owner = '', lease_until = 0, words = ?, tokens = ?, segments = ?, done = ?, digest = ?, metadata = ?, times = ?, updated_at = ?
WHERE id = ?;
