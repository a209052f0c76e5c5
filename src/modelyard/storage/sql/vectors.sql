-- Tables of PostgreSQL only, created with the first vectors. {table} is index_vectors_N with N dimensions. {most} is
-- inserted as a literal, because query plans depend on it.

-- name: make_extension
-- Install pgvector.
CREATE EXTENSION IF NOT EXISTS vector;

-- name: make_postings
-- Table of terms and the entries that contain them.
CREATE TABLE IF NOT EXISTS index_postings (dataset TEXT NOT NULL, space BIGINT NOT NULL, term BIGINT NOT NULL, entry BIGINT NOT NULL, count SMALLINT NOT NULL, length INTEGER NOT NULL, document TEXT NOT NULL, PRIMARY KEY (dataset, space, term, entry));

-- name: make_postings_by_entry
-- Index for the deletion of entries.
CREATE INDEX IF NOT EXISTS index_postings_by_entry ON index_postings (entry);

-- name: make_table
-- Table of vectors with the same number of dimensions.
CREATE TABLE IF NOT EXISTS {table} (entry BIGINT PRIMARY KEY, dataset TEXT NOT NULL, space BIGINT NOT NULL, document TEXT NOT NULL, embedding vector({dimensions}));

-- name: make_table_by_space
-- Index for the deletion of spaces.
CREATE INDEX IF NOT EXISTS {table}_by_space ON {table} (dataset, space);

-- name: make_graph
-- HNSW index for vectors that are short enough; longer ones are compared exactly.
CREATE INDEX IF NOT EXISTS {table}_hnsw ON {table} USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 64);

-- name: tables
-- The existing tables.
SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND (tablename LIKE 'index\_vectors\_%' OR tablename = 'index_postings');

-- name: clear
-- Delete the vectors of a space.
DELETE FROM {table} WHERE dataset = ? AND space = ?;

-- name: clear_dataset
-- Delete the vectors of a dataset.
DELETE FROM {table} WHERE dataset = ?;

-- name: delete
-- Delete the vectors of entries.
DELETE FROM {table} WHERE entry = ANY(?);

-- name: add_vectors
-- Add vectors; existing ones are not replaced.
INSERT INTO {table} (entry, dataset, space, document, embedding)
SELECT entry, ?, ?, document, embedding::vector FROM unnest(?::bigint[], ?::text[], ?::text[]) AS new (entry, document, embedding)
ON CONFLICT (entry) DO NOTHING;

-- name: add_postings
-- Add the terms of entries; existing ones are not replaced.
INSERT INTO index_postings (dataset, space, term, entry, count, length, document)
SELECT ?, ?, term, entry, count, length, document FROM unnest(?::bigint[], ?::bigint[], ?::smallint[], ?::integer[], ?::text[]) AS new (term, entry, count, length, document)
ON CONFLICT DO NOTHING;

-- name: scan_on
-- Continue the HNSW scan until enough rows pass the filter.
SET LOCAL hnsw.iterative_scan = strict_order;

-- name: scan_far
-- Set how many candidates an HNSW scan considers.
SELECT set_config('hnsw.ef_search', ?, true);

-- name: nearest
-- The entries of a space that are nearest by cosine similarity.
SELECT entry, 1 - (embedding <=> ?::vector) AS score FROM {table} WHERE dataset = ? AND space = ? AND embedding IS NOT NULL
ORDER BY embedding <=> ?::vector LIMIT {most};

-- name: nearest_among
-- The same, limited to several documents.
SELECT entry, 1 - (embedding <=> ?::vector) AS score FROM {table} WHERE dataset = ? AND space = ? AND document = ANY(?) AND embedding IS NOT NULL
ORDER BY embedding <=> ?::vector LIMIT {most};

-- name: cosines
-- The cosine similarities of several entries.
SELECT entry, 1 - (embedding <=> ?::vector) AS score FROM {table} WHERE entry = ANY(?) AND embedding IS NOT NULL;

-- name: matching
-- The entries with the highest BM25 scores. Parameters are k1, k1, b, b, mean length, and weighted terms.
SELECT entry, SUM(weight * count * (? + 1) / (count + ? * (1 - ? + ? * length / ?))) AS score
FROM index_postings JOIN unnest(?::bigint[], ?::double precision[]) AS wanted (term, weight) USING (term)
WHERE dataset = ? AND space = ? GROUP BY entry ORDER BY score DESC LIMIT {most};

-- name: matching_among
-- The same, limited to several documents.
SELECT entry, SUM(weight * count * (? + 1) / (count + ? * (1 - ? + ? * length / ?))) AS score
FROM index_postings JOIN unnest(?::bigint[], ?::double precision[]) AS wanted (term, weight) USING (term)
WHERE dataset = ? AND space = ? AND document = ANY(?) GROUP BY entry ORDER BY score DESC LIMIT {most};

-- name: sums
-- The BM25 scores of several entries.
SELECT entry, SUM(weight * count * (? + 1) / (count + ? * (1 - ? + ? * length / ?))) AS score
FROM index_postings JOIN unnest(?::bigint[], ?::double precision[]) AS wanted (term, weight) USING (term)
WHERE dataset = ? AND space = ? AND entry = ANY(?) GROUP BY entry;

-- name: count
-- The number of vectors of a space.
SELECT COUNT(*) AS count FROM {table} WHERE dataset = ? AND space = ?;
