-- name: ask
-- Add a form.
INSERT INTO run_forms (run, key, tenant, token, body, expires_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (run, key) DO NOTHING;

-- name: form
-- The form of a step.
SELECT * FROM run_forms WHERE run = :run AND key = :key;

-- name: forms
-- The forms of a run.
SELECT * FROM run_forms WHERE run = :run;

-- name: next_deadline
-- When the first open form of a run expires.
SELECT MIN(expires_at) AS deadline FROM run_forms WHERE run = :run AND answer = '';

-- name: form_by_token
-- The form with a token.
SELECT * FROM run_forms WHERE token = :token;

-- name: fill
-- Store the submitted answer. Returns no row if the form was already submitted, or has expired.
UPDATE run_forms SET answer = ? WHERE token = ? AND answer = '' AND expires_at > ? RETURNING run, tenant;

-- name: late
-- Expired forms of paused runs.
SELECT f.run AS run, f.tenant AS tenant, f.key AS key, f.expires_at AS expires_at FROM run_forms f
JOIN runs r ON r.id = f.run WHERE f.answer = '' AND f.expires_at < :now AND r.status = 'paused' LIMIT 100;

-- name: expire
-- Mark a form as expired, unless it was submitted.
UPDATE run_forms SET answer = ? WHERE run = ? AND key = ? AND answer = '';

-- name: forget_forms
-- Delete the forms of a run.
DELETE FROM run_forms WHERE run = ?;
