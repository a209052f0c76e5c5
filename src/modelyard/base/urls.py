"""Joining of external URLs without exceptions."""

from urllib.parse import urljoin


def join(base: str, reference: str) -> str:
    """Resolve `reference` against `base` (RFC 3986, section 5). Returns an empty string
    if it is malformed, such as `http://[::1`."""
    try:
        return urljoin(base, reference)
    except ValueError:
        return ""
