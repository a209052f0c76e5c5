"""What callers show: `mdy_ID_SECRET`, 32 random bytes and a checksum. Pure.

The id says which row to look at, the checksum tells a mistyped key from an unknown one without a look, and of the
secret only a keyed hash is stored: a fast one, since a random secret needs no slow one, and a slow one would let
anybody keep the server busy.
"""

import secrets
import string
import zlib

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_PREFIX = "mdy"
_ID, _SECRET, _CHECK = 12, 43, 6


def mint() -> tuple[str, str]:
    """(id, key): a new one."""
    name = "".join(secrets.choice(_DIGITS) for _ in range(_ID))
    bare = f"{_PREFIX}_{name}_{_in_62(secrets.randbits(256), _SECRET)}"
    return name, bare + _checksum(bare)


def mint_for(what: str) -> tuple[str, str]:
    """(id, key): a new one of an app or of a tenant's datasets, in the form that clients know: `app-`, `dataset-`, and
    letters and digits."""
    name = "".join(secrets.choice(_DIGITS) for _ in range(_ID))
    bare = f"{what}-{name}{_in_62(secrets.randbits(256), _SECRET)}"
    return name, bare + _checksum(bare)


def id_for(what: str, key: str) -> str | None:
    """Which of those this is; None where it is none, or was mistyped."""
    lead = len(what) + 1
    if not key.startswith(f"{what}-") or len(key) != lead + _ID + _SECRET + _CHECK:
        return None
    return key[lead : lead + _ID] if _checksum(key[:-_CHECK]) == key[-_CHECK:] else None


def id_of(key: str) -> str | None:
    """Which key this is; None where it is none of ours, or was mistyped."""
    parts = key.split("_")
    well_formed = len(parts) == 3 and parts[0] == _PREFIX and len(parts[1]) == _ID
    if not well_formed or len(parts[2]) != _SECRET + _CHECK or _checksum(key[:-_CHECK]) != key[-_CHECK:]:
        return None
    return parts[1]


def hint(key: str) -> str:
    """What may be shown of it."""
    return f"{key[:8]}…{key[-4:]}"


def _checksum(text: str) -> str:
    return _in_62(zlib.crc32(text.encode()), _CHECK)


def _in_62(number: int, digits: int) -> str:
    out = ""
    for _ in range(digits):
        number, rest = divmod(number, 62)
        out = _DIGITS[rest] + out
    return out
