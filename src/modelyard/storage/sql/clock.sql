-- name: now_sqlite
-- The time in seconds since 1970.
SELECT unixepoch('subsec') AS now;

-- name: now_postgresql
-- The time in seconds since 1970, as the server's clock has it in this moment.
SELECT extract(epoch FROM clock_timestamp())::float8 AS now;
