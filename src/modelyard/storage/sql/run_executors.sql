-- name: renew
-- Renew the lease of a process, which may be new.
INSERT INTO run_executors (id, lease_until) VALUES (?, ?)
ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until;

-- name: others
-- The other processes.
SELECT id, lease_until FROM run_executors WHERE id <> :id;

-- name: forget
-- Forget a process, unless it has renewed its lease since it was read.
DELETE FROM run_executors WHERE id = ? AND lease_until = ?;
