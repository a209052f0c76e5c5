"""Network transport: the HTTP client, egress control, event streams."""
