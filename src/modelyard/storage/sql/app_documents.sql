-- name: put_document
-- Store the file of an app. A file that was stored before it was encrypted is replaced.
INSERT INTO app_documents (tenant, digest, body, created_at) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant, digest) DO UPDATE SET body = excluded.body;

-- name: document
-- The file of an app by its digest.
SELECT body FROM app_documents WHERE tenant = :tenant AND digest = :digest;

-- name: sealed_documents
-- The encrypted files of all tenants.
SELECT tenant, digest FROM app_documents WHERE body LIKE '!sealed %' ORDER BY tenant, digest;

-- name: reseal_document
-- Encrypt the file of an app again. A file never changes under its digest.
UPDATE app_documents SET body = ? WHERE tenant = ? AND digest = ?;
