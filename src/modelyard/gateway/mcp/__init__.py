"""Model Context Protocol server for a tenant's tools."""
