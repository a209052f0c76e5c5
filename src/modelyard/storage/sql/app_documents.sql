-- name: put_document
-- Add the file of an app.
INSERT INTO app_documents (tenant, digest, body, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (tenant, digest) DO NOTHING;

-- name: document
-- The file of an app by its digest.
SELECT body FROM app_documents WHERE tenant = :tenant AND digest = :digest;
