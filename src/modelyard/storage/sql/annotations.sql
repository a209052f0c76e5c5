-- name: add
-- Add an annotation: a question with a fixed answer.
INSERT INTO annotations (tenant, id, app, question, answer, created_at) VALUES (?, ?, ?, ?, ?, ?);

-- name: one
-- One annotation of an app.
SELECT * FROM annotations WHERE tenant = :tenant AND app = :app AND id = :id;

-- name: list
-- The annotations of an app, newest first.
SELECT id, question, answer, hits, created_at FROM annotations
WHERE tenant = :tenant AND app = :app AND (:like = '' OR LOWER(question) LIKE :like OR LOWER(answer) LIKE :like)
ORDER BY created_at DESC, id DESC LIMIT :most OFFSET :skip;

-- name: count
-- The number of annotations that the same filter matches.
SELECT COUNT(*) AS count FROM annotations
WHERE tenant = :tenant AND app = :app AND (:like = '' OR LOWER(question) LIKE :like OR LOWER(answer) LIKE :like);

-- name: vectors
-- All annotations of an app with their vectors.
SELECT id, question, answer, model, vector FROM annotations WHERE tenant = :tenant AND app = :app;

-- name: change
-- Change question and answer; the vector is computed again later.
UPDATE annotations SET question = ?, answer = ?, model = '', vector = NULL WHERE tenant = ? AND app = ? AND id = ?
RETURNING id;

-- name: embed
-- Store the vector of a question.
UPDATE annotations SET model = ?, vector = ? WHERE tenant = ? AND id = ?;

-- name: hit
-- Count a use of an annotation.
UPDATE annotations SET hits = hits + 1 WHERE tenant = ? AND id = ?;

-- name: remove
-- Delete an annotation.
DELETE FROM annotations WHERE tenant = ? AND app = ? AND id = ? RETURNING id;

-- name: forget
-- Delete all annotations of an app.
DELETE FROM annotations WHERE tenant = ? AND app = ?;
