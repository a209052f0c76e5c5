-- Sources with which datasets are kept in step, with when and by which process each is synchronised.
CREATE TABLE dataset_sources (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    dataset     TEXT NOT NULL,
    name        TEXT NOT NULL,
    connector   TEXT NOT NULL,                -- the type of the source
    address     TEXT NOT NULL,                -- what its documents name as their origin
    settings    TEXT NOT NULL,                -- JSON, without credentials
    secret      TEXT NOT NULL,                -- the credentials, encrypted
    access      TEXT NOT NULL DEFAULT '[]',   -- JSON list of access rules
    schedule    TEXT NOT NULL DEFAULT '',     -- cron; empty if it is synchronised on request alone
    timezone    TEXT NOT NULL DEFAULT 'UTC',
    is_enabled  INTEGER NOT NULL DEFAULT 1,
    is_operators INTEGER NOT NULL DEFAULT 0,  -- added on the server's command line: private addresses are allowed
    created_at  REAL NOT NULL,
    due_at      REAL,                         -- the next synchronisation; NULL for none
    owner       TEXT NOT NULL DEFAULT '',     -- the process that synchronises it
    lease_until REAL NOT NULL DEFAULT 0,
    attempt     INTEGER NOT NULL DEFAULT 0,   -- counts claims and changes: what an earlier owner writes is refused
    started_at  REAL NOT NULL DEFAULT 0,
    finished_at REAL NOT NULL DEFAULT 0,
    report      TEXT NOT NULL DEFAULT '',     -- JSON, of the last synchronisation that ended
    error       TEXT NOT NULL DEFAULT ''      -- why the last one failed
) STRICT;
-- Names and addresses are unique within a dataset: two sources of one address would take documents from each other.
CREATE UNIQUE INDEX dataset_sources_by_name ON dataset_sources (tenant, dataset, name);
CREATE UNIQUE INDEX dataset_sources_by_address ON dataset_sources (dataset, address);
CREATE INDEX dataset_sources_due ON dataset_sources (due_at) WHERE due_at IS NOT NULL;
