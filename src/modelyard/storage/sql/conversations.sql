-- name: start
-- Add a conversation.
INSERT INTO conversations (tenant, id, app, "user", name, inputs, variables, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: one
-- One conversation of a user with an app.
SELECT * FROM conversations WHERE tenant = :tenant AND app = :app AND id = :id AND "user" = :user AND is_deleted = 0;

-- name: newest
-- The conversations of a user with an app, last updated first.
SELECT * FROM conversations WHERE tenant = :tenant AND app = :app AND "user" = :user AND is_deleted = 0
ORDER BY updated_at DESC LIMIT 1000;

-- name: rename
-- Rename a conversation.
UPDATE conversations SET name = ?, updated_at = ? WHERE tenant = ? AND id = ?;

-- name: variables_sqlite
-- The variables of a conversation, as the first step of a transaction that changes them.
SELECT variables FROM conversations WHERE tenant = ? AND id = ?;

-- name: variables_postgresql
-- The same; nobody else can change them before the transaction has ended.
SELECT variables FROM conversations WHERE tenant = ? AND id = ? FOR UPDATE;

-- name: touch
-- Store the variables and the time of the last message.
UPDATE conversations SET variables = ?, updated_at = ? WHERE tenant = ? AND id = ?;

-- name: delete
-- Mark a conversation as deleted by its user.
UPDATE conversations SET is_deleted = 1, updated_at = ? WHERE tenant = ? AND app = ? AND id = ? AND "user" = ? AND is_deleted = 0 RETURNING id;

-- name: say
-- Add a message before it is answered.
INSERT INTO messages (tenant, id, app, "user", conversation, parent, run, query, answer, inputs, files, metadata, status, error, created_at, source)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING;

-- name: answer
-- Store the answer of a message, or its error.
UPDATE messages SET answer = ?, metadata = ?, status = ?, error = ? WHERE tenant = ? AND id = ?;

-- name: thread
-- The messages of a conversation, newest first.
SELECT * FROM messages WHERE tenant = :tenant AND conversation = :conversation AND created_at < :before
ORDER BY created_at DESC, id DESC LIMIT :most;

-- name: message
-- One message of an app.
SELECT * FROM messages WHERE tenant = :tenant AND app = :app AND id = :id;

-- name: rate
-- Store the rating of a message.
UPDATE messages SET rating = ?, feedback = ?, rated_at = ? WHERE tenant = ? AND app = ? AND id = ? RETURNING id;

-- name: rated
-- The rated messages of an app, last rated first.
SELECT * FROM messages WHERE tenant = :tenant AND app = :app AND rating <> '' ORDER BY rated_at DESC LIMIT :most OFFSET :skip;

-- name: of_app
-- The conversations of all users with an app, last updated first.
SELECT * FROM conversations WHERE tenant = :tenant AND app = :app AND is_deleted = 0
ORDER BY updated_at DESC LIMIT :most;
