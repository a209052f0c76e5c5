-- The settings of all servers that share this database, one row for each version.

CREATE TABLE server_settings (
    version    INTEGER PRIMARY KEY,        -- from 1
    sealed     TEXT NOT NULL,              -- the YAML, encrypted: it holds keys
    changed_at REAL NOT NULL,
    changed_by TEXT NOT NULL
) STRICT;
