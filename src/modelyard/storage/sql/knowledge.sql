-- name: create
-- A dataset.
INSERT INTO datasets (tenant, id, name, description, settings, created_by, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: dataset
-- One of a tenant's.
SELECT * FROM datasets WHERE tenant = :tenant AND id = :id;

-- name: named
-- One by its name.
SELECT * FROM datasets WHERE tenant = :tenant AND name = :name;

-- name: datasets
-- A tenant's, newest first.
SELECT * FROM datasets WHERE tenant = :tenant ORDER BY created_at DESC, id DESC;

-- name: change
-- Another name, description, settings.
UPDATE datasets SET name = ?, description = ?, settings = ?, updated_at = ? WHERE tenant = ? AND id = ? RETURNING id;

-- name: counts
-- What is in a tenant's datasets.
SELECT dataset, COUNT(*) AS documents, COALESCE(SUM(words), 0) AS words,
  COALESCE(SUM(CASE WHEN status = 'completed' AND is_enabled = 1 AND is_archived = 0 THEN 1 ELSE 0 END), 0) AS available
FROM documents WHERE tenant = :tenant AND (:dataset = '' OR dataset = :dataset) GROUP BY dataset;

-- name: bump
-- Its index changes. In PostgreSQL the row stays locked until the end of it: changes of one dataset come one by one.
UPDATE datasets SET generation = generation + 1 WHERE tenant = ? AND id = ? RETURNING generation, space, dimensions, model;

-- name: measure
-- How long its vectors are, and whose, once that is known.
UPDATE datasets SET dimensions = ?, model = ? WHERE id = ?;

-- name: switch
-- Another index is in use.
UPDATE datasets SET space = ?, dimensions = ?, model = ?, settings = ? WHERE id = ?;

-- name: last_position
-- Where the next document goes.
SELECT COALESCE(MAX(position), 0) AS position FROM documents WHERE tenant = ? AND dataset = ?;

-- name: add_document
-- A document.
INSERT INTO documents (tenant, dataset, id, position, name, batch, source, form, language, rule, status, error, is_enabled, is_archived, metadata, readers, words, tokens, segments, done, hits, digest, times, command, created_by, created_at, updated_at, owner, lease_until, api_key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: document
-- One of a dataset.
SELECT * FROM documents WHERE tenant = :tenant AND dataset = :dataset AND id = :id;

-- name: documents
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

-- name: count_documents
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

-- name: unfinished
-- How many of a batch are still on their way.
SELECT COUNT(*) AS count FROM documents WHERE tenant = :tenant AND dataset = :dataset AND batch = :batch
  AND status NOT IN ('completed', 'error', 'paused');

-- name: about_documents
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

-- name: progress
-- How far it is.
UPDATE documents SET status = ?, segments = ?, done = ?, times = ? WHERE id = ? AND owner = ? AND turn = ?;

-- name: failed
-- It could not be read, or was told to wait.
UPDATE documents SET status = ?, error = ?, command = '', owner = '', lease_until = 0, times = ?, updated_at = ? WHERE id = ? AND owner = ? AND turn = ? RETURNING id;

-- name: finished
-- It can be searched.
UPDATE documents SET status = 'completed', error = '', command = '', owner = '', lease_until = 0, words = ?, tokens = ?, segments = ?, done = ?, digest = ?, metadata = ?, times = ?, updated_at = ?
WHERE id = ?;

-- name: recount
-- Its segments were changed by hand.
UPDATE documents SET
  segments = (SELECT COUNT(*) FROM segments WHERE segments.document = documents.id),
  done = (SELECT COUNT(*) FROM segments WHERE segments.document = documents.id),
  words = (SELECT COALESCE(SUM(segments.words), 0) FROM segments WHERE segments.document = documents.id),
  tokens = (SELECT COALESCE(SUM(segments.tokens), 0) FROM segments WHERE segments.document = documents.id),
  updated_at = ?
WHERE id = ?;

-- name: flags
-- Switched on or off, put away or taken back.
UPDATE documents SET is_enabled = ?, is_archived = ?, updated_at = ? WHERE tenant = ? AND dataset = ? AND id = ? RETURNING id;

-- name: keep_text
-- What a document says.
INSERT INTO document_texts (document, body) VALUES (?, ?) ON CONFLICT (document) DO UPDATE SET body = excluded.body;

-- name: text
-- What a document says.
SELECT body FROM document_texts WHERE document = :document;

-- name: add_segment
-- A segment.
INSERT INTO segments (tenant, dataset, document, id, position, content, answer, keywords, summary, heading, page, start, stop, words, tokens, digest, is_enabled, hits, error, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: segments
-- A document's, in order.
SELECT * FROM segments WHERE tenant = :tenant AND document = :document AND (:keyword = '' OR lower(content) LIKE :keyword)
  AND (:enabled < 0 OR is_enabled = :enabled)
ORDER BY position, id LIMIT :most OFFSET :skip;

-- name: count_segments
-- How many those are.
SELECT COUNT(*) AS count FROM segments WHERE tenant = :tenant AND document = :document AND (:keyword = '' OR lower(content) LIKE :keyword)
  AND (:enabled < 0 OR is_enabled = :enabled);

-- name: segment
-- One of a document.
SELECT * FROM segments WHERE tenant = :tenant AND document = :document AND id = :id;

-- name: last_segment
-- Where the next goes.
SELECT COALESCE(MAX(position), 0) AS position FROM segments WHERE document = ?;

-- name: change_segment
-- Other words, switched on or off.
UPDATE segments SET content = ?, answer = ?, keywords = ?, summary = ?, words = ?, tokens = ?, digest = ?, is_enabled = ?, updated_at = ? WHERE tenant = ? AND document = ? AND id = ? RETURNING id;

-- name: delete_segment
-- It is gone.
DELETE FROM segments WHERE tenant = ? AND document = ? AND id = ? RETURNING id;

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

-- name: last_child
-- Where the next goes.
SELECT COALESCE(MAX(position), 0) AS position FROM children WHERE segment = ?;

-- name: change_child
-- Other words.
UPDATE children SET content = ?, kind = 'customized', updated_at = ? WHERE tenant = ? AND segment = ? AND id = ? RETURNING id;

-- name: delete_child
-- It is gone.
DELETE FROM children WHERE tenant = ? AND segment = ? AND id = ? RETURNING id;

-- name: delete_children_of
-- All of a segment's.
DELETE FROM children WHERE tenant = ? AND segment = ?;

-- name: add_entry
-- Something that is searched.
INSERT INTO index_entries (dataset, space, generation, document, segment, child, digest, vector, terms, length) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: entries_since
-- What came after a generation.
SELECT id, document, vector, terms, length FROM index_entries WHERE dataset = :dataset AND space = :space AND generation > :since AND generation <= :until ORDER BY id;

-- name: removed_since
-- What went after a generation.
SELECT entry, born, terms, length FROM index_removed WHERE dataset = :dataset AND space = :space AND generation > :since AND generation <= :until;

-- name: forgotten
-- Up to which generation what went is no longer told apart.
SELECT generation FROM index_followed WHERE store = '' AND dataset = :dataset AND space = :space;

-- name: followed
-- How far another store has come.
SELECT generation FROM index_followed WHERE store = :store AND dataset = :dataset AND space = :space;

-- name: set_followed
-- It has come so far.
INSERT INTO index_followed (store, dataset, space, generation) VALUES (?, ?, ?, ?)
ON CONFLICT (store, dataset, space) DO UPDATE SET generation = CASE WHEN excluded.generation > index_followed.generation THEN excluded.generation ELSE index_followed.generation END;

-- name: add_term
-- More or fewer entries hold a term.
INSERT INTO index_terms (store, dataset, space, term, holding) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (store, dataset, space, term) DO UPDATE SET holding = index_terms.holding + excluded.holding;

-- name: count_entries
-- How many a space has.
SELECT COUNT(*) AS count FROM index_entries WHERE dataset = :dataset AND space = :space;

-- name: many_removed
-- How many gone entries are still told of.
SELECT COUNT(*) AS count FROM index_removed WHERE dataset = ?;

-- name: entries_of
-- A document's.
SELECT * FROM index_entries WHERE document = :document AND space = :space ORDER BY id;

-- name: remove_document_entries
-- Tell that a document's entries are gone.
INSERT INTO index_removed (entry, dataset, space, generation, born, terms, length) SELECT id, dataset, space, ?, generation, terms, length FROM index_entries WHERE document = ?;

-- name: delete_document_entries
-- And have them gone.
DELETE FROM index_entries WHERE document = ?;

-- name: remove_segment_entries
-- Tell that a segment's entries are gone.
INSERT INTO index_removed (entry, dataset, space, generation, born, terms, length) SELECT id, dataset, space, ?, generation, terms, length FROM index_entries WHERE document = ? AND segment = ?;

-- name: delete_segment_entries
-- And have them gone.
DELETE FROM index_entries WHERE document = ? AND segment = ?;

-- name: vectors_of
-- A document's vectors by what they were made of.
SELECT digest, vector FROM index_entries WHERE document = :document AND space = :space;

-- name: staged
-- Vectors that were made for it before it was finished.
SELECT digest, vector FROM staged_vectors WHERE document = :document AND model = :model;

-- name: stage
-- Keep one until it is.
INSERT INTO staged_vectors (document, model, digest, vector) VALUES (?, ?, ?, ?) ON CONFLICT (document, model, digest) DO NOTHING;

-- name: add_tag
-- A tag.
INSERT INTO dataset_tags (tenant, id, name) VALUES (?, ?, ?);

-- name: tags
-- A tenant's tags, and how many datasets have each.
SELECT id, name, (SELECT COUNT(*) FROM dataset_tag_bindings WHERE dataset_tag_bindings.tag = dataset_tags.id) AS count
FROM dataset_tags WHERE tenant = :tenant ORDER BY name;

-- name: rename_tag
-- Another name.
UPDATE dataset_tags SET name = ? WHERE tenant = ? AND id = ? RETURNING id;

-- name: delete_tag
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

-- name: add_external
-- Somebody else's server, to be asked.
INSERT INTO external_knowledge (tenant, id, name, endpoint, secret) VALUES (?, ?, ?, ?, ?);

-- name: externals
-- A tenant's.
SELECT * FROM external_knowledge WHERE tenant = :tenant ORDER BY name;

-- name: reseal_external
-- The secret of one, encrypted anew, where it is as it was read.
UPDATE external_knowledge SET secret = ? WHERE tenant = ? AND id = ? AND secret = ? RETURNING id;

-- name: delete_external
-- It is asked no more.
DELETE FROM external_knowledge WHERE tenant = ? AND id = ? RETURNING id;

-- name: asked
-- What was looked for.
INSERT INTO dataset_queries (tenant, dataset, content, source, created_at) VALUES (?, ?, ?, ?, ?);

-- name: queries
-- The newest of that.
SELECT content, source, created_at FROM dataset_queries WHERE tenant = :tenant AND dataset = :dataset ORDER BY created_at DESC LIMIT :most;

-- name: in_part
-- Documents with segments or entries although they are not whole: there are none unless something is wrong.
SELECT documents.id FROM documents WHERE documents.dataset = :dataset AND documents.status = 'completed'
  AND documents.segments <> (SELECT COUNT(*) FROM segments WHERE segments.document = documents.id);
