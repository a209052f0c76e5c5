-- name: followed
-- How far another store has come.
SELECT generation FROM index_followed WHERE store = :store AND dataset = :dataset AND space = :space;

-- name: record_sync
-- It has come so far.
INSERT INTO index_followed (store, dataset, space, generation) VALUES (?, ?, ?, ?)
ON CONFLICT (store, dataset, space) DO UPDATE SET generation = CASE WHEN excluded.generation > index_followed.generation THEN excluded.generation ELSE index_followed.generation END;

-- name: add_term
-- More or fewer entries hold a term.
INSERT INTO index_terms (store, dataset, space, term, holding) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (store, dataset, space, term) DO UPDATE SET holding = index_terms.holding + excluded.holding;

-- name: holding
-- How many entries hold each of these terms.
SELECT term, holding FROM index_terms WHERE store = ? AND dataset = ? AND space = ? AND term IN (*);

-- name: spaces
-- Those that another store has followed.
SELECT space FROM index_followed WHERE store = :store AND dataset = :dataset;

-- name: forget_terms
-- They are counted anew.
DELETE FROM index_terms WHERE store = ? AND dataset = ? AND space = ?;

-- name: unfollow
-- A store follows a dataset no more.
DELETE FROM index_followed WHERE store = ? AND dataset = ?;

-- name: unfollow_terms
-- Nor are its terms counted.
DELETE FROM index_terms WHERE store = ? AND dataset = ?;

-- name: delete_of_dataset
-- A dataset is gone: nobody follows it.
DELETE FROM index_followed WHERE dataset = ?;

-- name: delete_terms_of_dataset
-- Nor are its terms counted.
DELETE FROM index_terms WHERE dataset = ?;
