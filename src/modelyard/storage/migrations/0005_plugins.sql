-- What plugins keep for themselves, each within one tenant.

CREATE TABLE plugin_storage (
    tenant     TEXT NOT NULL,
    plugin     TEXT NOT NULL,              -- author/name
    name       TEXT NOT NULL,
    value      BLOB NOT NULL,
    size       INTEGER NOT NULL,           -- bytes
    PRIMARY KEY (tenant, plugin, name)
) STRICT;
