-- name: add
-- Add a mail, unless the form has one for this recipient.
INSERT INTO form_mails (run, key, recipient, tenant, token, subject, body, state, due_at, error)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run, key, recipient) DO NOTHING;

-- name: of_run
-- The mails of a run.
SELECT key, recipient, state, attempts, error FROM form_mails
WHERE run = :run AND tenant = :tenant ORDER BY key, recipient;

-- name: form_by_token
-- The form whose page a mail links to, and its recipient.
SELECT f.*, m.recipient AS recipient FROM form_mails m
JOIN run_forms f ON f.run = m.run AND f.key = m.key WHERE m.token = :token;

-- name: due
-- Mails whose next attempt is due, oldest first.
SELECT run, key, recipient FROM form_mails WHERE state = 'waiting' AND due_at <= :now ORDER BY due_at LIMIT 10;

-- name: claim
-- Take one due mail until a time; another process may have been faster.
UPDATE form_mails SET due_at = ?, attempts = attempts + 1
WHERE run = ? AND key = ? AND recipient = ? AND state = 'waiting' AND due_at <= ? RETURNING *;

-- name: form
-- Whether the form of a mail is still open, and the state of its run.
SELECT f.answer AS answer, f.expires_at AS expires_at, r.status AS status FROM run_forms f
JOIN runs r ON r.id = f.run WHERE f.run = :run AND f.key = :key;

-- name: settle
-- Store the result of an attempt.
UPDATE form_mails SET state = ?, due_at = ?, error = ? WHERE run = ? AND key = ? AND recipient = ? AND attempts = ?;

-- name: forget
-- Delete the mails of a run.
DELETE FROM form_mails WHERE run = ?;
