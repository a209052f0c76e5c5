-- name: start
-- A conversation begins.
INSERT INTO conversations (tenant, id, app, "user", name, inputs, variables, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: one
-- One of a user with an app.
SELECT * FROM conversations WHERE tenant = :tenant AND app = :app AND id = :id AND "user" = :user AND is_deleted = 0;

-- name: newest
-- A user's, those that were spoken in last first.
SELECT * FROM conversations WHERE tenant = :tenant AND app = :app AND "user" = :user AND is_deleted = 0
ORDER BY updated_at DESC LIMIT 1000;

-- name: rename
-- Another name.
UPDATE conversations SET name = ?, updated_at = ? WHERE tenant = ? AND id = ?;

-- name: touch
-- Somebody spoke; the variables as they are now.
UPDATE conversations SET variables = ?, updated_at = ? WHERE tenant = ? AND id = ?;

-- name: delete
-- It is gone for its user.
UPDATE conversations SET is_deleted = 1, updated_at = ? WHERE tenant = ? AND app = ? AND id = ? AND "user" = ? AND is_deleted = 0 RETURNING id;

-- name: say
-- A question, before there is an answer.
INSERT INTO messages (tenant, id, app, "user", conversation, parent, run, query, answer, inputs, files, metadata, status, error, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING;

-- name: answer
-- The answer, or why there is none.
UPDATE messages SET answer = ?, metadata = ?, status = ?, error = ? WHERE tenant = ? AND id = ?;

-- name: thread
-- A conversation's messages, newest first.
SELECT * FROM messages WHERE tenant = :tenant AND conversation = :conversation AND created_at < :before
ORDER BY created_at DESC, id DESC LIMIT :most;

-- name: message
-- One message of a user.
SELECT * FROM messages WHERE tenant = :tenant AND app = :app AND id = :id;

-- name: rate
-- What somebody thinks of it.
UPDATE messages SET rating = ?, feedback = ?, rated_at = ? WHERE tenant = ? AND app = ? AND id = ? RETURNING id;

-- name: rated
-- What was thought of an app's messages.
SELECT * FROM messages WHERE tenant = :tenant AND app = :app AND rating <> '' ORDER BY rated_at DESC LIMIT :most OFFSET :skip;

-- name: of_app
-- Everybody's with an app, those that were spoken in last first.
SELECT * FROM conversations WHERE tenant = :tenant AND app = :app AND is_deleted = 0
ORDER BY updated_at DESC LIMIT :most;
