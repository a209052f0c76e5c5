-- name: add
-- Add an index entry.
INSERT INTO index_entries (dataset, space, generation, document, segment, child, digest, vector, terms, length) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: since
-- Entries that were added between two generations.
SELECT id, document, vector, terms, length FROM index_entries WHERE dataset = :dataset AND space = :space AND generation > :since AND generation <= :until ORDER BY id;

-- name: sample_vectors
-- The vectors of the oldest entries of a space.
SELECT vector FROM index_entries WHERE dataset = :dataset AND space = :space ORDER BY generation, id LIMIT :most;

-- name: count
-- The number of entries of a space.
SELECT COUNT(*) AS count FROM index_entries WHERE dataset = :dataset AND space = :space;

-- name: of_document
-- The entries of a document in a space.
SELECT * FROM index_entries WHERE document = :document AND space = :space ORDER BY id;

-- name: entry_targets
-- The segments and child chunks of entries.
SELECT id, segment, child FROM index_entries WHERE dataset || '' = ? AND id IN (*);

-- name: vectors
-- The vectors of entries.
SELECT id, vector FROM index_entries WHERE id IN (*);

-- name: vectors_of
-- The vectors of a document by the digests of their texts.
SELECT digest, vector FROM index_entries WHERE document = :document AND space = :space;

-- name: delete_of_document
-- Delete the entries of a document.
DELETE FROM index_entries WHERE document = ?;

-- name: delete_of_segment
-- Delete the entries of a segment.
DELETE FROM index_entries WHERE document = ? AND segment = ?;

-- name: delete_of_dataset
-- Delete all entries of a dataset.
DELETE FROM index_entries WHERE dataset = ?;

-- name: segments
-- The numbers of entries by segment of a dataset.
SELECT segment, COUNT(*) AS count FROM index_entries WHERE dataset = :dataset GROUP BY segment;

-- name: removed_since
-- Entries that were removed between two generations.
SELECT entry, born, terms, length FROM index_removed WHERE dataset = :dataset AND space = :space AND generation > :since AND generation <= :until;

-- name: remove_of_document
-- Record the removal of a document's entries.
INSERT INTO index_removed (entry, dataset, space, generation, born, terms, length) SELECT id, dataset, space, ?, generation, terms, length FROM index_entries WHERE document = ?;

-- name: remove_of_segment
-- Record the removal of a segment's entries.
INSERT INTO index_removed (entry, dataset, space, generation, born, terms, length) SELECT id, dataset, space, ?, generation, terms, length FROM index_entries WHERE document = ? AND segment = ?;

-- name: many_removed
-- The number of recorded removals of a dataset.
SELECT COUNT(*) AS count FROM index_removed WHERE dataset = ?;

-- name: forget_removed
-- Delete the recorded removals of a dataset.
DELETE FROM index_removed WHERE dataset = ?;

-- name: staged
-- Vectors that were computed before the indexing of a document finished.
SELECT digest, vector FROM staged_vectors WHERE document = :document AND model = :model;

-- name: stage
-- Store such a vector.
INSERT INTO staged_vectors (document, model, digest, vector) VALUES (?, ?, ?, ?) ON CONFLICT (document, model, digest) DO NOTHING;

-- name: unstage
-- Delete the staged vectors of documents that are indexed or deleted.
DELETE FROM staged_vectors WHERE document IN (*);

-- name: clear
-- Delete the entries of a document in one space.
DELETE FROM index_entries WHERE document = ? AND space = ?;

-- name: behind
-- Entries of one space that another space lacks.
SELECT segment, child, digest FROM index_entries WHERE dataset = ? AND space = ? EXCEPT
SELECT segment, child, digest FROM index_entries WHERE dataset = ? AND space = ?;

-- name: take_out
-- Delete entries of one space that no longer exist in another space.
DELETE FROM index_entries WHERE dataset = ? AND space = ? AND NOT EXISTS (
  SELECT 1 FROM index_entries AS old WHERE old.dataset || '' = ? AND old.space + 0 = ?
    AND old.document = index_entries.document AND old.segment = index_entries.segment AND old.child = index_entries.child);

-- name: delete_others
-- Delete the entries of all spaces of a dataset except one.
DELETE FROM index_entries WHERE dataset = ? AND space <> ?;

-- name: renumber
-- Give all entries of a space the same generation.
UPDATE index_entries SET generation = ? WHERE dataset = ? AND space = ?;
