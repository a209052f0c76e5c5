-- The API key that a document was added with: indexing it is that key's call.
ALTER TABLE documents ADD COLUMN api_key TEXT NOT NULL DEFAULT '';
