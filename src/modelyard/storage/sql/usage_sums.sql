-- name: add
-- Add to a total.
INSERT INTO usage_sums (tenant, scope, name, span, bucket, model, api_key, part, calls, served, tokens, nanos)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, scope, name, span, bucket, model, api_key, part) DO UPDATE SET
    calls = usage_sums.calls + excluded.calls, served = usage_sums.served + excluded.served,
    tokens = usage_sums.tokens + excluded.tokens, nanos = usage_sums.nanos + excluded.nanos;

-- name: earlier
-- The earlier attempts of a call.
SELECT status, first_chunk FROM usage WHERE tenant = ? AND invocation = ? AND attempt < ?;

-- name: used
-- Usage of a subject by model, in a range of buckets.
SELECT model, {bucket} AS bucket, SUM(calls) AS calls, SUM(served) AS served, SUM(tokens) AS tokens,
       SUM(nanos) AS nanos
FROM usage_sums
WHERE tenant = :tenant AND scope IN (:scope, :apps) AND name IN (:name, :other) AND span = :span
  AND bucket >= :first AND bucket <= :last AND (:api_key = '' OR api_key = :api_key)
GROUP BY {group};

-- name: unsummed
-- Tenants with rows that are older than the totals, and the end of these rows.
SELECT tenant, until FROM usage_unsummed ORDER BY tenant;

-- name: hold
-- Lease the summing of a tenant's old rows, unless another process has the lease.
UPDATE usage_unsummed SET holder = ?, held_until = ?
WHERE tenant = ? AND (holder = ? OR held_until < ? OR held_until > ?)
RETURNING until, since, done;

-- name: chunk
-- The start of the next batch of a tenant's rows, going back in time.
SELECT MIN(created_at) AS since
FROM (SELECT created_at FROM usage WHERE tenant = :tenant AND created_at < :until
      ORDER BY created_at DESC LIMIT :most) AS chunk;

-- name: old_sqlite
-- Totals by day of a tenant's old rows in a time range. SQLite truncates when it casts.
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
-- Totals by day of a tenant's old rows in a time range. PostgreSQL rounds when it casts.
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
-- Release the leases of a process that has exited.
UPDATE usage_unsummed SET held_until = 0 WHERE holder = ?;

-- name: span
-- Start a batch.
UPDATE usage_unsummed SET since = ?, done = 0 WHERE tenant = ? AND holder = ?;

-- name: advance
-- Store the number of added lines of the batch. Returns no row if another process took over.
UPDATE usage_unsummed SET done = ?, held_until = ? WHERE tenant = ? AND holder = ? AND since = ? AND done = ?
RETURNING tenant;

-- name: passed
-- Finish a batch.
UPDATE usage_unsummed SET until = since, since = NULL, done = 0
WHERE tenant = ? AND holder = ? AND since = ? AND done = ?;

-- name: summed
-- Finish a tenant.
DELETE FROM usage_unsummed WHERE tenant = ? AND holder = ?;

-- name: oldest
-- The oldest of the short buckets.
SELECT MIN(bucket) AS bucket FROM usage_sums WHERE span = 10;

-- name: drop
-- Delete a short bucket.
DELETE FROM usage_sums WHERE span = 10 AND bucket = ?;
