"""Incremental decompression of response bodies in bounded chunks. No I/O.

No compression is requested, but servers and intermediaries apply it anyway. `gzip` and
`deflate` are supported; `br`, `zstd` and others are errors.
"""

import zlib
from collections.abc import Iterator
from typing import Any

CHUNK_BYTES = 64 * 1024
"""Maximum size of one decompressed chunk: half a megabyte of gzip can expand to half a
gigabyte."""
_MAX_RATIO = 200
"""Maximum ratio of unpacked to packed size, checked from one megabyte on. Apache's
mod_deflate uses the same limit. Text reaches 20, decompression bombs 1,000."""
_RATIO_FROM = 1 << 20
# zlib window parameters: gzip header, zlib header, raw deflate.
_GZIP = 31
_ZLIB = 15
_RAW = -15


class BombError(Exception):
    """The body expands beyond the permitted ratio. The message continues a sentence
    about the sender."""


class UnpackError(Exception):
    """The body cannot be decompressed. The message continues a sentence about the
    sender."""


def is_plain(coding: str) -> bool:
    """Return whether a `Content-Encoding` means no compression."""
    return coding.strip().lower() in ("", "identity")


class Decompressor:
    """Decompresses one body."""

    def __init__(self, coding: str) -> None:
        """Raises UnpackError for an unsupported coding, or several applied in sequence."""
        self._coding = coding.strip().lower()
        if self._coding not in ("gzip", "x-gzip", "deflate"):
            raise UnpackError(
                f"sent a response compressed as {coding[:100]!r}, which was not requested"
            )
        self._inflate: Any = None  # zlib does not name its type
        self._waiting = b""
        self._members = 0
        self._is_over = False
        # Packed bytes received, and unpacked bytes returned.
        self._packed_bytes = 0
        self._unpacked_bytes = 0

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes in chunks of at most `CHUNK_BYTES`. Raises UnpackError
        and BombError."""
        self._packed_bytes += len(packed)
        packed = self._waiting + packed
        self._waiting = b""
        while not self._is_over:
            if self._inflate is None and not self._begin(packed):
                return
            inflate: Any = self._inflate
            plain = self._decompress(inflate, packed)
            if plain:
                yield plain
            packed = inflate.unconsumed_tail
            # End of a gzip member: the remaining input may start another one.
            if inflate.eof:
                packed = inflate.unused_data
                self._inflate = None
                self._members += 1
            # After a full chunk, zlib itself may hold more output.
            elif not packed and len(plain) < CHUNK_BYTES:
                return

    def _decompress(self, inflate: Any, packed: bytes) -> bytes:
        """Return the next chunk and check the ratio. Raises UnpackError and BombError."""
        try:
            plain = inflate.decompress(packed, CHUNK_BYTES)
        except zlib.error as error:
            raise UnpackError(f"sent an invalid compressed body: {error}") from error
        self._unpacked_bytes += len(plain)
        # The ratio uses only input that was already consumed: counting pending input
        # would let a bomb grow.
        consumed_bytes = self._packed_bytes - len(
            inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        )
        if self._unpacked_bytes > max(_RATIO_FROM, _MAX_RATIO * consumed_bytes):
            raise BombError(
                f"sent a response compressed to less than 1/{_MAX_RATIO} of its size"
            )
        return plain

    def finish(self) -> None:
        """Raise UnpackError if the body is truncated. An empty body is accepted."""
        if not self._is_over and (self._waiting or self._inflate is not None):
            raise UnpackError("sent a truncated compressed body")

    def _begin(self, packed: bytes) -> bool:
        """Start decompressing the body, or another gzip member (RFC 1952, section 2.2).
        Returns False if there is nothing to start."""
        if self._members and (
            self._coding == "deflate" or packed[:1] not in (b"", b"\x1f")
        ):
            # Bytes after the end are not part of the body; other clients ignore them
            # too.
            self._is_over = True
            return False
        # Two bytes are needed to recognise the format.
        if len(packed) < 2:
            self._waiting = packed
            return False
        self._inflate = zlib.decompressobj(wbits=self._window(packed))
        return True

    def _window(self, packed: bytes) -> int:
        """Return zlib's `wbits` for the coding, judged by the first two bytes."""
        if self._coding != "deflate":
            return _GZIP
        # "deflate" means the zlib format, but some servers send raw deflate (RFC 9110,
        # section 8.4.1.2). A zlib header has method 8 and is a multiple of 31 (RFC
        # 1950, section 2.2).
        is_zlib = packed[0] & 0x0F == 8 and int.from_bytes(packed[:2], "big") % 31 == 0
        return _ZLIB if is_zlib else _RAW
