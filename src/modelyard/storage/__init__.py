"""Persistence: the database, its statements and its migrations."""
