-- name: get
-- One file.
SELECT upload, size, sha256 FROM stored_files WHERE tenant = :tenant AND name = :name;

-- name: add
-- A file that must be new.
INSERT INTO stored_files (tenant, name, upload, size, sha256) VALUES (?, ?, ?, ?, ?);

-- name: put
-- Add or replace a file.
INSERT INTO stored_files (tenant, name, upload, size, sha256) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant, name) DO UPDATE SET upload = excluded.upload, size = excluded.size, sha256 = excluded.sha256;

-- name: remove
-- Delete a file; returns its upload.
DELETE FROM stored_files WHERE tenant = ? AND name = ? RETURNING upload;

-- name: add_chunk
-- One chunk of an upload.
INSERT INTO file_chunks (tenant, upload, position, data, written_at) VALUES (?, ?, ?, ?, ?);

-- name: chunk
-- One chunk of an upload.
SELECT data FROM file_chunks WHERE tenant = :tenant AND upload = :upload AND position = :position;

-- name: remove_chunks
-- Delete an upload.
DELETE FROM file_chunks WHERE tenant = ? AND upload = ?;

-- name: abandoned
-- Uploads whose last chunk is old and that no file refers to.
SELECT chunks.tenant AS tenant, chunks.upload AS upload FROM file_chunks chunks
LEFT JOIN stored_files files ON files.tenant = chunks.tenant AND files.upload = chunks.upload
WHERE files.upload IS NULL
GROUP BY chunks.tenant, chunks.upload HAVING MAX(chunks.written_at) < :before;
