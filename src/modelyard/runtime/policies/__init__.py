"""What may happen before, after or instead of a call. One concern a file; the order stands in app.py."""
