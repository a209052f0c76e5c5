"""Addresses that others wrote, taken together without an exception."""

from urllib.parse import urljoin


def join(base: str, given: str) -> str:
    """Where `given` leads, seen from `base`; empty where that cannot be read, as `http://[::1`."""
    try:
        return urljoin(base, given)
    except ValueError:
        return ""
