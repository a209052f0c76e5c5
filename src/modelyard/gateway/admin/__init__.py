"""Admin API for the operators of the server."""
