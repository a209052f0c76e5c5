"""API keys: `mdy_ID_SECRET`, with 32 random bytes and a checksum. Pure functions.

The id names the row to look up. The checksum tells a mistyped key from an unknown one
without a look-up. Only a keyed hash of the secret is stored. A fast hash is enough for
a random secret, and a slow one would let anybody keep the server busy.
"""

import secrets
import string
import zlib

# No underscore, so that a key splits into exactly three parts.
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_PREFIX = "mdy"
# The lengths of the parts; 43 base-62 digits hold 256 bits.
_ID, _SECRET, _CHECK = 12, 43, 6


def generate_key() -> tuple[str, str]:
    """Return (id, key) of a new API key."""
    name = "".join(secrets.choice(_DIGITS) for _ in range(_ID))
    key_body = f"{_PREFIX}_{name}_{_base62(secrets.randbits(256), _SECRET)}"
    return name, key_body + _checksum(key_body)


def generate_resource_key(prefix: str) -> tuple[str, str]:
    """Return (id, key) of a new key for an app or for a tenant's datasets.

    The format is the one that clients expect: `app-` or `dataset-`, then letters and
    digits.
    """
    name = "".join(secrets.choice(_DIGITS) for _ in range(_ID))
    key_body = f"{prefix}-{name}{_base62(secrets.randbits(256), _SECRET)}"
    return name, key_body + _checksum(key_body)


def id_for(prefix: str, key: str) -> str | None:
    """Return the id in a key with this prefix; None if it is malformed or mistyped."""
    prefix_length = len(prefix) + 1
    if (
        not key.startswith(f"{prefix}-")
        or len(key) != prefix_length + _ID + _SECRET + _CHECK
    ):
        return None
    return (
        key[prefix_length : prefix_length + _ID]
        if _checksum(key[:-_CHECK]) == key[-_CHECK:]
        else None
    )


def id_of(key: str) -> str | None:
    """Return the id in an API key; None if it is malformed or mistyped."""
    parts = key.split("_")
    well_formed = len(parts) == 3 and parts[0] == _PREFIX and len(parts[1]) == _ID
    if (
        not well_formed
        or len(parts[2]) != _SECRET + _CHECK
        or _checksum(key[:-_CHECK]) != key[-_CHECK:]
    ):
        return None
    return parts[1]


def hint(key: str) -> str:
    """Return a shortened form of a key that is safe to display."""
    # The end belongs to the checksum, so nothing of the secret itself is shown.
    return f"{key[:8]}…{key[-4:]}"


def _checksum(text: str) -> str:
    """Return the CRC-32 of a text in base 62."""
    return _base62(zlib.crc32(text.encode()), _CHECK)


def _base62(number: int, digits: int) -> str:
    """Return a number in base 62 with a fixed number of digits."""
    encoded = ""
    for _ in range(digits):
        number, remainder = divmod(number, 62)
        encoded = _DIGITS[remainder] + encoded
    return encoded
