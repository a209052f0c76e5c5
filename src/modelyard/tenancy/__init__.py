"""Tenants: their resources, their callers, and the API keys that identify callers."""
