"""Readers for fields of external JSON. Their errors name the field and the expected
type."""

from typing import Any, TypeVar, overload

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.json_types import JsonValue, is_array

T = TypeVar("T")

MAX_TOOLS = 1024
"""Maximum number of tools in one request. OpenAI accepts 128, Google 512."""

# In the words of JSON, since callers do not know Python's.
_TYPE_DESCRIPTIONS: dict[Any, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def short_repr(value: Any) -> str:
    """Return a shortened `repr` of a value for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def invalid_field(name: str, value: Any, expected: str) -> InvokeBadRequestError:
    """Return the error for a missing or invalid field. `expected` describes the
    accepted values."""
    if value is None:
        return InvokeBadRequestError(f"{name!r} is required: {expected}", param=name)
    return InvokeBadRequestError(
        f"{name!r} must be {expected}, not {short_repr(value)}", param=name
    )


# A bare `dict` or `list` says nothing about what it holds: JSON objects have strings as
# keys.
@overload
def expect_type(
    value: Any, expected_type: type[dict[Any, Any]], name: str
) -> dict[str, Any]:
    """Return a value that is an object."""
    ...


@overload
def expect_type(value: Any, expected_type: type[list[Any]], name: str) -> list[Any]:
    """Return a value that is a list."""
    ...


@overload
def expect_type(value: Any, expected_type: type[T], name: str) -> T:
    """Return a value of a scalar type."""
    ...


def expect_type(value: Any, expected_type: type[T], name: str) -> T:
    """Return the value if it has the expected type, otherwise raise
    InvokeBadRequestError.

    An integer is accepted as a float. A bool is accepted neither as an integer nor as a
    float.
    """
    # JSON has one number type, so `1` is a valid float.
    if (
        expected_type is float
        and isinstance(value, int)
        and not isinstance(value, bool)
    ):
        return float(value)  # pyright: ignore[reportReturnType]
    # `bool` is a subclass of `int`, so `isinstance` alone would accept true and false.
    if not isinstance(value, expected_type) or (
        isinstance(value, bool) and expected_type is not bool
    ):
        raise invalid_field(name, value, _TYPE_DESCRIPTIONS[expected_type])
    # NaN is the only value that differs from itself.
    if isinstance(value, float) and value != value:
        raise invalid_field(name, value, "a number")
    return value


@overload
def required_field(
    body: dict[str, Any],
    name: str,
    expected_type: type[dict[Any, Any]],
    where: str = "",
) -> dict[str, Any]:
    """Return a required field that is an object."""
    ...


@overload
def required_field(
    body: dict[str, Any], name: str, expected_type: type[list[Any]], where: str = ""
) -> list[Any]:
    """Return a required field that is a list."""
    ...


@overload
def required_field(
    body: dict[str, Any], name: str, expected_type: type[T], where: str = ""
) -> T:
    """Return a required field of a scalar type."""
    ...


def required_field(
    body: dict[str, Any], name: str, expected_type: type[T], where: str = ""
) -> T:
    """Return a required field of `body`. `where` is the path prefix for error messages.

    Raises InvokeBadRequestError if the field is missing or has another type.
    """
    return expect_type(body.get(name), expected_type, where + name)


@overload
def optional_field(
    body: dict[str, Any],
    name: str,
    expected_type: type[dict[Any, Any]],
    where: str = "",
) -> dict[str, Any] | None:
    """Return an optional field that is an object."""
    ...


@overload
def optional_field(
    body: dict[str, Any], name: str, expected_type: type[list[Any]], where: str = ""
) -> list[Any] | None:
    """Return an optional field that is a list."""
    ...


@overload
def optional_field(
    body: dict[str, Any], name: str, expected_type: type[T], where: str = ""
) -> T | None:
    """Return an optional field of a scalar type."""
    ...


def optional_field(
    body: dict[str, Any], name: str, expected_type: type[T], where: str = ""
) -> T | None:
    """Return an optional field of `body`, or None if it is missing or null.

    Raises InvokeBadRequestError if the field has another type.
    """
    value = body.get(name)
    return None if value is None else expect_type(value, expected_type, where + name)


def limited_list(values: list[Any] | None, max_count: int, name: str) -> list[Any]:
    """Return the values, or an empty list for None. Raises InvokeBadRequestError if
    there are more than `max_count`."""
    if values and len(values) > max_count:
        raise InvokeBadRequestError(
            f"{name!r} has {len(values):,} entries; maximum {max_count:,}", param=name
        )
    return values or []


def text_of(value: Any) -> str:
    """Return a string, an empty one for null.

    For fields that have no path for an error message. Raises TypeError for any other
    type, which the decorators in `base/reader_errors.py` translate.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"Expected a string, not {short_repr(value)}")
    return value


