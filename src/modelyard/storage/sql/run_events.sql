-- name: event
-- Add an event.
INSERT INTO run_events (run, seq, body) VALUES (?, ?, ?) ON CONFLICT (run, seq) DO NOTHING;

-- name: events
-- The events of a run after a sequence number.
SELECT seq, body FROM run_events WHERE run = :run AND seq > :after ORDER BY seq LIMIT :most;

-- name: last_number
-- The number of the last event of a run.
SELECT COALESCE(MAX(seq), 0) AS last_number FROM run_events WHERE run = :run;

-- name: forget_events
-- Delete the events of a run.
DELETE FROM run_events WHERE run = ?;
