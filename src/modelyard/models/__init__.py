"""The six model types: their requests, chunks and results, and the declarations of
providers."""
