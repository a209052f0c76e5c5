"""Types of documents that came from JSON or YAML, and guards that check for them.

A plain `isinstance(value, dict)` leaves a type checker with keys and values of unknown
type. The guards make the same check, and say what such a document holds. Code that runs
for every request annotates its value with `JsonValue` instead: then `isinstance` says
it too, without a call.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

# Type checkers bring `typing_extensions` with them: it is no dependency of ours.
if TYPE_CHECKING:
    from typing_extensions import TypeIs

JsonValue = dict[str, Any] | list[Any] | str | float | bool | None
"""A document as a JSON decoder returns it."""

EMPTY_OBJECT: Mapping[str, Any] = MappingProxyType({})
"""Stands in for an absent object whose members are read: `(value or EMPTY_OBJECT)`."""


def is_object(value: object) -> "TypeIs[dict[str, Any]]":
    """Return whether the value is a dict: a JSON object, whose keys are strings.

    Keys from YAML can be of other types: who reads those converts them.
    """
    return isinstance(value, dict)


def is_array(value: object) -> "TypeIs[list[Any]]":
    """Return whether the value is a list: a JSON array, with elements of any type."""
    return isinstance(value, list)


def is_mapping(value: object) -> "TypeIs[Mapping[str, Any]]":
    """Return whether the value is a mapping, as a JSON object but not only a dict."""
    return isinstance(value, Mapping)
