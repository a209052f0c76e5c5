"""Decode JSON from outside within bounds on nesting depth and on the number of values.

The depth limit keeps recursive consumers from exhausting the stack. The value limit
keeps a small but dense body from blocking the event loop: the compiled decoder cannot
be interrupted, and ten megabytes of empty lists (three million) take two seconds, while
ten megabytes of text take a hundredth of that. Structural characters outside strings
are therefore counted before decoding.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from modelyard.base.json_types import JsonValue

# Deeper JSON would exhaust the stack of code that walks it recursively.
MAX_DEPTH = 200
# A small body can hold many values, each of which costs far more as an object.
MAX_VALUES = 300_000
MAX_CONTAINERS = 50_000
"""Maximum number of lists and objects in one body."""
_MAX_LONG_NUMBERS = 8_000
"""Maximum count of numbers longer than 20 digits, which parse about a hundred times
slower than machine integers."""
_UNCHECKED_BYTES = 100_000
"""Bodies below this many bytes are decoded without counting."""
# The body is scanned in blocks of 256 KiB so that an excess can be reported early.
_BLOCK_BYTES = 256 << 10
_LONG_NUMBER = b"1" * 21
# Maps every character of a number to "1" and all others to a space, so that a run of
# "1" is a long number.
_DIGITS = bytes(
    ord("1") if chr(code) in "0123456789." else ord(" ") for code in range(256)
)
_decode = msgspec.json.Decoder().decode
# An escape in a JSON text: a surrogate pair, a lone surrogate, or any other.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


class BodyError(ValueError):
    """The body is not valid JSON, or is too deep or too large. The message is written
    for the sender."""


def decode_body(data: bytes | str) -> Any:
    """Decode a JSON body into plain Python values, lone surrogates as U+FFFD.

    Raises BodyError if the body is invalid, nested too deeply or has too many values.
    """
    check_value_count(data)
    try:
        document = decode_json(data)
        check_depth(document, data)
    except RecursionError as error:
        raise BodyError(f"nested deeper than {MAX_DEPTH} levels") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BodyError(str(error)) from error
    return document


def decode_json(
    data: bytes | str, decode: Callable[[bytes | str], Any] = _decode
) -> Any:
    """Decode JSON without bounds, by a decoder of msgspec; each lone surrogate becomes
    U+FFFD.

    A text that is cut inside of an emoji has a lone surrogate, and most languages write
    it as an escape. Raises what the decoder raises.
    """
    try:
        return decode(data)
    except msgspec.DecodeError as error:
        # Escapes are rewritten only if they may be what the decoder has refused. Close to
        # the end of a text it takes half of a pair for a text that has been cut.
        if not any(term in str(error) for term in ("surrogate", "truncated")):
            raise
    except UnicodeEncodeError:
        pass
    return decode(_without_lone_surrogates(data))


def _without_lone_surrogates(data: bytes | str) -> bytes:
    """Return a JSON text with U+FFFD for each lone surrogate, escaped or not."""
    if isinstance(data, str):
        mended = data.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        data = mended.encode()
    return _ESCAPE.sub(lambda match: rb"\ufffd" if match["lone"] else match[0], data)


def check_value_count(
    data: bytes | str, *, containers: int = MAX_CONTAINERS, values: int = MAX_VALUES
) -> None:
    """Raise BodyError if decoding would create more lists, objects or values than
    allowed.

    Counts only; nothing is decoded. `containers` limits lists and objects, `values` the
    commas between values.
    """
    if len(data) < _UNCHECKED_BYTES:
        return
    if isinstance(data, str):
        data = data.encode("utf-8", "replace")
    # Few structural characters in the raw bytes mean few values, even if all of them
    # are outside strings.
    if data.count(b",") + data.count(b"[") + data.count(b"{") < 1_000:
        return
    container_count = commas = long_numbers = 0
    for fragment in _outside_texts(data):
        container_count += fragment.count(b"[") + fragment.count(b"{")
        commas += fragment.count(b",")
        if container_count > containers:
            raise BodyError(f"more than {containers:,} lists and objects")
        if commas > values:
            raise BodyError(f"more than {values:,} values")
        # Callers that pass their own limit on values do not want the check for long
        # numbers.
        if values == MAX_VALUES:
            long_numbers += fragment.translate(_DIGITS).count(_LONG_NUMBER)
        if long_numbers > _MAX_LONG_NUMBERS:
            raise BodyError(
                f"more than {_MAX_LONG_NUMBERS:,} numbers with more than 20 digits"
            )


def _outside_texts(data: bytes) -> Iterator[bytes]:
    """Yield the bytes outside JSON strings, one block at a time, so that an excess can
    be found early."""
    is_inside, start = False, 0
    while start < len(data):
        end = start + _BLOCK_BYTES
        # Never end a block on a backslash: the escape and the character after it must
        # stay together.
        while data[end - 1 : end] == b"\\":
            end += 1
        chunk = data[start:end]
        # Remove escaped backslashes first, then escaped quotes; after that every
        # remaining quote opens or closes a string.
        if b"\\" in chunk:
            chunk = chunk.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = chunk.split(b'"')
        yield b" ".join(parts[is_inside::2])
        # An odd number of quotes (an even number of parts) flips whether the next block
        # starts inside a string.
        is_inside ^= len(parts) % 2 == 0
        start = end


def check_depth(document: Any, data: bytes | str) -> None:
    """Raise BodyError if the document is nested deeper than MAX_DEPTH levels.

    `data` is the encoded form: with fewer opening brackets than levels, the document is
    not walked at all.
    """
    brackets = (
        data.count(b"[") + data.count(b"{")
        if isinstance(data, bytes)
        else data.count("[") + data.count("{")
    )
    if brackets > MAX_DEPTH and is_deeper(document, MAX_DEPTH):
        raise BodyError(f"nested deeper than {MAX_DEPTH} levels")


def is_deeper(document: JsonValue, max_depth: int) -> bool:
    """Return whether lists and objects are nested more than `max_depth` levels deep."""
    level: list[dict[str, Any] | list[Any]] = (
        [document] if isinstance(document, dict | list) else []
    )
    # Walks breadth first, without recursion, and keeps only the containers of one
    # level.
    for _ in range(max_depth):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True
