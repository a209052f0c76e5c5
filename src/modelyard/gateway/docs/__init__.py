"""API documentation as pages and as OpenAPI documents."""
