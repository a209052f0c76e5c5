"""Cohere's API, and Jina's rerank API."""
