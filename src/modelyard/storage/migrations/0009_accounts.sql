-- People who sign in to the console.
CREATE TABLE accounts (
    id         TEXT NOT NULL PRIMARY KEY,
    tenant     TEXT NOT NULL,
    email      TEXT NOT NULL,              -- in small letters
    name       TEXT NOT NULL,
    password   TEXT NOT NULL,              -- Argon2id, in PHC form; empty for whoever signs in elsewhere
    role       TEXT NOT NULL,
    is_enabled INTEGER NOT NULL DEFAULT 1,
    created_at REAL NOT NULL,
    seen_at    REAL
) STRICT;
CREATE UNIQUE INDEX accounts_by_email ON accounts (email);
CREATE INDEX accounts_by_tenant ON accounts (tenant, created_at);

-- One row from the moment on at which there is an owner: whoever is second finds it there.
CREATE TABLE first_owner (
    one        INTEGER NOT NULL PRIMARY KEY,
    account    TEXT NOT NULL
) STRICT;

-- Who is signed in, by a digest of what their browser shows.
CREATE TABLE sessions (
    digest     TEXT NOT NULL PRIMARY KEY,
    id         TEXT NOT NULL,
    account    TEXT NOT NULL,
    agent      TEXT NOT NULL,              -- the browser, as it calls itself
    created_at REAL NOT NULL,
    issued_at  REAL NOT NULL,
    expires_at REAL NOT NULL
) STRICT;
CREATE INDEX sessions_by_account ON sessions (account, created_at);
CREATE INDEX sessions_by_id ON sessions (id);

-- Who may become an account.
CREATE TABLE invitations (
    digest     TEXT NOT NULL PRIMARY KEY,
    tenant     TEXT NOT NULL,
    email      TEXT NOT NULL,
    role       TEXT NOT NULL,
    invited_by TEXT NOT NULL,
    expires_at REAL NOT NULL
) STRICT;

-- What was changed by whom.
CREATE TABLE audit (
    id         TEXT NOT NULL PRIMARY KEY,
    tenant     TEXT NOT NULL,
    at         REAL NOT NULL,
    who        TEXT NOT NULL,
    what       TEXT NOT NULL,              -- as 'key.create'
    subject    TEXT NOT NULL,
    details    TEXT NOT NULL               -- JSON, without secrets
) STRICT;
CREATE INDEX audit_by_time ON audit (tenant, at);
