-- name: add
-- One attempt.
INSERT INTO usage (invocation, attempt, tenant, created_at, provider, model, model_type, credential, user, status,
                   prompt_tokens, completion_tokens, characters, seconds, estimated, total_price, currency, latency,
                   first_chunk, cached_tokens, cache_write_tokens, reasoning_tokens, price_source)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: recent
-- A tenant's latest attempts, newest first.
SELECT * FROM usage WHERE tenant = :tenant AND created_at >= :since ORDER BY created_at DESC, id DESC LIMIT :most;

-- name: since
-- All of a tenant's attempts since a moment, oldest first.
SELECT * FROM usage WHERE tenant = :tenant AND created_at >= :since ORDER BY created_at, id;
