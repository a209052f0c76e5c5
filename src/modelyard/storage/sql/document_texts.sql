-- name: add
-- What a new document says.
INSERT INTO document_texts (document, body) VALUES (?, ?);

-- name: keep
-- What a document says.
INSERT INTO document_texts (document, body) VALUES (?, ?) ON CONFLICT (document) DO UPDATE SET body = excluded.body;

-- name: get
-- What a document says.
SELECT body FROM document_texts WHERE document = :document;

-- name: of_ids
-- What some documents say.
SELECT document, body FROM document_texts WHERE document IN (*);

-- name: forget
-- They are gone, or say something else.
DELETE FROM document_texts WHERE document IN (*);
