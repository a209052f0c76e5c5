-- What apps' files said, each version once.
CREATE TABLE app_documents (
    tenant     TEXT NOT NULL,
    digest     TEXT NOT NULL,
    body       TEXT NOT NULL,              -- YAML
    created_at REAL NOT NULL,
    PRIMARY KEY (tenant, digest)
) STRICT;

-- Runs of workflows. Whoever owns one says so again and again; one that nobody owns is taken up by somebody.
CREATE TABLE runs (
    tenant      TEXT NOT NULL,
    id          TEXT NOT NULL PRIMARY KEY,
    app         TEXT NOT NULL,
    status      TEXT NOT NULL,
    "user"      TEXT NOT NULL DEFAULT '',
    body        TEXT NOT NULL,             -- what it was started with, as JSON
    result      TEXT NOT NULL DEFAULT '',  -- what came of it, as JSON
    owner       TEXT NOT NULL DEFAULT '',  -- the process that runs it
    lease_until REAL NOT NULL DEFAULT 0,
    command     TEXT NOT NULL DEFAULT '',  -- what somebody wants of it
    created_at  REAL NOT NULL,
    finished_at REAL
) STRICT;
CREATE INDEX runs_by_app ON runs (tenant, app, created_at);
CREATE INDEX runs_by_status ON runs (status, lease_until);
CREATE INDEX runs_by_command ON runs (owner) WHERE command <> '';
CREATE TABLE run_steps (
    run  TEXT NOT NULL,
    key  TEXT NOT NULL,
    seq  INTEGER NOT NULL,
    body TEXT NOT NULL,                    -- JSON; empty where it was begun and nobody knows whether it was finished
    PRIMARY KEY (run, key)
) STRICT;
CREATE TABLE run_events (
    run  TEXT NOT NULL,
    seq  INTEGER NOT NULL,
    body TEXT NOT NULL,                    -- JSON
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE run_forms (
    run        TEXT NOT NULL,
    key        TEXT NOT NULL,
    tenant     TEXT NOT NULL,
    token      TEXT NOT NULL,
    body       TEXT NOT NULL,              -- the form, as JSON
    answer     TEXT NOT NULL DEFAULT '',   -- what was filled in, as JSON
    expires_at REAL NOT NULL,
    PRIMARY KEY (run, key)
) STRICT;
CREATE UNIQUE INDEX run_forms_by_token ON run_forms (token);
CREATE INDEX run_forms_by_time ON run_forms (answer, expires_at);

CREATE TABLE conversations (
    tenant     TEXT NOT NULL,
    id         TEXT NOT NULL PRIMARY KEY,
    app        TEXT NOT NULL,
    "user"     TEXT NOT NULL,
    name       TEXT NOT NULL,
    inputs     TEXT NOT NULL,              -- JSON
    variables  TEXT NOT NULL,              -- JSON: name to {id, value, value_type, description}
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    is_deleted INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX conversations_by_user ON conversations (tenant, app, "user", updated_at);
CREATE TABLE messages (
    tenant       TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    app          TEXT NOT NULL,
    "user"       TEXT NOT NULL,
    conversation TEXT NOT NULL,
    parent       TEXT NOT NULL,
    run          TEXT NOT NULL,
    query        TEXT NOT NULL,
    answer       TEXT NOT NULL,
    inputs       TEXT NOT NULL,            -- JSON
    files        TEXT NOT NULL,            -- JSON
    metadata     TEXT NOT NULL,            -- JSON: usage, retriever_resources
    status       TEXT NOT NULL,
    error        TEXT NOT NULL,
    rating       TEXT NOT NULL DEFAULT '', -- like, dislike
    feedback     TEXT NOT NULL DEFAULT '',
    rated_at     REAL,
    created_at   REAL NOT NULL
) STRICT;
CREATE INDEX messages_by_conversation ON messages (tenant, conversation, created_at);
CREATE INDEX messages_by_app ON messages (tenant, app, created_at);
