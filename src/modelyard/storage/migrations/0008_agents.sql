-- What tools keep for somebody: notes on a user, files of a workspace, results that were too long for a prompt.
CREATE TABLE kept (
    tenant     TEXT NOT NULL,
    scope      TEXT NOT NULL,              -- what it belongs to: 'notes/APP/USER', 'files/APP/CONVERSATION'
    name       TEXT NOT NULL,
    value      BLOB NOT NULL,
    size       INTEGER NOT NULL,
    updated_at REAL NOT NULL,
    PRIMARY KEY (tenant, scope, name)
) STRICT;

-- Questions that an app answers without a model, by annotation.
CREATE TABLE annotations (
    tenant     TEXT NOT NULL,
    id         TEXT NOT NULL PRIMARY KEY,
    app        TEXT NOT NULL,
    question   TEXT NOT NULL,
    answer     TEXT NOT NULL,
    hits       INTEGER NOT NULL DEFAULT 0,
    model      TEXT NOT NULL DEFAULT '',   -- of the vector
    vector     BLOB,
    created_at REAL NOT NULL
) STRICT;
CREATE INDEX annotations_by_app ON annotations (tenant, app, created_at);
