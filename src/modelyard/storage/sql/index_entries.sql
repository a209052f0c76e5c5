-- name: add
-- Something that is searched.
INSERT INTO index_entries (dataset, space, generation, document, segment, child, digest, vector, terms, length) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: since
-- What came after a generation.
SELECT id, document, vector, terms, length FROM index_entries WHERE dataset = :dataset AND space = :space AND generation > :since AND generation <= :until ORDER BY id;

-- name: count
-- How many a space has.
SELECT COUNT(*) AS count FROM index_entries WHERE dataset = :dataset AND space = :space;

-- name: of_document
-- A document's.
SELECT * FROM index_entries WHERE document = :document AND space = :space ORDER BY id;

-- name: entry_targets
-- What entries stand for.
SELECT id, segment, child FROM index_entries WHERE dataset || '' = ? AND id IN (*);

-- name: vectors
-- Of some entries.
SELECT id, vector FROM index_entries WHERE id IN (*);

-- name: vectors_of
-- A document's vectors by what they were made of.
SELECT digest, vector FROM index_entries WHERE document = :document AND space = :space;

-- name: delete_of_document
-- And have them gone.
DELETE FROM index_entries WHERE document = ?;

-- name: delete_of_segment
-- And have them gone.
DELETE FROM index_entries WHERE document = ? AND segment = ?;

-- name: delete_of_dataset
-- All of a dataset's are gone.
DELETE FROM index_entries WHERE dataset = ?;

-- name: segments
-- Which segments entries of a dataset stand for.
SELECT segment, COUNT(*) AS count FROM index_entries WHERE dataset = :dataset GROUP BY segment;

-- name: removed_since
-- What went after a generation.
SELECT entry, born, terms, length FROM index_removed WHERE dataset = :dataset AND space = :space AND generation > :since AND generation <= :until;

-- name: remove_of_document
-- Tell that a document's entries are gone.
INSERT INTO index_removed (entry, dataset, space, generation, born, terms, length) SELECT id, dataset, space, ?, generation, terms, length FROM index_entries WHERE document = ?;

-- name: remove_of_segment
-- Tell that a segment's entries are gone.
INSERT INTO index_removed (entry, dataset, space, generation, born, terms, length) SELECT id, dataset, space, ?, generation, terms, length FROM index_entries WHERE document = ? AND segment = ?;

-- name: many_removed
-- How many gone entries are still told of.
SELECT COUNT(*) AS count FROM index_removed WHERE dataset = ?;

-- name: forget_removed
-- What is gone is told of no more.
DELETE FROM index_removed WHERE dataset = ?;

-- name: staged
-- Vectors that were made for it before it was finished.
SELECT digest, vector FROM staged_vectors WHERE document = :document AND model = :model;

-- name: stage
-- Keep one until it is.
INSERT INTO staged_vectors (document, model, digest, vector) VALUES (?, ?, ?, ?) ON CONFLICT (document, model, digest) DO NOTHING;

-- name: unstage
-- They are in the index now, or their documents are gone.
DELETE FROM staged_vectors WHERE document IN (*);

-- name: clear
-- A document's in one space.
DELETE FROM index_entries WHERE document = ? AND space = ?;

-- name: behind
-- What one space has and another has not.
SELECT segment, child, digest FROM index_entries WHERE dataset = ? AND space = ? EXCEPT
SELECT segment, child, digest FROM index_entries WHERE dataset = ? AND space = ?;

-- name: take_out
-- Of one space what another has no more.
DELETE FROM index_entries WHERE dataset = ? AND space = ? AND NOT EXISTS (
  SELECT 1 FROM index_entries AS old WHERE old.dataset = ? AND old.space = ?
    AND old.segment = index_entries.segment AND old.child = index_entries.child);

-- name: delete_others
-- All spaces but one.
DELETE FROM index_entries WHERE dataset = ? AND space <> ?;

-- name: renumber
-- All of a space came with one generation.
UPDATE index_entries SET generation = ? WHERE dataset = ? AND space = ?;
