-- name: get
-- A cached response of a tenant that has not expired.
SELECT body FROM answers WHERE tenant = :tenant AND name = :name AND expires_at > :now;

-- name: put
-- Add or replace a cached response.
INSERT INTO answers (tenant, name, body, expires_at) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant, name) DO UPDATE SET body = excluded.body, expires_at = excluded.expires_at;

-- name: forget
-- Delete expired responses.
DELETE FROM answers WHERE expires_at < ?;

-- name: clear
-- Delete all cached responses of a tenant.
DELETE FROM answers WHERE tenant = ?;
