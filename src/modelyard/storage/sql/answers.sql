-- name: get
-- An answer of a tenant that is still good.
SELECT body FROM answers WHERE tenant = :tenant AND name = :name AND expires_at > :now;

-- name: put
-- One that may be given again.
INSERT INTO answers (tenant, name, body, expires_at) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant, name) DO UPDATE SET body = excluded.body, expires_at = excluded.expires_at;

-- name: forget
-- Those that are no longer good.
DELETE FROM answers WHERE expires_at < ?;

-- name: clear
-- All of a tenant's.
DELETE FROM answers WHERE tenant = ?;
