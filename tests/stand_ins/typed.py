"""Checks a request against the parameter types of a vendor's own library: unknown
fields, missing fields, and wrong types."""

import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required

from typing_extensions import is_typeddict

_SCALARS = {
    str: (str,), int: (int,), float: (int, float), bool: (bool,), NoneType: (NoneType,),
}  # fmt: skip


@lru_cache(2000)
def _hints(typed_dict: Any) -> dict[str, Any]:
    """Return the fields of a TypedDict and their types."""
    return typing.get_type_hints(typed_dict)


def problem(value: Any, hint: Any, path: str = "") -> str | None:
    """Return what is wrong with a value, as `path: reason`, or None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Annotated, Required, NotRequired):
        return problem(value, arguments[0], path)
    if is_typeddict(hint):
        return _problem_of_object(value, hint, path)
    if origin in (typing.Union, UnionType):
        return _problem_of_union(value, arguments, path)
    if origin is Literal:
        return None if value in arguments else f"{path}: Input should be {arguments}"
    if hint in _SCALARS:
        return _problem_of_scalar(value, hint, path)
    return _problem_of_collection(value, origin, arguments, path)


def _problem_of_scalar(value: Any, hint: Any, path: str) -> str | None:
    """Return a problem if a value is no text, number or the like."""
    is_bool = isinstance(value, bool)
    fits = isinstance(value, _SCALARS[hint]) and (is_bool == (hint is bool))
    return None if fits else f"{path}: Input should be a valid {hint.__name__}"


def _problem_of_collection(
    value: Any, origin: Any, arguments: tuple[Any, ...], path: str
) -> str | None:
    """Return a problem of a mapping's values or a list's entries."""
    if origin is None or not issubclass(origin, Iterable):
        return None
    if issubclass(origin, Mapping):
        items = value.items() if isinstance(value, dict) else ()
        return _first(problem(v, arguments[-1], f"{path}.{k}") for k, v in items)
    return _problem_of_list(value, arguments[0], path)


def _first(problems: Iterable[str | None]) -> str | None:
    """Return the first problem, or None."""
    return next((each for each in problems if each), None)


def _problem_of_list(value: Any, hint: Any, path: str) -> str | None:
    if not isinstance(value, list):
        return f"{path}: Input should be a valid list"
    return _first(problem(each, hint, f"{path}.{n}") for n, each in enumerate(value))


def _problem_of_object(value: Any, hint: Any, path: str) -> str | None:
    if not isinstance(value, dict):
        return f"{path}: Input should be an object"
    dot = f"{path}." if path else ""
    hints = _hints(hint)
    for name in value:
        if name not in hints:
            return f"{dot}{name}: Extra inputs are not permitted"
    for name in hint.__required_keys__:
        if name not in value:
            return f"{dot}{name}: Field required"
    return _first(problem(v, hints[n], f"{dot}{n}") for n, v in value.items())


def _problem_of_union(value: Any, members: tuple[Any, ...], path: str) -> str | None:
    """Return None if a member fits, otherwise the problem of the likeliest member."""
    best = f"{path}: Input should be one of the documented forms"
    for member in members:
        reason = problem(value, member, path)
        if reason is None:
            return None
        is_list = isinstance(value, list) and typing.get_origin(member) is not None
        if is_list or (isinstance(value, dict) and _is_meant(value, member)):
            best = reason
    return best


def _is_meant(value: dict[str, Any], member: Any) -> bool:
    """Return whether an object says by `type` and `role` that it is this member."""
    if not is_typeddict(member):
        return False
    fixed = list(_fixed_fields(member))
    return bool(fixed) and all(value.get(name) in words for name, words in fixed)


def _fixed_fields(member: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the fields of a TypedDict that tell it from others, with their words."""
    for name in ("type", "role"):
        hint = _hints(member).get(name)
        while typing.get_origin(hint) in (Required, NotRequired, Annotated):
            hint = typing.get_args(hint)[0]
        if typing.get_origin(hint) is Literal:
            yield name, typing.get_args(hint)


def parsed(text: str) -> Any:
    """Return the JSON of a text, or the text itself if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text
