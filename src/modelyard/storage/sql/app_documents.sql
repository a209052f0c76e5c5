-- name: put_document
-- An app's file.
INSERT INTO app_documents (tenant, digest, body, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (tenant, digest) DO NOTHING;

-- name: document
-- An app's file, by what it says.
SELECT body FROM app_documents WHERE tenant = :tenant AND digest = :digest;
