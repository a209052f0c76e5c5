-- Who set a tenant's row: 'operator' where the tenant may not change it; empty where it is the tenant's own.
ALTER TABLE resources ADD COLUMN set_by TEXT NOT NULL DEFAULT '';

-- Where a session was opened from: whoever signs in from there again is not counted with strangers.
ALTER TABLE sessions ADD COLUMN address TEXT NOT NULL DEFAULT '';
