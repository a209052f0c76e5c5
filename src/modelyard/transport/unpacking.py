"""Bodies that came compressed, a bounded piece at a time. Pure: no network, no clock.

We ask for none, but servers and what stands between compress all the same. `gzip` and `deflate` are unpacked; `br` and
`zstd` are not asked for and are errors, like everything else.
"""

import zlib
from collections.abc import Iterator
from typing import Any

PIECE = 64 * 1024
"""The most that is unpacked at once: half a megabyte of gzip can be half a gigabyte."""
_MOST_RATIO = 200
"""Times as large as it came, from a megabyte on: the limit of Apache's mod_deflate. Texts reach 20, bombs 1,000."""
_RATIO_FROM = 1 << 20
_GZIP = 31
_ZLIB = 15
_RAW = -15


class BombError(Exception):
    """It grows beyond all measure. The message is the end of a sentence about who sent it."""


class UnpackError(Exception):
    """What came cannot be unpacked. The message is the end of a sentence about who sent it."""


def is_plain(coding: str) -> bool:
    """Whether a `Content-Encoding` stands for nothing at all."""
    return coding.strip().lower() in ("", "identity")


class Unpacking:
    """One body. What is fed to it comes out as it was before."""

    def __init__(self, coding: str) -> None:
        """Raises UnpackError for a coding that was not asked for, and for several on top of each other."""
        self._coding = coding.strip().lower()
        if self._coding not in ("gzip", "x-gzip", "deflate"):
            raise UnpackError(f"compressed its answer as {coding[:100]!r}, which was not asked for")
        self._inflate: Any = None  # zlib does not name its type
        self._waiting = b""
        self._members = 0
        self._is_over = False
        self._taken = 0
        self._given = 0

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """What the bytes stand for, in pieces of at most `PIECE`. Raises UnpackError and BombError."""
        self._taken += len(packed)
        packed = self._waiting + packed
        self._waiting = b""
        while not self._is_over:
            if self._inflate is None and not self._begin(packed):
                return
            inflate: Any = self._inflate
            try:
                plain = inflate.decompress(packed, PIECE)
            except zlib.error as error:
                raise UnpackError(f"compressed a body so that it cannot be unpacked: {error}") from error
            self._given += len(plain)
            # By what was unpacked so far: what waits behind it says nothing yet, and would let a bomb grow.
            unpacked = self._taken - len(inflate.unused_data if inflate.eof else inflate.unconsumed_tail)
            if self._given > max(_RATIO_FROM, _MOST_RATIO * unpacked):
                raise BombError(f"compressed an answer to less than a {_MOST_RATIO}th of its size")
            if plain:
                yield plain
            packed = inflate.unconsumed_tail
            if inflate.eof:
                packed = inflate.unused_data
                self._inflate = None
                self._members += 1
            elif not packed and len(plain) < PIECE:  # a full piece may leave more behind in zlib itself
                return

    def finish(self) -> None:
        """Raises UnpackError where the body ended before its end. An empty one never began."""
        if not self._is_over and (self._waiting or self._inflate is not None):
            raise UnpackError("compressed a body that breaks off before its end")

    def _begin(self, packed: bytes) -> bool:
        """Make ready for what begins here: the body, or another gzip member behind the last (RFC 1952, 2.2)."""
        if self._members and (self._coding == "deflate" or packed[:1] not in (b"", b"\x1f")):
            self._is_over = True  # what follows the end is no part of it; other readers pass over it too
            return False
        if len(packed) < 2:
            self._waiting = packed
            return False
        self._inflate = zlib.decompressobj(wbits=self._window(packed))
        return True

    def _window(self, packed: bytes) -> int:
        if self._coding != "deflate":
            return _GZIP
        # "deflate" means zlib's form, and some servers send the bare one (RFC 9110, 8.4.1.2).
        is_zlib = packed[0] & 0x0F == 8 and int.from_bytes(packed[:2], "big") % 31 == 0
        return _ZLIB if is_zlib else _RAW
