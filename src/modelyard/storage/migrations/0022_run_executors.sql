-- Processes that execute runs for an engine which cannot tell by itself whether they are alive.
CREATE TABLE run_executors (
    id          TEXT NOT NULL PRIMARY KEY, -- the owner of the runs that the process executes
    lease_until REAL NOT NULL              -- on the database's clock
) STRICT;
