-- name: followed
-- The generation up to which an external index is synchronised.
SELECT generation FROM index_followed WHERE store = :store AND dataset = :dataset AND space = :space;

-- name: record_sync
-- Store the generation up to which an external index is synchronised.
INSERT INTO index_followed (store, dataset, space, generation) VALUES (?, ?, ?, ?)
ON CONFLICT (store, dataset, space) DO UPDATE SET generation = CASE WHEN excluded.generation > index_followed.generation THEN excluded.generation ELSE index_followed.generation END;

-- name: add_term
-- Add to the number of entries that contain a term.
INSERT INTO index_terms (store, dataset, space, term, holding) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (store, dataset, space, term) DO UPDATE SET holding = index_terms.holding + excluded.holding;

-- name: holding
-- The numbers of entries that contain the terms.
SELECT term, holding FROM index_terms WHERE store = ? AND dataset = ? AND space = ? AND term IN (*);

-- name: spaces
-- The spaces that an external index follows.
SELECT space FROM index_followed WHERE store = :store AND dataset = :dataset;

-- name: forget_terms
-- Delete the term counts of a space before they are computed again.
DELETE FROM index_terms WHERE store = ? AND dataset = ? AND space = ?;

-- name: unfollow
-- Stop following a dataset in an external index.
DELETE FROM index_followed WHERE store = ? AND dataset = ?;

-- name: unfollow_terms
-- Delete the term counts of a dataset in an external index.
DELETE FROM index_terms WHERE store = ? AND dataset = ?;

-- name: delete_of_dataset
-- Delete the synchronisation state of a deleted dataset.
DELETE FROM index_followed WHERE dataset = ?;

-- name: stores
-- The stores that follow a dataset.
SELECT DISTINCT store FROM index_followed WHERE dataset = ?;
