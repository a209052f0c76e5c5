-- name: level
-- A counter.
SELECT name, used, stamp FROM counters WHERE name = ?;

-- name: locked
-- A counter, locked until the end of the transaction.
SELECT name, used, stamp FROM counters WHERE name = ? FOR UPDATE;

-- name: put
-- Store the new level of a counter.
UPDATE counters SET used = ?, stamp = ? WHERE name = ?;

-- name: start
-- Add a counter.
INSERT INTO counters (name, used, stamp) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING;

-- name: drop
-- Delete a counter that has to be rebuilt.
DELETE FROM counters WHERE name = ?;

-- name: keep
-- Add the reservation of a call.
INSERT INTO reservations (id, charges, created_at, owner) VALUES (?, ?, ?, ?);

-- name: take
-- Delete the reservation of a finished call and return it. Returns no row the second time.
DELETE FROM reservations WHERE id = ? RETURNING charges;

-- name: older
-- Reservations that are older than any running call.
SELECT id FROM reservations WHERE created_at < ?;

-- name: held_by
-- Reservations of the calls of one process.
SELECT id FROM reservations WHERE owner = :owner;
