"""Knowledge API: datasets, documents, segments and retrieval."""
