-- name: any_owner
-- Whether somebody owns this server already.
SELECT account FROM first_owner;

-- name: claim_owner
-- The first one gets a row back, everybody after that none.
INSERT INTO first_owner (one, account) VALUES (1, ?) ON CONFLICT (one) DO NOTHING RETURNING one;

-- name: add
-- An account; no row comes back where the address is taken.
INSERT INTO accounts (id, tenant, email, name, password, role, is_enabled, created_at)
VALUES (?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT (email) DO NOTHING RETURNING id;

-- name: by_email
-- Whose address it is.
SELECT * FROM accounts WHERE email = :email;

-- name: by_id
-- One account.
SELECT * FROM accounts WHERE id = :id;

-- name: of_tenant
-- A tenant's accounts, the oldest first.
SELECT * FROM accounts WHERE tenant = :tenant ORDER BY created_at, id LIMIT 1000;

-- name: owners
-- How many owners a tenant has that may sign in.
SELECT COUNT(*) AS count FROM accounts WHERE tenant = ? AND role = 'owner' AND is_enabled = 1;

-- name: change
-- Name, password, role, and whether it may sign in.
UPDATE accounts SET name = ?, password = ?, role = ?, is_enabled = ? WHERE tenant = ? AND id = ? RETURNING id;

-- name: rehash
-- The same password hashed by other parameters; nothing where another one was chosen meanwhile.
UPDATE accounts SET password = ? WHERE id = ? AND password = ?;

-- name: link
-- Whoever signs in at the identity provider with its address is its owner.
UPDATE accounts SET is_linked = 1 WHERE id = ?;

-- name: seen
-- It signed in.
UPDATE accounts SET seen_at = ? WHERE id = ?;

-- name: open
-- A session begins.
INSERT INTO sessions (digest, id, account, agent, created_at, issued_at, expires_at, address)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: session
-- Whose session it is, with the account.
SELECT sessions.id AS session, sessions.issued_at, sessions.created_at AS began_at, sessions.expires_at,
       sessions.agent, sessions.address, accounts.*
FROM sessions JOIN accounts ON accounts.id = sessions.account WHERE sessions.digest = :digest;

-- name: came_from
-- Whether an account is signed in from an address.
SELECT 1 AS known FROM sessions WHERE account = :account AND address = :address AND expires_at > :now LIMIT 1;

-- name: sessions
-- Where an account is signed in.
SELECT id, MIN(agent) AS agent, MIN(created_at) AS created_at, MAX(issued_at) AS issued_at,
       MAX(expires_at) AS expires_at
FROM sessions WHERE account = :account AND expires_at > :now GROUP BY id ORDER BY MIN(created_at) DESC;

-- name: shorten
-- What a browser shows is replaced: the old one holds a moment longer, for what is under way.
UPDATE sessions SET expires_at = ? WHERE digest = ? AND expires_at > ? RETURNING id;

-- name: close
-- One session ends, with all that it was ever known by.
DELETE FROM sessions WHERE id = ? AND account = ? RETURNING id;

-- name: close_others
-- All sessions of an account but one.
DELETE FROM sessions WHERE account = ? AND id <> ?;

-- name: sweep
-- What is over goes.
DELETE FROM sessions WHERE expires_at < ?;

-- name: invite
-- Somebody may become an account.
INSERT INTO invitations (digest, tenant, email, role, invited_by, expires_at) VALUES (?, ?, ?, ?, ?, ?);

-- name: is_invited
-- Until when an invitation is good.
SELECT expires_at FROM invitations WHERE digest = :digest;

-- name: hold_owners
-- Nobody else changes who owns what, until this is done.
UPDATE revisions SET value = value WHERE name = 'resources' RETURNING value;

-- name: account_now
-- One account, as it is while it is being changed.
SELECT * FROM accounts WHERE tenant = ? AND id = ?;

-- name: inviter
-- Who invited somebody, as they are now; nobody where it was a key.
SELECT role, is_enabled FROM accounts WHERE email = ? AND tenant = ?;

-- name: invitation
-- What somebody was invited to; it is used up by that.
DELETE FROM invitations WHERE digest = ? RETURNING *;

-- name: note
-- Something was changed.
INSERT INTO audit (id, tenant, at, who, what, subject, details) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: noted
-- What was changed, the newest first.
SELECT * FROM audit WHERE tenant = :tenant AND at < :before AND (:who = '' OR who = :who)
AND (:what = '' OR what LIKE :what) ORDER BY at DESC, id DESC LIMIT :most;
