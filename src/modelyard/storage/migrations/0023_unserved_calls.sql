-- Calls that ended before any attempt was made: refused, cancelled while they waited, or failed. Attempts are in `usage`.
-- During a flood, calls that are alike are counted in one row. Why so: docs/design/0026-request-records.md.
CREATE TABLE unserved_calls (
    id          TEXT PRIMARY KEY,           -- the id of the request or call; of a counting row, one of its own
    tenant      TEXT NOT NULL,              -- empty if the caller was not authenticated
    created_at  REAL NOT NULL,
    day         INTEGER NOT NULL,
    calls       INTEGER NOT NULL,           -- 1, or how many calls a counting row stands for
    is_counting INTEGER NOT NULL,           -- 1 if the row stands for calls without rows of their own
    outcome     TEXT NOT NULL,              -- refused, cancelled or failed
    status      INTEGER NOT NULL,           -- of HTTP; 499 if the client disconnected
    code        TEXT NOT NULL,
    message     TEXT NOT NULL,
    route       TEXT NOT NULL,              -- method and path, with names in place of values; empty for an unknown path
    api_key     TEXT NOT NULL,              -- the id of the key; never its text
    fingerprint TEXT NOT NULL,              -- of a key that is not valid: the beginning of its digest
    "user"      TEXT,
    app         TEXT NOT NULL,
    asked       TEXT NOT NULL,              -- the model as the caller named it
    provider    TEXT NOT NULL,              -- empty if the name did not lead to a model
    model       TEXT NOT NULL,
    model_type  TEXT NOT NULL,
    session     TEXT NOT NULL,
    project     TEXT NOT NULL,
    tags        TEXT NOT NULL
) STRICT;
CREATE INDEX unserved_calls_by_time ON unserved_calls (tenant, created_at);
CREATE INDEX unserved_calls_by_age ON unserved_calls (created_at);
