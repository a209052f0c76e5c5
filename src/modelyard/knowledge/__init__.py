"""Document retrieval (RAG): datasets are ingested, split, indexed and searched; answers
cite their sources."""
