"""Tenants' plugins: which each has, with which credentials, and what they serve and listen to."""
