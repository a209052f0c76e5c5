"""JSON that comes from outside, decoded in one place: how deep it goes is bounded, so that whatever walks over it later
does not run out of stack half-way, and how many values it has, so that nobody waits for seconds while they are made.

The decoder is compiled code that cannot be interrupted: three million empty lists, in ten megabytes, took two seconds,
and whatever reads them afterwards takes several times as long. Sizes alone do not tell: ten megabytes of text take a
hundredth of that. So what stands outside of texts is counted first.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

MOST_DEPTH = 200
MOST_VALUES = 300_000
MOST_CONTAINERS = 50_000
"""Lists and objects."""
_MOST_LONG_NUMBERS = 8_000
"""Numbers with more digits than a processor's own are read a hundred times slower."""
_SMALL = 100_000
"""Bytes that nobody waits for, whatever they are."""
_PIECE = 256 << 10
_LONG_NUMBER = b"1" * 21
_DIGITS = bytes(ord("1") if chr(code) in "0123456789." else ord(" ") for code in range(256))
_decode = msgspec.json.Decoder().decode


class BodyError(ValueError):
    """It is no JSON, or is nested too deeply. Its text says which, in words for whoever sent it."""


def decode_body(data: bytes | str) -> Any:
    """Plain values. Raises BodyError."""
    check_amount(data)
    try:
        document = _decode(data)
        check_depth(document, data)
    except RecursionError as error:
        raise BodyError(f"it is nested deeper than {MOST_DEPTH} levels") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BodyError(str(error)) from error
    return document


def check_amount(data: bytes | str, *, containers: int = MOST_CONTAINERS, values: int = MOST_VALUES) -> None:
    """Raises BodyError where more values would be made of it than is good for those who wait meanwhile."""
    if len(data) < _SMALL:
        return
    if isinstance(data, str):
        data = data.encode("utf-8", "replace")
    if data.count(b",") + data.count(b"[") + data.count(b"{") < 1_000:
        return
    seen = commas = long_numbers = 0
    for outside in _outside_texts(data):
        seen += outside.count(b"[") + outside.count(b"{")
        commas += outside.count(b",")
        if seen > containers:
            raise BodyError(f"it has more than {containers:,} lists and objects")
        if commas > values:
            raise BodyError(f"it has more than {values:,} values")
        if values == MOST_VALUES:
            long_numbers += outside.translate(_DIGITS).count(_LONG_NUMBER)
        if long_numbers > _MOST_LONG_NUMBERS:
            raise BodyError("it has too many numbers with more than twenty digits")


def _outside_texts(data: bytes) -> Iterator[bytes]:
    """What stands between the texts, a piece of the body at a time: too much is often seen in the first."""
    is_inside, begin = False, 0
    while begin < len(data):
        end = begin + _PIECE
        while data[end - 1 : end] == b"\\":  # nor is what it stands before parted from it
            end += 1
        piece = data[begin:end]
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        yield b" ".join(parts[is_inside::2])
        is_inside ^= len(parts) % 2 == 0
        begin = end


def check_depth(document: Any, data: bytes | str) -> None:
    """Raises BodyError. `data` is what it was decoded from: fewer brackets than levels cost nothing to see."""
    brackets = data.count(b"[") + data.count(b"{") if isinstance(data, bytes) else data.count("[") + data.count("{")
    if brackets > MOST_DEPTH and is_deeper(document, MOST_DEPTH):
        raise BodyError(f"it is nested deeper than {MOST_DEPTH} levels")


def is_deeper(document: Any, most: int) -> bool:
    """Whether lists and objects stand in each other more than `most` times."""
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(most):
        level = [
            one
            for node in level
            for one in (node.values() if type(node) is dict else node)
            if type(one) is dict or type(one) is list
        ]
        if not level:
            return False
    return True
