-- Answers of /v1/responses that callers may go on from.
CREATE TABLE responses (
    id         TEXT NOT NULL,
    tenant     TEXT NOT NULL,
    previous   TEXT,              -- the answer that this one went on from
    created_at REAL NOT NULL,     -- seconds since 1970; 0 where it was deleted
    items      TEXT NOT NULL,     -- what was asked, as JSON
    response   TEXT NOT NULL,     -- what was answered, as JSON
    PRIMARY KEY (tenant, id)
) STRICT;
CREATE INDEX responses_by_time ON responses (created_at);
