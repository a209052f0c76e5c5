"""Heads of requests that need not be parsed, because one like them was before.

Clients repeat their heads: only the length of the body differs. So a head is recognised
by its bytes without that length. What it means was found out by the parser and the
checks behind it, which the first request of its kind went through.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

from modelyard.base.fields import content_length

_LENGTH_LINES = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
"""How clients write the header with the length of the body."""
_VALUE = len(_LENGTH_LINES[0])
# A longer content length is that of a large body, for which the parser's time
# does not matter.
_MAX_DIGITS = 5
# Clients choose their headers: each combination would be stored.
_MAX_HEADS = 4096

MeaningT = TypeVar("MeaningT")


class KnownHeads(Generic[MeaningT]):
    """The meanings of heads, by their digests."""

    def __init__(self) -> None:
        self._meanings: dict[bytes, MeaningT] = {}

    def __len__(self) -> int:
        return len(self._meanings)

    def clear(self) -> None:
        """Forget all heads."""
        self._meanings.clear()

    def store(
        self,
        data: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        meaning: MeaningT,
    ) -> None:
        """Store what the head of a request means. `headers` are those that the parser
        has found in it.

        A request that is not complete in `data`, or does not state its length exactly
        once, is left out.
        """
        request = _split(data)
        lengths = [value for name, value in headers if name == b"content-length"]
        if request is None or lengths != [request[1]]:
            return
        # A client may put a new id into each head; those must not fill the memory.
        if len(self._meanings) >= _MAX_HEADS:
            self._meanings.clear()
        self._meanings[request[0]] = meaning

    def find(self, data: bytes) -> tuple[MeaningT, bytes] | None:
        """Return the meaning of a request's head, and its body; None if the head is
        unknown or the request not complete."""
        request = _split(data)
        if request is None:
            return None
        digest, _, body = request
        return (self._meanings[digest], body) if digest in self._meanings else None


def _split(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Return the parts of `data` if it is exactly one request with a body that is not
    large: the digest of its head without the length, the length as written, the body.

    A head contains credentials, so it is not stored itself.
    """
    head_size = data.find(b"\r\n\r\n")
    start = data.find(_LENGTH_LINES[0], 0, head_size)
    if start < 0:
        start = data.find(_LENGTH_LINES[1], 0, head_size)
    if head_size < 0 or start < 0:
        return None
    # The empty line at the end of the head is found at the latest.
    end = data.find(b"\r\n", start + _VALUE)
    length = data[start + _VALUE : end]
    body_size = content_length(length, _MAX_DIGITS)
    if body_size is None or len(data) != head_size + 4 + body_size:
        return None
    # The length is cut out together with its line's name, whose place is kept by the
    # line end that is left.
    head = data[: start + _VALUE] + data[end:head_size]
    digest = blake2b(head, digest_size=32).digest()
    return digest, length, data[head_size + 4 :]
