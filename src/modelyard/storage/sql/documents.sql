-- name: last_position
-- The highest position in a dataset.
SELECT COALESCE(MAX(position), 0) AS position FROM documents WHERE tenant = ? AND dataset = ?;

-- name: add
-- Add a document, unless the dataset has one of the same source.
INSERT INTO documents (tenant, dataset, id, position, name, batch, source, form, language, rule, status, error, is_enabled, is_archived, metadata, readers, words, tokens, segments, done, hits, digest, times, command, created_by, created_at, updated_at, owner, lease_until, api_key, source_key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (dataset, source_key) WHERE source_key <> '' DO NOTHING RETURNING id;

-- name: get
-- One document of a dataset.
SELECT * FROM documents WHERE tenant = :tenant AND dataset = :dataset AND id = :id;

-- name: of_source
-- The document of a dataset that was read from a source.
SELECT * FROM documents WHERE tenant || '' = :tenant AND dataset = :dataset AND source_key = :source_key AND source_key <> '';

-- name: listed
-- The documents of a dataset that match a filter.
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
-- The number of documents that the same filter matches.
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
-- Several documents of a tenant by id.
SELECT * FROM documents WHERE tenant || '' = ? AND id IN (*);

-- name: exists
-- Whether a document exists.
SELECT 1 AS found FROM documents WHERE id = ? AND tenant = ?;

-- name: counts
-- Numbers of documents and words of a tenant's datasets.
SELECT dataset, COUNT(*) AS documents, COALESCE(SUM(words), 0) AS words,
  COALESCE(SUM(CASE WHEN status = 'completed' AND is_enabled = 1 AND is_archived = 0 THEN 1 ELSE 0 END), 0) AS available
FROM documents WHERE tenant = :tenant AND (:dataset = '' OR dataset = :dataset) GROUP BY dataset;

-- name: unfinished
-- The number of documents of a batch that are still being indexed.
SELECT COUNT(*) AS count FROM documents WHERE tenant = :tenant AND dataset = :dataset AND batch = :batch
  AND status NOT IN ('completed', 'error', 'paused');

-- name: about
-- Properties of searchable documents for filters.
SELECT id, name, metadata, source, readers, created_by, created_at, updated_at FROM documents
WHERE tenant = :tenant AND dataset = :dataset AND status IN ('completed', 'parsing', 'cleaning', 'splitting', 'indexing', 'waiting', 'paused', 'error')
  AND is_enabled = 1 AND is_archived = 0;

-- name: filter_changes
-- Properties for filters of the documents that changed after a generation of their dataset.
SELECT id, name, metadata, source, readers, created_by, created_at, updated_at, is_enabled, is_archived FROM documents
WHERE tenant = :tenant AND dataset = :dataset AND generation > :since;

-- name: has_exceptions
-- Whether a document is restricted, disabled or archived.
SELECT 1 AS found FROM documents WHERE dataset = :dataset AND (readers <> '[]' OR is_enabled = 0 OR is_archived = 1) LIMIT 1;

-- name: has_lists
-- Whether a document has an access list.
SELECT 1 AS found FROM documents WHERE dataset = :dataset AND readers <> '[]' LIMIT 1;

-- name: set_readers
-- Change the access list of a document, whose content stays as old as it was.
UPDATE documents SET readers = ?, generation = ? WHERE tenant = ? AND dataset = ? AND id = ? RETURNING id;

-- name: sources
-- Sources, digests and access lists of the documents of a dataset, for synchronisation.
SELECT id, name, digest, source, status, readers FROM documents WHERE tenant = :tenant AND dataset = :dataset;

-- name: describe
-- Change name, metadata and readers of a document.
UPDATE documents SET name = ?, metadata = ?, readers = ?, updated_at = ?, generation = ? WHERE tenant = ? AND dataset = ? AND id = ? RETURNING id;

-- name: again
-- Queue a document for indexing again, with a new source or new rules.
UPDATE documents SET name = ?, source = ?, source_key = ?, form = ?, language = ?, rule = ?, metadata = ?, digest = ?, batch = ?, status = 'waiting', error = '', command = '', times = '{}', done = 0, turn = turn + 1, owner = '', lease_until = 0, updated_at = ?, generation = ?
WHERE tenant = ? AND dataset = ? AND id = ? RETURNING id;

-- name: retry
-- Queue a failed or paused document again.
UPDATE documents SET status = 'waiting', error = '', command = '', owner = '', lease_until = 0, updated_at = ?
WHERE tenant = ? AND dataset = ? AND id = ? AND (status IN ('error', 'paused') OR command <> '') RETURNING id;

-- name: command
-- Request that indexing of a document pauses or stops.
UPDATE documents SET command = ?, updated_at = ? WHERE tenant = ? AND dataset = ? AND id = ? AND status NOT IN ('completed', 'error', 'paused') RETURNING id;

-- name: obey
-- Apply a command at once to a document that no process is indexing.
UPDATE documents SET status = ?, command = '', error = ? WHERE id = ? AND tenant = ? AND owner = '' AND status = 'waiting' AND command <> '';

-- name: flags
-- Enable, disable, archive or restore a document.
UPDATE documents SET is_enabled = ?, is_archived = ?, updated_at = ?, generation = ? WHERE tenant = ? AND dataset = ? AND id = ? RETURNING id;

-- name: recount
-- Store the new counts after segments were edited.
UPDATE documents SET segments = ?, done = ?, words = ?, tokens = ?, updated_at = ?, generation = ? WHERE id = ?;

-- name: sizes
-- The stored segment counts of the documents of a dataset.
SELECT id, segments FROM documents WHERE tenant = :tenant AND dataset = :dataset AND status = 'completed';

-- name: hit
-- Count a hit for each document.
UPDATE documents SET hits = hits + 1 WHERE id IN (*);

-- name: delete
-- Delete a document.
DELETE FROM documents WHERE tenant = ? AND dataset = ? AND id = ? RETURNING id;

-- name: delete_of_dataset
-- Delete all documents of a dataset.
DELETE FROM documents WHERE tenant = ? AND dataset = ? RETURNING id;

-- name: commands
-- Commands for the documents that a process is indexing.
SELECT id, command FROM documents WHERE owner = :owner AND command <> '';

-- name: to_do
-- Documents that wait for indexing and have no valid lease.
SELECT id, owner FROM documents WHERE status IN ('waiting', 'parsing', 'cleaning', 'splitting', 'indexing') AND (lease_until < :now OR owner = '')
ORDER BY created_at, position LIMIT :most;

-- name: owned
-- Processes that hold documents for indexing.
SELECT DISTINCT owner FROM documents WHERE owner <> '';

-- name: release
-- Release the documents of a process that has exited.
UPDATE documents SET owner = '', lease_until = 0 WHERE owner = ? AND owner <> '' AND status IN ('waiting', 'parsing', 'cleaning', 'splitting', 'indexing');

-- name: claim
-- Claim a document for indexing. Returns no row if another process holds it.
UPDATE documents SET owner = ?, lease_until = ? WHERE id = ? AND status IN ('waiting', 'parsing', 'cleaning', 'splitting', 'indexing') AND (lease_until < ? OR owner = '') RETURNING *;

-- name: renew
-- Renew the leases of a process.
UPDATE documents SET lease_until = ? WHERE owner = ? AND owner <> '' AND status IN ('waiting', 'parsing', 'cleaning', 'splitting', 'indexing');

-- name: give_back
-- Release a document.
UPDATE documents SET owner = '', lease_until = 0 WHERE id = ? AND owner = ?;

-- name: progress
-- Store the indexing progress of a document.
UPDATE documents SET status = ?, segments = ?, done = ?, times = ? WHERE id = ? AND owner = ? AND turn = ?;

-- name: failed
-- Store an indexing error or a pause.
UPDATE documents SET status = ?, error = ?, command = '', owner = '', lease_until = 0, times = ?, updated_at = ? WHERE id = ? AND owner = ? AND turn = ? RETURNING id;

-- name: turns
-- The documents that a process holds, with their turns.
SELECT id, turn FROM documents WHERE dataset || '' = ? AND owner || '' = ? AND id IN (*);

-- name: finished
-- Mark a document as completed.
UPDATE documents SET status = 'completed', error = '', command = '', owner = '', lease_until = 0, words = ?, tokens = ?, segments = ?, done = ?, digest = ?, metadata = ?, times = ?, updated_at = ?, generation = ?
WHERE id = ?;
