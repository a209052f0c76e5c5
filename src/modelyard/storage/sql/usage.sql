-- name: add
-- Add an attempt. An existing row is not replaced.
INSERT INTO usage (id, invocation, attempt, tenant, api_key, "user", created_at, day, provider, model, model_type,
                   credential, credential_id, status, counted_by, prompt_tokens, completion_tokens, cached_tokens,
                   cache_write_tokens, reasoning_tokens, characters, seconds, searches, total_price, nanos, currency,
                   price_source, price_version, latency, first_chunk, asked, app, session, project, tags)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: recent
-- The latest attempts of a tenant, newest first.
SELECT * FROM usage WHERE tenant = :tenant AND created_at >= :since ORDER BY created_at DESC, id DESC LIMIT :most;

-- name: page
-- A page of a tenant's attempts in a time range, oldest first, after the last row of the previous page.
SELECT * FROM usage
WHERE tenant = :tenant AND created_at >= :since AND created_at < :until
  AND (created_at > :after OR (created_at = :after AND id > :after_id))
ORDER BY created_at, id LIMIT :most;

-- name: invocation
-- All attempts of one call.
SELECT * FROM usage WHERE tenant = :tenant AND invocation = :invocation ORDER BY attempt, created_at;

-- name: tenants
-- All tenants with rows. The recursion reads the index only once per tenant.
WITH RECURSIVE tenants (tenant) AS (
    SELECT MIN(usage.tenant) FROM usage
    UNION ALL
    SELECT (SELECT MIN(usage.tenant) FROM usage WHERE usage.tenant > tenants.tenant)
    FROM tenants WHERE tenants.tenant IS NOT NULL
)
SELECT tenant FROM tenants WHERE tenant IS NOT NULL;

-- name: oldest
-- The end of the next batch of rows that are older than the retention time.
SELECT MAX(created_at) AS until
FROM (SELECT created_at FROM usage WHERE tenant = :tenant AND created_at < :before
      ORDER BY created_at LIMIT :most) AS oldest;

-- name: forget
-- Delete that batch.
DELETE FROM usage WHERE tenant = ? AND created_at <= ?;

-- name: of_call
-- Several attempts by id.
SELECT status, first_chunk, prompt_tokens + completion_tokens AS tokens, COALESCE(nanos, 0) AS nanos
FROM usage WHERE id IN ({places});

-- name: superseded
-- The attempts of calls in a time range that did not decide how their call ended: it is the last one that was served, or
-- else the last one. Only calls with something else than a first attempt are looked at, which are few.
SELECT id FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY invocation
                    ORDER BY CASE WHEN status IN ('ok', 'cached') THEN 0 ELSE 1 END, attempt DESC, id) AS place
                FROM usage WHERE tenant = :tenant AND invocation IN (
                    SELECT invocation FROM usage
                    WHERE tenant = :tenant AND created_at >= :since AND created_at < :settled AND attempt <> 1
                )) AS ranked
WHERE place > 1;

-- name: sums_sqlite
-- Totals of a tenant's calls in a time range, grouped by columns from a fixed list. A call counts once, with the attempt
-- that decided how it ended; calls without an attempt count as they are. SQLite truncates
-- when it casts.
SELECT {columns}, currency, SUM(attempts) AS attempts, SUM(calls) AS calls,
       SUM(CASE WHEN outcome = 'failed' THEN calls ELSE 0 END) AS failed,
       SUM(CASE WHEN outcome = 'cancelled' THEN calls ELSE 0 END) AS cancelled,
       SUM(CASE WHEN outcome = 'refused' THEN calls ELSE 0 END) AS refused,
       SUM(CASE WHEN outcome = 'failed' THEN attempts ELSE 0 END) AS failed_attempts,
       SUM(prompt_tokens) AS prompt_tokens, SUM(completion_tokens) AS completion_tokens,
       SUM(cached_tokens) AS cached_tokens, SUM(reasoning_tokens) AS reasoning_tokens,
       SUM(characters) AS characters, SUM(seconds) AS seconds, SUM(searches) AS searches,
       COALESCE(SUM(nanos), 0) AS nanos, SUM(unpriced) AS unpriced
FROM (SELECT provider, model, model_type, credential, api_key, "user", tenant, status, day,
             CAST(created_at / 3600 AS INTEGER) AS hour, session, project, tags, currency, 1 AS attempts,
             CASE WHEN id IN ({superseded}) THEN 0 ELSE 1 END AS calls,
             CASE WHEN status IN ('ok', 'cached') THEN 'served' WHEN status = 'cancelled' THEN 'cancelled'
                  ELSE 'failed' END AS outcome,
             prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, characters, seconds, searches, nanos,
             CASE WHEN total_price IS NULL THEN 1 ELSE 0 END AS unpriced
      FROM usage WHERE tenant = :tenant AND created_at >= :since AND created_at < :until
      UNION ALL
      SELECT provider, model, model_type, '', api_key, "user", tenant, code, day,
             CAST(created_at / 3600 AS INTEGER), session, project, tags, '', 0, calls, outcome, 0, 0, 0, 0, 0, 0, 0, 0, 0
      FROM unserved_calls WHERE tenant = :tenant AND created_at >= :since AND created_at < :until) AS records
GROUP BY {columns}, currency ORDER BY nanos DESC, calls DESC;

