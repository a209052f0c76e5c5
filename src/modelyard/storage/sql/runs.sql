-- name: create
-- Add a run.
INSERT INTO runs (tenant, id, app, status, "user", body, owner, epoch, lease_until, created_at, source)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: mine
-- Whether a process is executing a run.
SELECT id FROM runs WHERE id = :id AND owner = :owner AND status = 'running';

-- name: one
-- One run of a tenant.
SELECT * FROM runs WHERE tenant = :tenant AND id = :id;

-- name: list
-- The runs of an app, newest first.
SELECT * FROM runs WHERE tenant = :tenant AND app = :app AND (:status = '' OR status = :status)
AND created_at < :before AND created_at >= :since
ORDER BY created_at DESC LIMIT :most OFFSET :skip;

-- name: count
-- The number of runs that the same filter matches.
SELECT COUNT(*) AS count FROM runs WHERE tenant = :tenant AND app = :app AND (:status = '' OR status = :status)
AND created_at < :before AND created_at >= :since;

-- name: settle
-- Store the result of a run, or its pause. Returns no row if the run has another owner by now.
UPDATE runs SET status = ?, result = ?, finished_at = ?, owner = '', lease_until = 0, command = ''
WHERE id = ? AND owner = ? AND epoch = ? RETURNING id;

-- name: settled
-- Whether a run has been settled like this already: a settlement is repeated if its confirmation was lost.
SELECT id FROM runs WHERE id = ? AND owner = '' AND epoch = ? AND status = ?;

-- name: held_sqlite
-- Whether a process still owns a run, as the first step of a transaction that writes to it.
SELECT id FROM runs WHERE id = ? AND owner = ? AND epoch = ? AND status = 'running';

-- name: held_postgresql
-- The same; nobody can claim the run before the transaction has ended.
SELECT id FROM runs WHERE id = ? AND owner = ? AND epoch = ? AND status = 'running' FOR SHARE;

-- name: own
-- Resume a run in this process.
UPDATE runs SET status = 'running', owner = ?, epoch = epoch + 1, lease_until = ?, command = ''
WHERE id = ? AND status = ? RETURNING epoch;

-- name: renew
-- Renew the leases of a process, and return the runs that it owns.
UPDATE runs SET lease_until = ? WHERE owner = ? AND status = 'running' RETURNING id, epoch;

-- name: release
-- End the lease of a run that its owner leaves, so that another process claims it at once.
UPDATE runs SET lease_until = 0 WHERE id = ? AND owner = ? AND epoch = ? AND status = 'running';

-- name: of_others
-- Running runs of other processes, those first whose lease ends first.
SELECT * FROM runs WHERE status = 'running' AND owner <> :owner ORDER BY lease_until LIMIT 1000;

-- name: claim
-- Claim an orphaned run. Returns no row if another process was faster, or its owner has renewed the lease.
UPDATE runs SET owner = ?, epoch = epoch + 1, lease_until = ?
WHERE id = ? AND status = 'running' AND owner = ? AND epoch = ? AND lease_until = ? RETURNING epoch;

-- name: command
-- Request that a running run pauses or stops.
UPDATE runs SET command = ? WHERE tenant = ? AND id = ? AND status = 'running' RETURNING id;

-- name: commands
-- Commands for the runs of a process.
SELECT id, command FROM runs WHERE owner = :owner AND command <> '';

-- name: step
-- Store the result of a node.
INSERT INTO run_steps (run, key, seq, body) VALUES (?, ?, ?, ?)
ON CONFLICT (run, key) DO UPDATE SET seq = excluded.seq, body = excluded.body WHERE run_steps.body = '';

-- name: begun
-- Record that a node with side effects is about to run.
INSERT INTO run_steps (run, key, seq, body) VALUES (?, ?, 0, '') ON CONFLICT (run, key) DO NOTHING;

-- name: steps
-- The steps of a run in the order in which they ended.
SELECT key, body FROM run_steps WHERE run = :run ORDER BY seq;

-- name: delete_old_runs
-- Delete runs that ended before a time.
DELETE FROM runs WHERE finished_at IS NOT NULL AND finished_at < ? RETURNING id;

-- name: forget_steps
-- Delete the steps of a run.
DELETE FROM run_steps WHERE run = ?;
