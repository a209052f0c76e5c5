"""Conversion of tool call arguments between JSON text, as used internally, and objects,
as in most wire formats."""

from typing import Any

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.json_types import JsonValue

_encode = msgspec.json.Encoder().encode

INVALID_ARGUMENTS_KEY = "INVALID_JSON"
"""Key for the raw text if a format requires an object but the model wrote none."""


def as_text(value: JsonValue) -> str:
    """Return arguments as JSON text; None becomes `{}`."""
    if isinstance(value, str):
        return value
    # Restore the raw text that `as_object` wrapped, so that a round trip is lossless.
    if (
        isinstance(value, dict)
        and value.keys() == {INVALID_ARGUMENTS_KEY}
        and isinstance(value[INVALID_ARGUMENTS_KEY], str)
    ):
        return value[INVALID_ARGUMENTS_KEY]
    return _encode({} if value is None else value).decode()


def as_object(text: str) -> dict[str, Any]:
    """Return arguments as an object. Text that is not a JSON object is wrapped under
    `BROKEN`."""
    # Models omit the arguments of tools without parameters.
    if not text.strip():
        return {}
    try:
        value: JsonValue = decode_body(text)
    except BodyError:
        return {INVALID_ARGUMENTS_KEY: text}
    if value is None:
        return {}
    return value if isinstance(value, dict) else {INVALID_ARGUMENTS_KEY: text}
