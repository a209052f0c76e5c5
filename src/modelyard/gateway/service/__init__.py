"""The API of apps, for their callers."""
