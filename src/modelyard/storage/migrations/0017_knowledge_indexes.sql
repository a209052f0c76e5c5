-- Documents to be indexed, in the order of their indexing: claiming some of them reads neither the finished ones nor
-- all that wait. The condition is that of the statements, word for word: otherwise the engines do not use the index.
CREATE INDEX documents_waiting ON documents (created_at, position) WHERE status IN ('waiting', 'parsing', 'cleaning', 'splitting', 'indexing');
-- Documents that a process has claimed.
CREATE INDEX documents_claimed ON documents (owner) WHERE owner <> '';
DROP INDEX documents_to_do;

-- The generation of the dataset in which a document's name, metadata, readers or state last changed: filters in memory read
-- what is newer than theirs.
ALTER TABLE documents ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
CREATE INDEX documents_by_change ON documents (tenant, dataset, generation);

-- What a document was read from, if a dataset may have only one document of it: the path of a file. Two processes that
-- synchronise a dataset with the same folder add each file once.
ALTER TABLE documents ADD COLUMN source_key TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX documents_by_source ON documents (dataset, source_key) WHERE source_key <> '';

-- What belongs to a dataset or a tenant, for deleting and listing without a scan.
CREATE INDEX index_followed_by_dataset ON index_followed (dataset);
CREATE INDEX dataset_tag_bindings_by_dataset ON dataset_tag_bindings (tenant, dataset);
CREATE INDEX external_knowledge_by_tenant ON external_knowledge (tenant, name);
