-- name: put
-- Why a call went where it went.
INSERT INTO traces (invocation, tenant, created_at, body) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant, invocation) DO NOTHING;

-- name: one
-- One of a tenant's.
SELECT invocation, created_at, body FROM traces WHERE tenant = :tenant AND invocation = :invocation;

-- name: forget
-- Those that are older than they are to be kept.
DELETE FROM traces WHERE created_at < ?;
