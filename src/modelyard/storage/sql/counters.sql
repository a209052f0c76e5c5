-- name: level
-- A counter.
SELECT name, used, stamp FROM counters WHERE name = ?;

-- name: locked
-- A counter, which nobody else may change until this transaction ends.
SELECT name, used, stamp FROM counters WHERE name = ? FOR UPDATE;

-- name: put
-- Its new level.
UPDATE counters SET used = ?, stamp = ? WHERE name = ?;

-- name: start
-- One that was not there.
INSERT INTO counters (name, used, stamp) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING;

-- name: drop
-- One is to be rebuilt.
DELETE FROM counters WHERE name = ?;

-- name: keep
-- What a call reserved.
INSERT INTO reservations (id, charges, created_at, owner) VALUES (?, ?, ?, ?);

-- name: take
-- A call is over: what it had reserved, once.
DELETE FROM reservations WHERE id = ? RETURNING charges;

-- name: older
-- Reservations of calls that must be over.
SELECT id FROM reservations WHERE created_at < ?;

-- name: held_by
-- What calls of one process hold.
SELECT id FROM reservations WHERE owner = :owner;
