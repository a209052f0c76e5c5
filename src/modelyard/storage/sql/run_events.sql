-- name: event
-- Something happened.
INSERT INTO run_events (run, seq, body) VALUES (?, ?, ?) ON CONFLICT (run, seq) DO NOTHING;

-- name: events
-- What happened after a number.
SELECT seq, body FROM run_events WHERE run = :run AND seq > :after ORDER BY seq LIMIT :most;

-- name: forget_events
-- A run's events.
DELETE FROM run_events WHERE run = ?;
