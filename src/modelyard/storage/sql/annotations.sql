-- name: add
-- A question that is answered without a model.
INSERT INTO annotations (tenant, id, app, question, answer, created_at) VALUES (?, ?, ?, ?, ?, ?);

-- name: one
-- An app's.
SELECT * FROM annotations WHERE tenant = :tenant AND app = :app AND id = :id;

-- name: list
-- An app's, newest first.
SELECT id, question, answer, hits, created_at FROM annotations
WHERE tenant = :tenant AND app = :app AND (:like = '' OR LOWER(question) LIKE :like OR LOWER(answer) LIKE :like)
ORDER BY created_at DESC, id DESC LIMIT :most OFFSET :skip;

-- name: count
-- How many those are.
SELECT COUNT(*) AS count FROM annotations
WHERE tenant = :tenant AND app = :app AND (:like = '' OR LOWER(question) LIKE :like OR LOWER(answer) LIKE :like);

-- name: vectors
-- All of an app's, for the comparison.
SELECT id, question, answer, model, vector FROM annotations WHERE tenant = :tenant AND app = :app;

-- name: change
-- Another question, another answer; the vector is made anew.
UPDATE annotations SET question = ?, answer = ?, model = '', vector = NULL WHERE tenant = ? AND app = ? AND id = ?
RETURNING id;

-- name: embed
-- What the question is compared by.
UPDATE annotations SET model = ?, vector = ? WHERE tenant = ? AND id = ?;

-- name: hit
-- It answered.
UPDATE annotations SET hits = hits + 1 WHERE tenant = ? AND id = ?;

-- name: remove
-- It goes.
DELETE FROM annotations WHERE tenant = ? AND app = ? AND id = ? RETURNING id;

-- name: forget
-- All of an app's.
DELETE FROM annotations WHERE tenant = ? AND app = ?;
