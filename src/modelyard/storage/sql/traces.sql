-- name: put
-- Add the routing decisions of a call.
INSERT INTO traces (invocation, tenant, created_at, body) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant, invocation) DO NOTHING;

-- name: one
-- The routing decisions of a call of a tenant.
SELECT invocation, created_at, body FROM traces WHERE tenant = :tenant AND invocation = :invocation;

-- name: forget
-- Delete traces that are older than the retention time.
DELETE FROM traces WHERE created_at < ?;
