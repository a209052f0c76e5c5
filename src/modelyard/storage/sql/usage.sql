-- name: add
-- One attempt. The first word about it stands.
INSERT INTO usage (id, invocation, attempt, tenant, api_key, "user", created_at, day, provider, model, model_type,
                   credential, credential_id, status, counted_by, prompt_tokens, completion_tokens, cached_tokens,
                   cache_write_tokens, reasoning_tokens, characters, seconds, searches, total_price, nanos, currency,
                   price_source, price_version, latency, first_chunk, asked, app)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: recent
-- A tenant's latest attempts, newest first.
SELECT * FROM usage WHERE tenant = :tenant AND created_at >= :since ORDER BY created_at DESC, id DESC LIMIT :most;

-- name: page
-- A tenant's attempts of a span of time, oldest first, from where the last page ended.
SELECT * FROM usage
WHERE tenant = :tenant AND created_at >= :since AND created_at < :until
  AND (created_at > :after OR (created_at = :after AND id > :after_id))
ORDER BY created_at, id LIMIT :most;

-- name: invocation
-- All attempts of one call.
SELECT * FROM usage WHERE tenant = :tenant AND invocation = :invocation ORDER BY attempt, created_at;

-- name: tenants
-- Those that have rows, each found by the index alone.
WITH RECURSIVE tenants (tenant) AS (
    SELECT MIN(usage.tenant) FROM usage
    UNION ALL
    SELECT (SELECT MIN(usage.tenant) FROM usage WHERE usage.tenant > tenants.tenant)
    FROM tenants WHERE tenants.tenant IS NOT NULL
)
SELECT tenant FROM tenants WHERE tenant IS NOT NULL;

-- name: oldest
-- Until when a tenant's oldest rows go, so many at most, of those that are older than they are to be kept.
SELECT MAX(created_at) AS until
FROM (SELECT created_at FROM usage WHERE tenant = :tenant AND created_at < :before
      ORDER BY created_at LIMIT :most) AS oldest;

-- name: forget
-- Those.
DELETE FROM usage WHERE tenant = ? AND created_at <= ?;

-- name: of_call
-- Attempts by their names.
SELECT status, first_chunk, prompt_tokens + completion_tokens AS tokens, COALESCE(nanos, 0) AS nanos
FROM usage WHERE id IN ({places});

-- name: sums_sqlite
-- A tenant's attempts of a span of time, added up by columns that the caller picked from a fixed list. SQLite cuts
-- where it casts.
SELECT {columns}, currency, COUNT(*) AS attempts, COUNT(DISTINCT invocation) AS calls,
       SUM(CASE WHEN status IN ('ok', 'cached') THEN 0 ELSE 1 END) AS failed,
       SUM(prompt_tokens) AS prompt_tokens, SUM(completion_tokens) AS completion_tokens,
       SUM(cached_tokens) AS cached_tokens, SUM(reasoning_tokens) AS reasoning_tokens,
       SUM(characters) AS characters, SUM(seconds) AS seconds, SUM(searches) AS searches,
       COALESCE(SUM(nanos), 0) AS nanos, SUM(CASE WHEN total_price IS NULL THEN 1 ELSE 0 END) AS unpriced
FROM (SELECT *, CAST(created_at / 3600 AS INTEGER) AS hour
      FROM usage WHERE tenant = :tenant AND created_at >= :since AND created_at < :until) AS attempts
GROUP BY {columns}, currency ORDER BY nanos DESC, calls DESC;

-- name: sums_postgresql
-- A tenant's attempts of a span of time, added up by columns that the caller picked from a fixed list. PostgreSQL
-- rounds where it casts.
SELECT {columns}, currency, COUNT(*) AS attempts, COUNT(DISTINCT invocation) AS calls,
       SUM(CASE WHEN status IN ('ok', 'cached') THEN 0 ELSE 1 END) AS failed,
       SUM(prompt_tokens) AS prompt_tokens, SUM(completion_tokens) AS completion_tokens,
       SUM(cached_tokens) AS cached_tokens, SUM(reasoning_tokens) AS reasoning_tokens,
       SUM(characters) AS characters, SUM(seconds) AS seconds, SUM(searches) AS searches,
       COALESCE(SUM(nanos), 0) AS nanos, SUM(CASE WHEN total_price IS NULL THEN 1 ELSE 0 END) AS unpriced
FROM (SELECT *, CAST(FLOOR(created_at / 3600) AS INTEGER) AS hour
      FROM usage WHERE tenant = :tenant AND created_at >= :since AND created_at < :until) AS attempts
GROUP BY {columns}, currency ORDER BY nanos DESC, calls DESC;

-- name: attempts
-- A tenant's attempts of a span of time that fit what is asked for, newest first, from some place on.
SELECT * FROM usage WHERE tenant = :tenant AND created_at >= :since AND created_at < :until{clauses}
ORDER BY created_at DESC, id DESC LIMIT :most OFFSET :skip;

-- name: count_attempts
-- How many those are.
SELECT COUNT(*) AS count FROM usage
WHERE tenant = :tenant AND created_at >= :since AND created_at < :until{clauses};

-- name: latencies
-- How long attempts took that went well, by model: the seconds within which half, nine of ten and 99 of 100 were done.
SELECT model, MAX(n) AS calls, MIN(CASE WHEN place >= 0.5 * n THEN latency END) AS p50,
       MIN(CASE WHEN place >= 0.9 * n THEN latency END) AS p90, MIN(CASE WHEN place >= 0.99 * n THEN latency END) AS p99
FROM (SELECT provider || '/' || model AS model, latency,
             ROW_NUMBER() OVER (PARTITION BY provider, model ORDER BY latency) AS place,
             COUNT(*) OVER (PARTITION BY provider, model) AS n
      FROM usage WHERE tenant = :tenant AND created_at >= :since AND created_at < :until AND status = 'ok') AS ranked
GROUP BY model ORDER BY calls DESC, model;

-- name: first_chunks
-- The same of the seconds until the first chunk, where there was one.
SELECT model, MIN(CASE WHEN place >= 0.5 * n THEN first_chunk END) AS p50,
       MIN(CASE WHEN place >= 0.9 * n THEN first_chunk END) AS p90,
       MIN(CASE WHEN place >= 0.99 * n THEN first_chunk END) AS p99
FROM (SELECT provider || '/' || model AS model, first_chunk,
             ROW_NUMBER() OVER (PARTITION BY provider, model ORDER BY first_chunk) AS place,
             COUNT(*) OVER (PARTITION BY provider, model) AS n
      FROM usage WHERE tenant = :tenant AND created_at >= :since AND created_at < :until AND status = 'ok'
        AND first_chunk IS NOT NULL) AS ranked
GROUP BY model;
