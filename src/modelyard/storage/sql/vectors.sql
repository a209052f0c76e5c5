-- PostgreSQL alone has these tables: they are made when the first vectors come. {table} is index_vectors_N, where N is
-- how many numbers a vector has; {most} is written in, since plans differ by it.

-- name: make_extension
-- What knows vectors.
CREATE EXTENSION IF NOT EXISTS vector;

-- name: make_postings
-- Which entries hold which terms.
CREATE TABLE IF NOT EXISTS index_postings (dataset TEXT NOT NULL, space BIGINT NOT NULL, term BIGINT NOT NULL, entry BIGINT NOT NULL, count SMALLINT NOT NULL, length INTEGER NOT NULL, document TEXT NOT NULL, PRIMARY KEY (dataset, space, term, entry));

-- name: make_postings_by_entry
-- For entries that go.
CREATE INDEX IF NOT EXISTS index_postings_by_entry ON index_postings (entry);

-- name: make_table
-- Vectors of one length.
CREATE TABLE IF NOT EXISTS {table} (entry BIGINT PRIMARY KEY, dataset TEXT NOT NULL, space BIGINT NOT NULL, document TEXT NOT NULL, embedding vector({dimensions}));

-- name: make_table_by_space
-- For spaces that go.
CREATE INDEX IF NOT EXISTS {table}_by_space ON {table} (dataset, space);

-- name: make_graph
-- Where vectors are short enough for it; others are compared exactly.
CREATE INDEX IF NOT EXISTS {table}_hnsw ON {table} USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 64);

-- name: tables
-- All that were made.
SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND (tablename LIKE 'index\_vectors\_%' OR tablename = 'index_postings');

-- name: clear
-- A space.
DELETE FROM {table} WHERE dataset = ? AND space = ?;

-- name: clear_dataset
-- All of a dataset's.
DELETE FROM {table} WHERE dataset = ?;

-- name: delete
-- Entries that are gone.
DELETE FROM {table} WHERE entry = ANY(?);

-- name: add_vectors
-- Entries, their documents and vectors; one that is there already is the same.
INSERT INTO {table} (entry, dataset, space, document, embedding)
SELECT entry, ?, ?, document, embedding::vector FROM unnest(?::bigint[], ?::text[], ?::text[]) AS new (entry, document, embedding)
ON CONFLICT (entry) DO NOTHING;

-- name: add_postings
-- What terms they hold.
INSERT INTO index_postings (dataset, space, term, entry, count, length, document)
SELECT ?, ?, term, entry, count, length, document FROM unnest(?::bigint[], ?::bigint[], ?::smallint[], ?::integer[], ?::text[]) AS new (term, entry, count, length, document)
ON CONFLICT DO NOTHING;

-- name: scan_on
-- Filters are met after the graph was walked: it goes on until there are enough.
SET LOCAL hnsw.iterative_scan = strict_order;

-- name: scan_far
-- How far it is walked.
SELECT set_config('hnsw.ef_search', ?, true);

-- name: nearest
-- Cosines of the nearest in a space.
SELECT entry, 1 - (embedding <=> ?::vector) AS score FROM {table} WHERE dataset = ? AND space = ? AND embedding IS NOT NULL
ORDER BY embedding <=> ?::vector LIMIT {most};

-- name: nearest_among
-- The same among some documents.
SELECT entry, 1 - (embedding <=> ?::vector) AS score FROM {table} WHERE dataset = ? AND space = ? AND document = ANY(?) AND embedding IS NOT NULL
ORDER BY embedding <=> ?::vector LIMIT {most};

-- name: cosines
-- Of some entries.
SELECT entry, 1 - (embedding <=> ?::vector) AS score FROM {table} WHERE entry = ANY(?) AND embedding IS NOT NULL;

-- name: matching
-- The highest sums of BM25 (k1, k1, b, b, entries' mean length), of the terms with their weights.
SELECT entry, SUM(weight * count * (? + 1) / (count + ? * (1 - ? + ? * length / ?))) AS score
FROM index_postings JOIN unnest(?::bigint[], ?::double precision[]) AS wanted (term, weight) USING (term)
WHERE dataset = ? AND space = ? GROUP BY entry ORDER BY score DESC LIMIT {most};

-- name: matching_among
-- The same among some documents.
SELECT entry, SUM(weight * count * (? + 1) / (count + ? * (1 - ? + ? * length / ?))) AS score
FROM index_postings JOIN unnest(?::bigint[], ?::double precision[]) AS wanted (term, weight) USING (term)
WHERE dataset = ? AND space = ? AND document = ANY(?) GROUP BY entry ORDER BY score DESC LIMIT {most};

-- name: sums
-- Of some entries.
SELECT entry, SUM(weight * count * (? + 1) / (count + ? * (1 - ? + ? * length / ?))) AS score
FROM index_postings JOIN unnest(?::bigint[], ?::double precision[]) AS wanted (term, weight) USING (term)
WHERE dataset = ? AND space = ? AND entry = ANY(?) GROUP BY entry;

-- name: count
-- How many a space has.
SELECT COUNT(*) AS count FROM {table} WHERE dataset = ? AND space = ?;
