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

-- name: forget_forms
-- A run's forms.
DELETE FROM run_forms WHERE run = ?;
