"""The boundary of a run: makes what nodes and callers deliver storable.

The journal, the API and the clients exchange JSON in UTF-8. A Python value can hold more
than that: lone surrogates, NaN, integers of any length, bytes. Whatever enters a run
passes one of these functions, so that an event can always be written and read.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from modelyard.base.bounded_json import MAX_DEPTH
from modelyard.base.json_types import is_mapping
from modelyard.workflow.events import AnyEvent, dump_event
from modelyard.workflow.variables import File, Missing, Secret, WorkflowError

# PostgreSQL and UTF-8 cannot express lone surrogates.
_SURROGATES = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Every integer of this length can be converted to a float.
_MAX_INTEGER_BITS = 1023
_MAX_SHOWN = 100

Fallback = Callable[[Any, str], Any]
"""(value, reason) → what takes the place of a value that cannot be stored."""


class UnstorableError(WorkflowError):
    """A value cannot be written as JSON. The message names its variable."""


def storable_text(text: str) -> str:
    """Return the text as UTF-8 and PostgreSQL can hold it: U+FFFD in place of each lone
    surrogate, and no NUL characters."""
    # Most texts are returned without a copy.
    if "\0" in text:
        text = text.replace("\0", "")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub(_REPLACEMENT, text)
    return text


def storable(value: Any, name: str) -> Any:
    """Return a variable's value as JSON and files can express it.

    Texts are mended by `storable_text`, keys become texts as in `json.dumps`. Raises
    UnstorableError for NaN, infinity, integers beyond the range of a float, bytes and
    other types, and for values that are nested deeper than MAX_DEPTH. `name` is the variable's name
    in the message.
    """

    def refuse(value: Any, reason: str) -> Any:
        """Raise the error for a value that cannot be stored."""
        del value
        raise UnstorableError(f"Variable {name} {reason}")

    return _converted(value, refuse, 0)


def storable_values(values: Mapping[str, Any], owner: str = "") -> dict[str, Any]:
    """Return variables like `storable`. `owner` is the node's name in the message.
    Raises UnstorableError."""
    prefix = f"{owner}." if owner else ""
    return {
        storable_text(str(name)): storable(value, f"{prefix}{name}")
        for name, value in values.items()
    }


def loggable(value: Any) -> Any:
    """Return a value for the log of a node: like `storable`, with a text in place of
    each part that cannot be stored. Never raises."""
    return _converted(value, _as_shown, 0)


def loggable_event(event: AnyEvent) -> AnyEvent:
    """Return an event that can be written; the event itself in all but odd cases."""
    try:
        dump_event(event)
    except (UnicodeError, ValueError, OverflowError, TypeError, RecursionError):
        names = event.__struct_fields__
        fields = {name: loggable(getattr(event, name)) for name in names}
        return msgspec.structs.replace(event, **fields)
    return event


def _as_shown(value: Any, reason: str) -> str:
    """Return a short text in place of a value."""
    if "nested" in reason:
        return "…"
    # Python refuses to print very long integers.
    if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
        return f"(integer of {value.bit_length()} bits)"
    return storable_text(str(value)[:_MAX_SHOWN])


def _converted(value: Any, fallback: Fallback, depth: int) -> Any:
    """Return the value with all that it contains made storable."""
    match value:
        case None | bool() | File():
            return value
        case Missing():
            return None
        # A secret is a text as well, but must not lose its mark.
        case Secret():
            text = storable_text(value)
            return value if text == value else Secret(text)
        case str():
            return storable_text(value)
        case int():
            return _integer(value, fallback)
        case float():
            if math.isfinite(value):
                return value
            return fallback(value, f"is {value}, which JSON cannot express")
        case Mapping() | list() | tuple():
            if depth >= MAX_DEPTH:
                return fallback(value, f"is nested deeper than {MAX_DEPTH} levels")
            return _container(value, fallback, depth + 1)
        case _:
            return fallback(value, f"has the type {type(value).__name__!r}")


def _integer(value: int, fallback: Fallback) -> Any:
    """Return an integer in the range of a float, or the fallback's value."""
    if value.bit_length() <= _MAX_INTEGER_BITS:
        return value
    return fallback(value, f"is an integer of more than {_MAX_INTEGER_BITS} bits")


def _container(value: Any, fallback: Fallback, depth: int) -> Any:
    """Return an object or a list with storable elements."""
    if is_mapping(value):
        return {
            _key(key): _converted(element, fallback, depth)
            for key, element in value.items()
        }
    return [_converted(element, fallback, depth) for element in value]


def _key(key: Any) -> str:
    """Return a key as text, as `json.dumps` writes it."""
    match key:
        case str():
            return storable_text(key)
        case None | bool():
            return {None: "null", True: "true", False: "false"}[key]
        case _:
            return _as_shown(key, "")
