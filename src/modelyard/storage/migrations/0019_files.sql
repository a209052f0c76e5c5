-- Files of tenants, for installations that keep them in the database.

CREATE TABLE stored_files (
    tenant     TEXT NOT NULL,              -- or _server, for what belongs to no tenant
    name       TEXT NOT NULL,
    upload     TEXT NOT NULL,              -- which chunks are its content
    size       INTEGER NOT NULL,           -- bytes
    sha256     TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT;

-- An upload is written chunk by chunk, and becomes a file when it is complete.
CREATE TABLE file_chunks (
    tenant     TEXT NOT NULL,
    upload     TEXT NOT NULL,
    position   INTEGER NOT NULL,           -- from 0
    data       BLOB NOT NULL,
    written_at REAL NOT NULL,
    PRIMARY KEY (tenant, upload, position)
) STRICT;

CREATE INDEX file_chunks_by_time ON file_chunks (written_at);
