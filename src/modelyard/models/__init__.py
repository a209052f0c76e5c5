"""The six model types: their requests, chunks and results, and what providers declare of themselves."""
