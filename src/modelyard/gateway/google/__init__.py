"""Google's API."""
