"""Reading foreign JSON: each getter names the field and what would be right when it does not fit."""

from typing import Any, TypeVar

from modelyard.base.errors import InvokeBadRequestError

T = TypeVar("T")

MOST_TOOLS = 1024
"""That one request declares. OpenAI takes 128, Google 512."""

_WORDS: dict[Any, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def said(value: Any) -> str:
    """A value as an error message shows it: never long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def wrong(name: str, value: Any, right: str) -> InvokeBadRequestError:
    if value is None:
        return InvokeBadRequestError(f"{name!r} is required: {right}", param=name)
    return InvokeBadRequestError(f"{name!r} must be {right}, not {said(value)}", param=name)


def typed(value: Any, kind: type[T], name: str) -> T:
    """The value, if it is a `kind`. A whole number passes as a number; true and false pass as neither."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)  # pyright: ignore[reportReturnType]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise wrong(name, value, _WORDS[kind])
    if isinstance(value, float) and value != value:
        raise wrong(name, value, "a number")
    return value


def need(body: dict[str, Any], name: str, kind: type[T], where: str = "") -> T:
    return typed(body.get(name), kind, where + name)


def may(body: dict[str, Any], name: str, kind: type[T], where: str = "") -> T | None:
    value = body.get(name)
    return None if value is None else typed(value, kind, where + name)


def few(values: list[Any] | None, most: int, name: str) -> list[Any]:
    """The values, none where nothing is given. Raises InvokeBadRequestError where there are more than that."""
    if values and len(values) > most:
        raise InvokeBadRequestError(f"{name!r} holds {len(values):,}; at most {most:,} at once", param=name)
    return values or []


def tools_of(body: dict[str, Any], name: str = "tools", where: str = "") -> list[Any]:
    """What a request declares of tools. Raises InvokeBadRequestError where they are no list, or too many."""
    return few(may(body, name, list, where), MOST_TOOLS, where + name)


def in_range(value: float | None, low: float, high: float, name: str) -> None:
    if value is not None and not low <= value <= high:
        raise wrong(name, value, f"between {low:g} and {high:g}")


def count(value: Any) -> int | None:
    """A count that another party states, or None where it is no count at all. Some write whole numbers as `12.0`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else None


MAX_WHOLE_NUMBER = 2**53
"""The largest whole number that JSON's readers agree on (RFC 8259, section 6)."""


def whole_number(text: str, *, maximum: int = MAX_WHOLE_NUMBER) -> int | None:
    """The number that ASCII digits from outside write; None for anything else, and beyond `maximum`.

    `str.isdigit` alone accepts digits that `int` refuses ('²') and numbers of a million digits.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        return None
    value = int(text)
    return value if value <= maximum else None


def counted(body: Any, *path: str) -> int:
    """The count at the end of the path; 0 where there is none that can be believed."""
    for name in path:
        if not isinstance(body, dict):
            return 0
        body = body.get(name)
    return count(body) or 0


def beyond(body: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """What stands in the object beside the known names."""
    return {key: value for key, value in body.items() if key not in known} if body.keys() - known else {}


def kept(format_name: str, rest: dict[str, Any]) -> dict[str, Any]:
    """What is left over, under the name of the format that it came in; nothing where nothing is."""
    return {format_name: rest} if rest else {}


def compact(**fields: Any) -> dict[str, Any]:
    """The fields that say something."""
    return {name: value for name, value in fields.items() if value is not None and value != "" and value != []}
