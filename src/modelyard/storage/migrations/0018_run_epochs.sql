-- Counts how often a run was claimed: what an earlier owner writes is refused.
ALTER TABLE runs ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
