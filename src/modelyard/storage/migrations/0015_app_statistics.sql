-- Where a run and its message came from: tests in the console are not counted among what users did. Of rows from before
-- nobody knows it.
ALTER TABLE runs ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE messages ADD COLUMN source TEXT NOT NULL DEFAULT '';

-- Conversations of an app by the day on which they started.
CREATE INDEX conversations_by_time ON conversations (tenant, app, created_at);

-- What an app used: with its own key, or on behalf of the API key of its caller. Partial, so that other calls pay nothing.
CREATE INDEX usage_by_app_key ON usage (tenant, api_key, created_at) WHERE substr(api_key, 1, 4) = 'app:';
CREATE INDEX usage_by_app ON usage (tenant, app, created_at) WHERE app <> '';
