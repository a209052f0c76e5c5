"""HTTP for other people's clients: plain ASGI, one file a route."""
