-- Datasets: documents that can be asked, and how.
CREATE TABLE datasets (
    tenant      TEXT NOT NULL,
    id          TEXT NOT NULL PRIMARY KEY,
    name        TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    settings    TEXT NOT NULL,             -- JSON
    generation  INTEGER NOT NULL DEFAULT 0, -- up with every change of the index
    space       INTEGER NOT NULL DEFAULT 0, -- which of its indexes is in use
    dimensions  INTEGER NOT NULL DEFAULT 0,
    model       TEXT NOT NULL DEFAULT '',
    created_by  TEXT NOT NULL DEFAULT '',
    created_at  REAL NOT NULL,
    updated_at  REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX datasets_by_name ON datasets (tenant, name);

-- Documents, and how far each is. Whoever works on one says so again and again.
CREATE TABLE documents (
    tenant      TEXT NOT NULL,
    dataset     TEXT NOT NULL,
    id          TEXT NOT NULL PRIMARY KEY,
    position    INTEGER NOT NULL,
    name        TEXT NOT NULL,
    batch       TEXT NOT NULL,
    source      TEXT NOT NULL,             -- JSON
    form        TEXT NOT NULL,
    language    TEXT NOT NULL DEFAULT '',
    rule        TEXT NOT NULL,             -- JSON
    status      TEXT NOT NULL,
    error       TEXT NOT NULL DEFAULT '',
    is_enabled  INTEGER NOT NULL DEFAULT 1,
    is_archived INTEGER NOT NULL DEFAULT 0,
    metadata    TEXT NOT NULL DEFAULT '{}', -- JSON
    readers     TEXT NOT NULL DEFAULT '[]', -- JSON
    words       INTEGER NOT NULL DEFAULT 0,
    tokens      INTEGER NOT NULL DEFAULT 0,
    segments    INTEGER NOT NULL DEFAULT 0,
    done        INTEGER NOT NULL DEFAULT 0,
    hits        INTEGER NOT NULL DEFAULT 0,
    digest      TEXT NOT NULL DEFAULT '',
    times       TEXT NOT NULL DEFAULT '{}', -- JSON: stage to when it ended
    command     TEXT NOT NULL DEFAULT '',  -- what somebody wants of it: pause, cancel
    turn        INTEGER NOT NULL DEFAULT 0, -- which of its versions is to be indexed
    owner       TEXT NOT NULL DEFAULT '',
    lease_until REAL NOT NULL DEFAULT 0,
    created_by  TEXT NOT NULL DEFAULT '',
    created_at  REAL NOT NULL,
    updated_at  REAL NOT NULL
) STRICT;
CREATE INDEX documents_by_dataset ON documents (tenant, dataset, position);
CREATE INDEX documents_by_batch ON documents (tenant, dataset, batch);
CREATE INDEX documents_to_do ON documents (status, lease_until);
CREATE INDEX documents_with_exceptions ON documents (dataset) WHERE readers <> '[]' OR is_enabled = 0 OR is_archived = 1;
CREATE INDEX documents_by_command ON documents (owner) WHERE command <> '';
-- What a document says, as it was read: a JSON list of {text, page}.
CREATE TABLE document_texts (
    document TEXT NOT NULL PRIMARY KEY,
    body     TEXT NOT NULL
) STRICT;

CREATE TABLE segments (
    tenant     TEXT NOT NULL,
    dataset    TEXT NOT NULL,
    document   TEXT NOT NULL,
    id         TEXT NOT NULL PRIMARY KEY,
    position   INTEGER NOT NULL,
    content    TEXT NOT NULL,
    answer     TEXT NOT NULL,
    keywords   TEXT NOT NULL,              -- JSON
    summary    TEXT NOT NULL,
    heading    TEXT NOT NULL,
    page       INTEGER NOT NULL,
    start      INTEGER NOT NULL,           -- characters of the document's text
    stop       INTEGER NOT NULL,
    words      INTEGER NOT NULL,
    tokens     INTEGER NOT NULL,
    digest     TEXT NOT NULL,
    is_enabled INTEGER NOT NULL,
    hits       INTEGER NOT NULL,
    error      TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
) STRICT;
CREATE INDEX segments_by_document ON segments (tenant, document, position);
CREATE INDEX segments_by_dataset ON segments (dataset);
-- Pieces of segments that are searched in their place.
CREATE TABLE children (
    tenant     TEXT NOT NULL,
    dataset    TEXT NOT NULL,
    document   TEXT NOT NULL,
    segment    TEXT NOT NULL,
    id         TEXT NOT NULL PRIMARY KEY,
    position   INTEGER NOT NULL,
    content    TEXT NOT NULL,
    kind       TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
) STRICT;
CREATE INDEX children_by_segment ON children (tenant, segment, position);
CREATE INDEX children_by_document ON children (document);
CREATE INDEX children_by_dataset ON children (dataset);

-- What is searched: the truth that every index follows.
CREATE TABLE index_entries (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset    TEXT NOT NULL,
    space      INTEGER NOT NULL,
    generation INTEGER NOT NULL,           -- of the dataset, when this came
    document   TEXT NOT NULL,
    segment    TEXT NOT NULL,
    child      TEXT NOT NULL,
    digest     TEXT NOT NULL,              -- of what the vector was made of
    vector     BLOB NOT NULL,              -- float32; empty where there is none
    terms      BLOB NOT NULL,              -- uint32 each, then uint8 each: how often
    length     INTEGER NOT NULL
) STRICT;
CREATE INDEX index_entries_by_space ON index_entries (dataset, space, generation);
CREATE INDEX index_entries_by_document ON index_entries (document, segment);
-- Entries that are gone, for indexes that have not yet heard of it.
CREATE TABLE index_removed (
    entry      INTEGER NOT NULL PRIMARY KEY,
    dataset    TEXT NOT NULL,
    space      INTEGER NOT NULL,
    generation INTEGER NOT NULL,           -- of the dataset, when it went
    born       INTEGER NOT NULL,           -- and when it came
    terms      BLOB NOT NULL,
    length     INTEGER NOT NULL
) STRICT;
CREATE INDEX index_removed_by_space ON index_removed (dataset, space, generation);
-- Up to which generation what is gone may have been forgotten: whoever is behind that begins anew.
CREATE TABLE index_followed (
    store      TEXT NOT NULL,
    dataset    TEXT NOT NULL,
    space      INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (store, dataset, space)
) STRICT;
-- How many entries of a space hold a term, for indexes outside of this process; 0 counts entries, -1 their terms.
CREATE TABLE index_terms (
    store   TEXT NOT NULL,
    dataset TEXT NOT NULL,
    space   INTEGER NOT NULL,
    term    INTEGER NOT NULL,
    holding INTEGER NOT NULL,
    PRIMARY KEY (store, dataset, space, term)
) STRICT, WITHOUT ROWID;
-- Vectors of documents that are not finished: what was paid for is not asked for again.
CREATE TABLE staged_vectors (
    document TEXT NOT NULL,
    model    TEXT NOT NULL,
    digest   TEXT NOT NULL,
    vector   BLOB NOT NULL,
    PRIMARY KEY (document, model, digest)
) STRICT;

CREATE TABLE dataset_tags (
    tenant TEXT NOT NULL,
    id     TEXT NOT NULL PRIMARY KEY,
    name   TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX dataset_tags_by_name ON dataset_tags (tenant, name);
CREATE TABLE dataset_tag_bindings (
    tenant  TEXT NOT NULL,
    tag     TEXT NOT NULL,
    dataset TEXT NOT NULL,
    PRIMARY KEY (tag, dataset)
) STRICT;
CREATE TABLE external_knowledge (
    tenant   TEXT NOT NULL,
    id       TEXT NOT NULL PRIMARY KEY,
    name     TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    secret   TEXT NOT NULL                 -- encrypted
) STRICT;
CREATE TABLE dataset_queries (
    tenant     TEXT NOT NULL,
    dataset    TEXT NOT NULL,
    content    TEXT NOT NULL,
    source     TEXT NOT NULL,
    created_at REAL NOT NULL
) STRICT;
CREATE INDEX dataset_queries_by_time ON dataset_queries (tenant, dataset, created_at);
