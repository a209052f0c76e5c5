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

-- name: recent
-- A tenant's runs, newest first.
SELECT * FROM runs WHERE tenant = :tenant ORDER BY created_at DESC LIMIT :most;

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

-- name: event
-- Something happened.
INSERT INTO run_events (run, seq, body) VALUES (?, ?, ?) ON CONFLICT (run, seq) DO NOTHING;

-- name: events
-- What happened after a number.
SELECT seq, body FROM run_events WHERE run = :run AND seq > :after ORDER BY seq LIMIT :most;

-- name: ask
-- A form to be filled in.
INSERT INTO run_forms (run, key, tenant, token, body, expires_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (run, key) DO NOTHING;

-- name: form
-- A step's form.
SELECT * FROM run_forms WHERE run = :run AND key = :key;

-- name: forms
-- A run's forms.
SELECT * FROM run_forms WHERE run = :run;

-- name: form_by_token
-- By what its address holds.
SELECT * FROM run_forms WHERE token = :token;

-- name: fill
-- Somebody filled it in.
UPDATE run_forms SET answer = ? WHERE token = ? AND answer = '' RETURNING run, tenant;

-- name: late
-- Forms whose time is over, of runs that wait for them.
SELECT f.run AS run, f.tenant AS tenant, f.key AS key, f.expires_at AS expires_at FROM run_forms f
JOIN runs r ON r.id = f.run WHERE f.answer = '' AND f.expires_at < :now AND r.status = 'paused' LIMIT 100;

-- name: expire
-- Nobody did in time.
UPDATE run_forms SET answer = ? WHERE run = ? AND key = ? AND answer = '';

-- name: forget_runs
-- Runs that ended long ago.
DELETE FROM runs WHERE finished_at IS NOT NULL AND finished_at < ? RETURNING id;

-- name: forget_steps
-- A run's steps.
DELETE FROM run_steps WHERE run = ?;

-- name: forget_events
-- A run's events.
DELETE FROM run_events WHERE run = ?;

-- name: forget_forms
-- A run's forms.
DELETE FROM run_forms WHERE run = ?;

-- name: remove
-- One run of a tenant that is over, or waits.
DELETE FROM runs WHERE tenant = ? AND id = ? AND status <> 'running' RETURNING id;

-- name: put_document
-- An app's file.
INSERT INTO app_documents (tenant, digest, body, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (tenant, digest) DO NOTHING;

-- name: document
-- An app's file, by what it says.
SELECT body FROM app_documents WHERE tenant = :tenant AND digest = :digest;
