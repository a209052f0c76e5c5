"""Sources of documents outside of this server: they are listed, read, and kept in step
with their changes, deletions and permissions."""
