"""JSON that comes from outside, decoded in one place: how deep it goes is bounded, so that whatever walks over it later
does not run out of stack half-way."""

from typing import Any

import msgspec

MOST_DEPTH = 200
_decode = msgspec.json.Decoder().decode


class BodyError(ValueError):
    """It is no JSON, or is nested too deeply. Its text says which, in words for whoever sent it."""


def decode_body(data: bytes | str) -> Any:
    """Plain values. Raises BodyError."""
    try:
        document = _decode(data)
        check_depth(document, data)
    except RecursionError as error:
        raise BodyError(f"it is nested deeper than {MOST_DEPTH} levels") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BodyError(str(error)) from error
    return document


def check_depth(document: Any, data: bytes | str) -> None:
    """Raises BodyError. `data` is what it was decoded from: fewer brackets than levels cost nothing to see."""
    brackets = data.count(b"[") + data.count(b"{") if isinstance(data, bytes) else data.count("[") + data.count("{")
    if brackets > MOST_DEPTH and is_deeper(document, MOST_DEPTH):
        raise BodyError(f"it is nested deeper than {MOST_DEPTH} levels")


def is_deeper(document: Any, most: int) -> bool:
    """Whether lists and objects stand in each other more than `most` times."""
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(most):
        below: list[Any] = []
        for node in level:
            values = node.values() if isinstance(node, dict) else node
            below += [one for one in values if type(one) is dict or type(one) is list]
        if not below:
            return False
        level = below
    return True
