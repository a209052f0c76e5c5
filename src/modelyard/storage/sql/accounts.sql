-- name: any_owner
-- The account that owns this server, if there is one.
SELECT account FROM first_owner;

-- name: claim_owner
-- Make an account the first owner. Returns a row only for the first call.
INSERT INTO first_owner (one, account) VALUES (1, ?) ON CONFLICT (one) DO NOTHING RETURNING one;

-- name: add
-- Add an account. Returns no row if the email address is already used.
INSERT INTO accounts (id, tenant, email, name, password, role, is_enabled, created_at)
VALUES (?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT (email) DO NOTHING RETURNING id;

-- name: by_email
-- The account with an email address.
SELECT * FROM accounts WHERE email = :email;

-- name: by_id
-- The account with an id.
SELECT * FROM accounts WHERE id = :id;

-- name: of_tenant
-- The accounts of a tenant, oldest first.
SELECT * FROM accounts WHERE tenant = :tenant ORDER BY created_at, id LIMIT 1000;

-- name: owners
-- The number of enabled owners of a tenant.
SELECT COUNT(*) AS count FROM accounts WHERE tenant = ? AND role = 'owner' AND is_enabled = 1;

-- name: change
-- Change name, password, role and state of an account.
UPDATE accounts SET name = ?, password = ?, role = ?, is_enabled = ? WHERE tenant = ? AND id = ? RETURNING id;

-- name: rehash
-- Store the password hash with new parameters, unless the password was changed in the meantime.
UPDATE accounts SET password = ? WHERE id = ? AND password = ?;

-- name: link
-- Mark an account as linked to the identity provider.
UPDATE accounts SET is_linked = 1 WHERE id = ?;

-- name: seen
-- Store the time of the last sign-in of an account.
UPDATE accounts SET seen_at = ? WHERE id = ?;

-- name: open
-- Add a session.
INSERT INTO sessions (digest, id, account, agent, created_at, issued_at, expires_at, address)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: session
-- A session with its account.
SELECT sessions.id AS session, sessions.issued_at, sessions.created_at AS began_at, sessions.expires_at,
       sessions.agent, sessions.address, accounts.*
FROM sessions JOIN accounts ON accounts.id = sessions.account WHERE sessions.digest = :digest;

-- name: came_from
-- Whether an account has a valid session from an address.
SELECT 1 AS known FROM sessions WHERE account = :account AND address = :address AND expires_at > :now LIMIT 1;

-- name: sessions
-- The valid sessions of an account, newest first.
SELECT id, MIN(agent) AS agent, MIN(created_at) AS created_at, MAX(issued_at) AS issued_at,
       MAX(expires_at) AS expires_at
FROM sessions WHERE account = :account AND expires_at > :now GROUP BY id ORDER BY MIN(created_at) DESC;

-- name: shorten
-- Let a replaced session token expire soon; running requests may still use it.
UPDATE sessions SET expires_at = ? WHERE digest = ? AND expires_at > ? RETURNING id;

-- name: close
-- Delete a session with all its tokens.
DELETE FROM sessions WHERE id = ? AND account = ? RETURNING id;

-- name: close_others
-- Delete all sessions of an account except one.
DELETE FROM sessions WHERE account = ? AND id <> ?;

-- name: sweep
-- Delete expired sessions.
DELETE FROM sessions WHERE expires_at < ?;

-- name: invite
-- Add an invitation.
INSERT INTO invitations (digest, tenant, email, role, invited_by, expires_at) VALUES (?, ?, ?, ?, ?, ?);

-- name: is_invited
-- The expiry of an invitation.
SELECT expires_at FROM invitations WHERE digest = :digest;

-- name: hold_owners
-- Lock changes of owners until the end of the transaction.
UPDATE revisions SET value = value WHERE name = 'resources' RETURNING value;

-- name: account_now
-- The current state of an account within a transaction.
SELECT * FROM accounts WHERE tenant = ? AND id = ?;

-- name: inviter
-- Current role and state of the account that sent an invitation; no row if it was an API key.
SELECT role, is_enabled FROM accounts WHERE email = ? AND tenant = ?;

-- name: invitation
-- Redeem an invitation and return it.
DELETE FROM invitations WHERE digest = ? RETURNING *;

-- name: note
-- Add an entry to the audit log.
INSERT INTO audit (id, tenant, at, who, what, subject, details) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: noted
-- Entries of the audit log, newest first.
SELECT * FROM audit WHERE tenant = :tenant AND at < :before AND (:who = '' OR who = :who)
AND (:what = '' OR what LIKE :what) ORDER BY at DESC, id DESC LIMIT :most;
