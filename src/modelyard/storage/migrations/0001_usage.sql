-- One row for every attempt at serving a call: what it used, what it cost, how it ended.
CREATE TABLE usage (
    id                INTEGER PRIMARY KEY,
    invocation        TEXT NOT NULL,
    attempt           INTEGER NOT NULL,
    tenant            TEXT NOT NULL,
    created_at        REAL NOT NULL,     -- seconds since 1970
    provider          TEXT NOT NULL,
    model             TEXT NOT NULL,
    model_type        TEXT NOT NULL,
    credential        TEXT NOT NULL,     -- its name; never its value
    "user"            TEXT,
    status            TEXT NOT NULL,     -- ok, cancelled, or the code of the error
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    characters        INTEGER NOT NULL,
    seconds           REAL NOT NULL,
    estimated         INTEGER NOT NULL,  -- 1 where the provider did not say and we counted
    total_price       TEXT NOT NULL,     -- a decimal: money is never a float
    currency          TEXT NOT NULL,
    latency           REAL NOT NULL,     -- seconds
    first_chunk       REAL               -- seconds until the first chunk, where there was one
) STRICT;
CREATE INDEX usage_by_tenant_and_time ON usage (tenant, created_at);
