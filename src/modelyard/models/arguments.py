"""Arguments of tool calls: text in our types, objects in most wire formats."""

from typing import Any

import msgspec

from modelyard.base.bodies import BodyError, decode_body

_encode = msgspec.json.Encoder().encode

BROKEN = "INVALID_JSON"
"""Where a format wants an object and the model wrote none, its text stands under this name."""


def as_text(value: Any) -> str:
    """An object as JSON text; nothing as `{}`."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value.keys() == {BROKEN} and isinstance(value[BROKEN], str):
        return value[BROKEN]
    return _encode({} if value is None else value).decode()


def as_object(text: str) -> dict[str, Any]:
    """Arguments as an object, whatever the model wrote."""
    if not text.strip():
        return {}
    try:
        value = decode_body(text)
    except BodyError:
        return {BROKEN: text}
    if value is None:
        return {}
    return value if isinstance(value, dict) else {BROKEN: text}
