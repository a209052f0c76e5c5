-- name: add
-- Add the text of a new document.
INSERT INTO document_texts (document, body) VALUES (?, ?);

-- name: keep
-- Add or replace the text of a document.
INSERT INTO document_texts (document, body) VALUES (?, ?) ON CONFLICT (document) DO UPDATE SET body = excluded.body;

-- name: get
-- The text of a document.
SELECT body FROM document_texts WHERE document = :document;

-- name: of_ids
-- The texts of several documents.
SELECT document, body FROM document_texts WHERE document IN (*);

-- name: forget
-- Delete the texts of documents that were deleted or replaced.
DELETE FROM document_texts WHERE document IN (*);
