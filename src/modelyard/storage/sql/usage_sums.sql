-- name: add
-- More of what is summed up already.
INSERT INTO usage_sums (tenant, scope, name, span, bucket, model, api_key, part, calls, served, tokens, nanos)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, scope, name, span, bucket, model, api_key, part) DO UPDATE SET
    calls = usage_sums.calls + excluded.calls, served = usage_sums.served + excluded.served,
    tokens = usage_sums.tokens + excluded.tokens, nanos = usage_sums.nanos + excluded.nanos;

-- name: earlier
-- An invocation's attempts before one of them.
SELECT status, first_chunk FROM usage WHERE tenant = ? AND invocation = ? AND attempt < ?;

-- name: used
-- What somebody used of each model, in the buckets from one to another.
SELECT model, {bucket} AS bucket, SUM(calls) AS calls, SUM(served) AS served, SUM(tokens) AS tokens,
       SUM(nanos) AS nanos
FROM usage_sums
WHERE tenant = :tenant AND scope IN (:scope, :apps) AND name IN (:name, :other) AND span = :span
  AND bucket >= :first AND bucket <= :last AND (:api_key = '' OR api_key = :api_key)
GROUP BY {group};

-- name: unsummed
-- Tenants with rows from before there were sums, and until when these go.
SELECT tenant, until FROM usage_unsummed ORDER BY tenant;

-- name: hold
-- This process adds a tenant's, unless another one does.
UPDATE usage_unsummed SET holder = ?, held_until = ?
WHERE tenant = ? AND (holder = ? OR held_until < ? OR held_until > ?)
RETURNING until, since, done;

-- name: chunk
-- Where the next so many of a tenant's rows begin, going back.
SELECT MIN(created_at) AS since
FROM (SELECT created_at FROM usage WHERE tenant = :tenant AND created_at < :until
      ORDER BY created_at DESC LIMIT :most) AS chunk;

-- name: old_sqlite
-- A tenant's rows from before there were sums, of a span of time, by day. SQLite cuts where it casts.
SELECT CAST(created_at / 86400 AS INTEGER) AS bucket, api_key, "user", provider, model, credential,
       COUNT(*) AS attempts,
       SUM(CASE WHEN attempt <= 1 THEN 1 ELSE 0 END) AS calls,
       SUM(CASE WHEN status IN ('ok', 'cached', 'lost') OR first_chunk IS NOT NULL THEN 1 ELSE 0 END) AS answers,
       SUM(CASE WHEN (status IN ('ok', 'cached', 'lost') OR first_chunk IS NOT NULL)
                 AND (attempt <= 1 OR NOT EXISTS (
                     SELECT 1 FROM usage AS earlier
                     WHERE earlier.tenant = usage.tenant AND earlier.invocation = usage.invocation
                       AND earlier.attempt < usage.attempt
                       AND (earlier.status IN ('ok', 'cached', 'lost') OR earlier.first_chunk IS NOT NULL)))
                THEN 1 ELSE 0 END) AS served,
       SUM(CASE WHEN status = 'cached' THEN 0 ELSE prompt_tokens + completion_tokens END) AS tokens,
       SUM(CASE WHEN status = 'cached' THEN 0 ELSE COALESCE(nanos, 0) END) AS nanos
FROM usage
WHERE tenant = :tenant AND created_at >= :since AND created_at < :until AND asked IS NULL
GROUP BY CAST(created_at / 86400 AS INTEGER), api_key, "user", provider, model, credential;

-- name: old_postgresql
-- A tenant's rows from before there were sums, of a span of time, by day. PostgreSQL rounds where it casts.
SELECT CAST(FLOOR(created_at / 86400) AS INTEGER) AS bucket, api_key, "user", provider, model, credential,
       COUNT(*) AS attempts,
       SUM(CASE WHEN attempt <= 1 THEN 1 ELSE 0 END) AS calls,
       SUM(CASE WHEN status IN ('ok', 'cached', 'lost') OR first_chunk IS NOT NULL THEN 1 ELSE 0 END) AS answers,
       SUM(CASE WHEN (status IN ('ok', 'cached', 'lost') OR first_chunk IS NOT NULL)
                 AND (attempt <= 1 OR NOT EXISTS (
                     SELECT 1 FROM usage AS earlier
                     WHERE earlier.tenant = usage.tenant AND earlier.invocation = usage.invocation
                       AND earlier.attempt < usage.attempt
                       AND (earlier.status IN ('ok', 'cached', 'lost') OR earlier.first_chunk IS NOT NULL)))
                THEN 1 ELSE 0 END) AS served,
       SUM(CASE WHEN status = 'cached' THEN 0 ELSE prompt_tokens + completion_tokens END) AS tokens,
       SUM(CASE WHEN status = 'cached' THEN 0 ELSE COALESCE(nanos, 0) END) AS nanos
FROM usage
WHERE tenant = :tenant AND created_at >= :since AND created_at < :until AND asked IS NULL
GROUP BY CAST(FLOOR(created_at / 86400) AS INTEGER), api_key, "user", provider, model, credential;

-- name: release
-- A process that is gone adds no more.
UPDATE usage_unsummed SET held_until = 0 WHERE holder = ?;

-- name: span
-- From here on they are added next.
UPDATE usage_unsummed SET since = ?, done = 0 WHERE tenant = ? AND holder = ?;

-- name: advance
-- So many of the span's sums are in, unless another process took over.
UPDATE usage_unsummed SET done = ?, held_until = ? WHERE tenant = ? AND holder = ? AND since = ? AND done = ?
RETURNING tenant;

-- name: passed
-- All of the span's are.
UPDATE usage_unsummed SET until = since, since = NULL, done = 0
WHERE tenant = ? AND holder = ? AND since = ? AND done = ?;

-- name: summed
-- All of this tenant's are.
DELETE FROM usage_unsummed WHERE tenant = ? AND holder = ?;

-- name: oldest
-- The oldest of the short buckets.
SELECT MIN(bucket) AS bucket FROM usage_sums WHERE span = 10;

-- name: drop
-- One of them.
DELETE FROM usage_sums WHERE span = 10 AND bucket = ?;
