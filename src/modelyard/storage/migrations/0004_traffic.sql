-- Every attempt has a name of its own, so that a row that is written twice is one row.
CREATE TABLE usage_by_attempt (
    id                 TEXT NOT NULL PRIMARY KEY,  -- the invocation and the attempt's number
    invocation         TEXT NOT NULL,
    attempt            INTEGER NOT NULL,           -- 0 for an answer from the cache
    tenant             TEXT NOT NULL,
    api_key            TEXT NOT NULL DEFAULT '',   -- its id; never its secret
    "user"             TEXT,
    created_at         REAL NOT NULL,              -- seconds since 1970
    day                INTEGER NOT NULL,           -- days since 1970, UTC
    provider           TEXT NOT NULL,
    model              TEXT NOT NULL,
    model_type         TEXT NOT NULL,
    credential         TEXT NOT NULL,              -- its name; never its value
    credential_id      TEXT NOT NULL DEFAULT '',
    status             TEXT NOT NULL,              -- ok, cached, cancelled, lost, or the code of the error
    counted_by         TEXT NOT NULL DEFAULT '',   -- provider, tokenizer or estimate
    prompt_tokens      INTEGER NOT NULL,
    completion_tokens  INTEGER NOT NULL,
    cached_tokens      INTEGER NOT NULL DEFAULT 0,
    cache_write_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens   INTEGER NOT NULL DEFAULT 0,
    characters         INTEGER NOT NULL,
    seconds            REAL NOT NULL,
    searches           INTEGER NOT NULL DEFAULT 0,
    total_price        TEXT,                       -- a decimal: money is never a float; NULL where nobody knows it
    nanos              INTEGER,                    -- the same in billionths, for sums
    currency           TEXT NOT NULL,
    price_source       TEXT NOT NULL DEFAULT '',
    price_version      TEXT NOT NULL DEFAULT '',
    latency            REAL NOT NULL,              -- seconds
    first_chunk        REAL                        -- seconds until the first chunk, where there was one
) STRICT;
INSERT INTO usage_by_attempt (id, invocation, attempt, tenant, "user", created_at, day, provider, model, model_type,
                              credential, status, counted_by, prompt_tokens, completion_tokens, cached_tokens,
                              cache_write_tokens, reasoning_tokens, characters, seconds, total_price, nanos, currency,
                              price_source, latency, first_chunk)
    SELECT invocation || '.' || attempt || '.' || id, invocation, attempt, tenant, "user", created_at,
           CAST(created_at / 86400 - 0.5 AS INTEGER), provider, model, model_type, credential, status,
           CASE WHEN estimated = 1 THEN 'estimate' ELSE 'provider' END, prompt_tokens, completion_tokens,
           cached_tokens, cache_write_tokens, reasoning_tokens, characters, seconds, total_price,
           CAST(ROUND(CAST(total_price AS REAL) * 1000000000) AS INTEGER), currency, price_source, latency, first_chunk
    FROM usage;
DROP TABLE usage;
ALTER TABLE usage_by_attempt RENAME TO usage;
CREATE INDEX usage_by_tenant_and_time ON usage (tenant, created_at);
CREATE INDEX usage_by_invocation ON usage (tenant, invocation);

-- What a tenant has set up: users, keys, credentials, limits, routes. Each change raises the revision.
CREATE TABLE resources (
    tenant     TEXT NOT NULL,
    kind       TEXT NOT NULL,
    id         TEXT NOT NULL,
    name       TEXT NOT NULL,
    body       TEXT NOT NULL,              -- JSON; secrets in it are encrypted
    revision   INTEGER NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    is_deleted INTEGER NOT NULL DEFAULT 0, -- kept for a while, so that every process hears of it
    PRIMARY KEY (tenant, kind, id)
) STRICT;
CREATE INDEX resources_by_revision ON resources (revision);
CREATE UNIQUE INDEX resources_by_name ON resources (tenant, kind, name) WHERE is_deleted = 0;
CREATE TABLE revisions (
    name  TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
INSERT INTO revisions (name, value) VALUES ('resources', 0);

-- What was used of a limit, where several processes share it. A cache of the ledger, and rebuilt from it.
CREATE TABLE counters (
    name  TEXT NOT NULL PRIMARY KEY,
    used  REAL NOT NULL,
    stamp REAL NOT NULL                    -- seconds since 1970, when `used` was right
) STRICT;
CREATE TABLE reservations (
    id         TEXT NOT NULL PRIMARY KEY,
    charges    TEXT NOT NULL,              -- JSON
    created_at REAL NOT NULL
) STRICT;

-- Why a call went where it went.
CREATE TABLE traces (
    invocation TEXT NOT NULL,
    tenant     TEXT NOT NULL,
    created_at REAL NOT NULL,
    body       TEXT NOT NULL,              -- JSON
    PRIMARY KEY (tenant, invocation)
) STRICT;
CREATE INDEX traces_by_time ON traces (created_at);

-- Answers that may be given again.
CREATE TABLE answers (
    tenant     TEXT NOT NULL,
    name       TEXT NOT NULL,              -- a digest of what was asked
    body       BLOB NOT NULL,
    expires_at REAL NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT;
CREATE INDEX answers_by_expiry ON answers (expires_at)
