-- An unknown price is NULL, never 0; which tokens were cached or thought; whose price it was.
CREATE TABLE usage_with_prices (
    id                 INTEGER PRIMARY KEY,
    invocation         TEXT NOT NULL,
    attempt            INTEGER NOT NULL,
    tenant             TEXT NOT NULL,
    created_at         REAL NOT NULL,     -- seconds since 1970
    provider           TEXT NOT NULL,
    model              TEXT NOT NULL,
    model_type         TEXT NOT NULL,
    credential         TEXT NOT NULL,     -- its name; never its value
    "user"             TEXT,
    status             TEXT NOT NULL,     -- ok, cancelled, or the code of the error
    prompt_tokens      INTEGER NOT NULL,
    completion_tokens  INTEGER NOT NULL,
    characters         INTEGER NOT NULL,
    seconds            REAL NOT NULL,
    estimated          INTEGER NOT NULL,  -- 1 where the provider did not say and we counted
    total_price        TEXT,              -- a decimal: money is never a float; NULL where nobody knows the price
    currency           TEXT NOT NULL,
    latency            REAL NOT NULL,     -- seconds
    first_chunk        REAL,              -- seconds until the first chunk, where there was one
    cached_tokens      INTEGER NOT NULL DEFAULT 0,
    cache_write_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens   INTEGER NOT NULL DEFAULT 0,
    price_source       TEXT NOT NULL DEFAULT ''
) STRICT;
INSERT INTO usage_with_prices (id, invocation, attempt, tenant, created_at, provider, model, model_type, credential,
                               "user", status, prompt_tokens, completion_tokens, characters, seconds, estimated,
                               total_price, currency, latency, first_chunk)
    SELECT id, invocation, attempt, tenant, created_at, provider, model, model_type, credential, "user", status,
           prompt_tokens, completion_tokens, characters, seconds, estimated, total_price, currency, latency,
           first_chunk
    FROM usage;
DROP TABLE usage;
ALTER TABLE usage_with_prices RENAME TO usage;
CREATE INDEX usage_by_tenant_and_time ON usage (tenant, created_at);
