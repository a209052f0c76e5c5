"""Adapts chat requests to what their target accepts, and the answers back to what the
caller asked for."""
