-- name: create
-- A run begins.
INSERT INTO runs (tenant, id, app, status, "user", body, owner, lease_until, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: mine
-- Whether a run goes on here.
SELECT id FROM runs WHERE id = :id AND owner = :owner AND status = 'running';

-- name: one
-- A tenant's run.
SELECT * FROM runs WHERE tenant = :tenant AND id = :id;

-- name: list
-- An app's runs, newest first.
SELECT * FROM runs WHERE tenant = :tenant AND app = :app AND (:status = '' OR status = :status)
AND created_at < :before AND created_at >= :since
ORDER BY created_at DESC LIMIT :most OFFSET :skip;

-- name: count
-- How many those are.
SELECT COUNT(*) AS count FROM runs WHERE tenant = :tenant AND app = :app AND (:status = '' OR status = :status)
AND created_at < :before AND created_at >= :since;

-- name: settle
-- What came of it, or that it waits.
UPDATE runs SET status = ?, result = ?, finished_at = ?, owner = '', lease_until = 0, command = '' WHERE id = ?;

-- name: own
-- It goes on here.
UPDATE runs SET status = 'running', owner = ?, lease_until = ?, command = '' WHERE id = ? AND status = ? RETURNING id;

-- name: renew
-- Whoever runs it is still there.
UPDATE runs SET lease_until = ? WHERE owner = ? AND status = 'running';

-- name: orphans
-- Runs that somebody began and whose owner has not been heard of.
SELECT * FROM runs WHERE status = 'running' AND lease_until < :now ORDER BY created_at LIMIT 200;

-- name: of_owner
-- Runs that a process which is gone had.
SELECT * FROM runs WHERE status = 'running' AND owner <> :owner ORDER BY created_at LIMIT 1000;

-- name: claim
-- An orphan goes on here, unless somebody was quicker.
UPDATE runs SET owner = ?, lease_until = ? WHERE id = ? AND status = 'running' AND owner = ? RETURNING id;

-- name: command
-- Somebody wants something of it.
UPDATE runs SET command = ? WHERE tenant = ? AND id = ? AND status = 'running' RETURNING id;

-- name: commands
-- What is wanted of a process's runs.
SELECT id, command FROM runs WHERE owner = :owner AND command <> '';

-- name: step
-- A node has run.
INSERT INTO run_steps (run, key, seq, body) VALUES (?, ?, ?, ?)
ON CONFLICT (run, key) DO UPDATE SET seq = excluded.seq, body = excluded.body WHERE run_steps.body = '';

-- name: begun
-- One with effects is about to.
INSERT INTO run_steps (run, key, seq, body) VALUES (?, ?, 0, '') ON CONFLICT (run, key) DO NOTHING;

-- name: steps
-- All of a run, in the order in which they ended.
SELECT key, body FROM run_steps WHERE run = :run ORDER BY seq;

-- name: delete_old_runs
-- Runs that ended long ago.
DELETE FROM runs WHERE finished_at IS NOT NULL AND finished_at < ? RETURNING id;

-- name: forget_steps
-- A run's steps.
DELETE FROM run_steps WHERE run = ?;
