-- What a call belongs to, as its caller says: the session of an agent, a project, and tags (sorted, with commas between).
ALTER TABLE usage ADD COLUMN session TEXT NOT NULL DEFAULT '';
ALTER TABLE usage ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE usage ADD COLUMN tags TEXT NOT NULL DEFAULT '';