-- name: sums_postgresql
-- Totals of a tenant's calls in a time range, grouped by columns from a fixed list. A call counts once, with the attempt
-- that decided how it ended; calls without an attempt count as they are. PostgreSQL rounds
-- when it casts.
SELECT {columns}, currency, SUM(attempts) AS attempts, SUM(calls) AS calls,
       SUM(CASE WHEN outcome = 'failed' THEN calls ELSE 0 END) AS failed,
       SUM(CASE WHEN outcome = 'cancelled' THEN calls ELSE 0 END) AS cancelled,
       SUM(CASE WHEN outcome = 'refused' THEN calls ELSE 0 END) AS refused,
       SUM(CASE WHEN outcome = 'failed' THEN attempts ELSE 0 END) AS failed_attempts,
       SUM(prompt_tokens) AS prompt_tokens, SUM(completion_tokens) AS completion_tokens,
       SUM(cached_tokens) AS cached_tokens, SUM(reasoning_tokens) AS reasoning_tokens,
       SUM(characters) AS characters, SUM(seconds) AS seconds, SUM(searches) AS searches,
       COALESCE(SUM(nanos), 0) AS nanos, SUM(unpriced) AS unpriced
FROM (SELECT provider, model, model_type, credential, api_key, "user", tenant, status, day,
             CAST(FLOOR(created_at / 3600) AS INTEGER) AS hour, session, project, tags, currency, 1 AS attempts,
             CASE WHEN id IN ({superseded}) THEN 0 ELSE 1 END AS calls,
             CASE WHEN status IN ('ok', 'cached') THEN 'served' WHEN status = 'cancelled' THEN 'cancelled'
                  ELSE 'failed' END AS outcome,
             prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, characters, seconds, searches, nanos,
             CASE WHEN total_price IS NULL THEN 1 ELSE 0 END AS unpriced
      FROM usage WHERE tenant = :tenant AND created_at >= :since AND created_at < :until
      UNION ALL
      SELECT provider, model, model_type, '', api_key, "user", tenant, code, day,
             CAST(FLOOR(created_at / 3600) AS INTEGER), session, project, tags, '', 0, calls, outcome, 0, 0, 0, 0, 0, 0, 0, 0, 0
      FROM unserved_calls WHERE tenant = :tenant AND created_at >= :since AND created_at < :until) AS records
GROUP BY {columns}, currency ORDER BY nanos DESC, calls DESC;

-- name: requests
-- A page of a tenant's calls in a time range, newest first: those with attempts, by the deciding one, and those without.
SELECT id, is_unserved FROM (
    SELECT invocation AS id, created_at, 0 AS is_unserved FROM usage
    WHERE tenant = :tenant AND created_at >= :since AND created_at < :until AND id NOT IN ({superseded}){clauses}
    UNION ALL
    SELECT id, created_at, 1 FROM unserved_calls
    WHERE tenant = :tenant AND created_at >= :since AND created_at < :until{unserved_clauses}
) AS records
ORDER BY created_at DESC, id DESC LIMIT :most OFFSET :skip;

-- name: count_requests
-- How many records the same filter matches, and how many calls they stand for.
SELECT COUNT(*) AS records, COALESCE(SUM(calls), 0) AS calls FROM (
    SELECT 1 AS calls FROM usage
    WHERE tenant = :tenant AND created_at >= :since AND created_at < :until AND id NOT IN ({superseded}){clauses}
    UNION ALL
    SELECT calls FROM unserved_calls
    WHERE tenant = :tenant AND created_at >= :since AND created_at < :until{unserved_clauses}
) AS records;

-- name: attempts_of
-- All attempts of several calls of a tenant.
SELECT * FROM usage WHERE tenant = ? AND invocation IN ({ids}) ORDER BY attempt, created_at;

-- name: attempts
-- A page of a tenant's attempts in a time range that match a filter, newest first.
SELECT * FROM usage WHERE tenant = :tenant AND created_at >= :since AND created_at < :until{clauses}
ORDER BY created_at DESC, id DESC LIMIT :most OFFSET :skip;

-- name: count_attempts
-- The number of attempts that the same filter matches.
SELECT COUNT(*) AS count FROM usage
WHERE tenant = :tenant AND created_at >= :since AND created_at < :until{clauses};

-- name: latencies
-- Percentiles (50, 90, 99) of the duration of successful attempts in seconds, by model.
SELECT model, MAX(n) AS calls, MIN(CASE WHEN place >= 0.5 * n THEN latency END) AS p50,
       MIN(CASE WHEN place >= 0.9 * n THEN latency END) AS p90, MIN(CASE WHEN place >= 0.99 * n THEN latency END) AS p99
FROM (SELECT provider || '/' || model AS model, latency,
             ROW_NUMBER() OVER (PARTITION BY provider, model ORDER BY latency) AS place,
             COUNT(*) OVER (PARTITION BY provider, model) AS n
      FROM usage WHERE tenant = :tenant AND created_at >= :since AND created_at < :until AND status = 'ok') AS ranked
GROUP BY model ORDER BY calls DESC, model;

-- name: first_chunks
-- The same percentiles of the time to the first chunk, if there was one.
SELECT model, MIN(CASE WHEN place >= 0.5 * n THEN first_chunk END) AS p50,
       MIN(CASE WHEN place >= 0.9 * n THEN first_chunk END) AS p90,
       MIN(CASE WHEN place >= 0.99 * n THEN first_chunk END) AS p99
FROM (SELECT provider || '/' || model AS model, first_chunk,
             ROW_NUMBER() OVER (PARTITION BY provider, model ORDER BY first_chunk) AS place,
             COUNT(*) OVER (PARTITION BY provider, model) AS n
      FROM usage WHERE tenant = :tenant AND created_at >= :since AND created_at < :until AND status = 'ok'
        AND first_chunk IS NOT NULL) AS ranked
GROUP BY model;
