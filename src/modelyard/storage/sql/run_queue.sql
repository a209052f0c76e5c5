-- name: add_paused
-- Queue a paused run, so that any process may claim it.
UPDATE runs SET status = 'running', owner = '', epoch = epoch + 1, lease_until = ?, command = ''
WHERE id = ? AND status = 'paused' RETURNING epoch;

-- name: running
-- A tenant's run, if it has neither ended nor paused.
SELECT * FROM runs WHERE tenant = :tenant AND id = :id AND status = 'running';

-- name: claim
-- Claim a run as it was read. Returns no row if another process was faster, or its owner has renewed the lease.
UPDATE runs SET owner = ?, epoch = epoch + 1, lease_until = ?
WHERE id = ? AND status = 'running' AND owner = ? AND epoch = ? AND lease_until = ? RETURNING epoch;

-- name: overdue
-- Runs of other processes, and queued ones that should have been claimed by now.
SELECT * FROM runs WHERE status = 'running' AND owner <> :owner AND (owner <> '' OR lease_until < :now)
ORDER BY lease_until LIMIT 1000;

-- name: look_later
-- Give a queued run more time. Returns no row if another process was faster.
UPDATE runs SET lease_until = ?
WHERE id = ? AND status = 'running' AND owner = '' AND epoch = ? AND lease_until = ? RETURNING epoch;
