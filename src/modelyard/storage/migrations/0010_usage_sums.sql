-- What was used, added up as it comes: where a limit's counter starts is looked up, however many rows there are.
-- Why so: docs/design/0016-usage-sums.md.
CREATE TABLE usage_sums (
    tenant  TEXT NOT NULL,
    scope   TEXT NOT NULL,               -- tenant, key, user or credential
    name    TEXT NOT NULL,               -- of the key, user or credential; empty for the tenant
    span    INTEGER NOT NULL,            -- seconds that a bucket lasts: 86400 or 10
    bucket  INTEGER NOT NULL,            -- spans since 1970
    model   TEXT NOT NULL,               -- provider/model, as the limits knew the call
    api_key TEXT NOT NULL,               -- of a user's sums; empty in the others
    part    INTEGER NOT NULL,            -- servers on one database add to rows of their own
    calls   INTEGER NOT NULL,
    served  INTEGER NOT NULL,            -- those that brought an answer
    tokens  INTEGER NOT NULL,
    nanos   INTEGER NOT NULL,
    PRIMARY KEY (tenant, scope, name, span, bucket, model, api_key, part)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_sums_by_age ON usage_sums (bucket) WHERE span = 10;

-- Rows written from now on say what they were asked for, and are in the sums. Those before are added by and by, newest
-- first: of each tenant, those older than this are not in yet.
ALTER TABLE usage ADD COLUMN asked TEXT;
CREATE TABLE usage_unsummed (
    tenant     TEXT NOT NULL PRIMARY KEY,
    until      REAL NOT NULL,
    since      REAL,                        -- where the span begins that is being added
    done       INTEGER NOT NULL DEFAULT 0,  -- so many of its sums are in
    holder     TEXT NOT NULL DEFAULT '',    -- the process that adds them
    held_until REAL NOT NULL DEFAULT 0
) STRICT;
INSERT INTO usage_unsummed (tenant, until)
    WITH RECURSIVE tenants (tenant) AS (
        SELECT MIN(usage.tenant) FROM usage
        UNION ALL
        SELECT (SELECT MIN(usage.tenant) FROM usage WHERE usage.tenant > tenants.tenant)
        FROM tenants WHERE tenants.tenant IS NOT NULL
    )
    SELECT tenant, 1e15 FROM tenants WHERE tenant IS NOT NULL;

-- Whose a reservation is: whoever takes over what a process left settles what it held.
ALTER TABLE reservations ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX reservations_by_owner ON reservations (owner)
