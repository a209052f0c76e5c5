"""The API of those who run the server."""
