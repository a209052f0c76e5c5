"""Indexes for vector and full-text search: one Protocol and its implementations."""