def texts_of(value: Any, name: str) -> list[str]:
    """Return a field that is a string or a list of strings, as a list.

    A missing field and an empty string give an empty list. Raises InvokeBadRequestError
    for anything else.
    """
    if value is None or isinstance(value, str):
        return [value] if value else []
    if not is_array(value):
        raise invalid_field(name, value, "a string or a list of strings")
    return [expect_type(text, str, f"{name}[{i}]") for i, text in enumerate(value)]


def tools_of(body: dict[str, Any], name: str = "tools", where: str = "") -> list[Any]:
    """Return the tools that a request declares. Raises InvokeBadRequestError if they
    are not a list, or too many."""
    return limited_list(
        optional_field(body, name, list, where), MAX_TOOLS, where + name
    )


def in_range(value: float | None, low: float, high: float, name: str) -> None:
    """Raise InvokeBadRequestError if the value is outside `low` to `high`. None is
    accepted."""
    if value is not None and not low <= value <= high:
        raise invalid_field(name, value, f"between {low:g} and {high:g}")


def count(value: Any) -> int | None:
    """Return a token or item count reported by another party, or None if it is not a
    plausible count.

    Some vendors write whole numbers as `12.0`.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (
        value
        if isinstance(value, int)
        and not isinstance(value, bool)
        and 0 <= value < 1 << 40
        else None
    )


MAX_WHOLE_NUMBER = 2**53
"""The largest integer that all JSON parsers represent exactly (RFC 8259, section 6)."""


def whole_number(text: str, *, maximum: int = MAX_WHOLE_NUMBER) -> int | None:
    """Parse a non-negative integer from ASCII digits. Returns None for any other text
    and for values above `maximum`.

    `str.isdigit` alone accepts digits that `int` rejects ('²'), and numbers with a
    million digits.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        return None
    value = int(text)
    return value if value <= maximum else None


def content_length(digits: bytes, max_digits: int) -> int | None:
    """Parse the value of a `Content-Length` (RFC 9110, 8.6). Returns None for anything
    but 1 to `max_digits` ASCII digits."""
    # Unlike that of texts, `isdigit` of bytes knows ASCII alone.
    if not digits.isdigit() or len(digits) > max_digits:
        return None
    return int(digits)


def nested_count(body: Any, *path: str) -> int:
    """Return the count at the end of a path of nested keys, or 0 if there is no
    plausible one."""
    value: JsonValue = body
    for name in path:
        if not isinstance(value, dict):
            return 0
        value = value.get(name)
    return count(value) or 0


# The name comes from a response, and becomes part of records.
_MAX_TIER_NAME = 40


def tier_name(value: Any) -> str:
    """Return the service tier that a provider reports, in lower case; empty if it is
    not a plausible name."""
    if not isinstance(value, str) or len(value) > _MAX_TIER_NAME:
        return ""
    return value.lower()


def unknown_fields(body: dict[str, Any], known_names: frozenset[str]) -> dict[str, Any]:
    """Return the fields of an object whose names are not in `known_names`."""
    # In the common case there are none: the set difference avoids a copy.
    return (
        {key: value for key, value in body.items() if key not in known_names}
        if body.keys() - known_names
        else {}
    )


def passthrough_fields(
    format_name: str, extra_fields: dict[str, Any]
) -> dict[str, Any]:
    """Return the extra fields nested under the name of their wire format, or an empty
    dict if there are none."""
    return {format_name: extra_fields} if extra_fields else {}


def without_empty(**fields: Any) -> dict[str, Any]:
    """Return the fields that are neither None, nor an empty string, nor an empty list."""
    return {
        name: value
        for name, value in fields.items()
        if value is not None and value != "" and value != []
    }
