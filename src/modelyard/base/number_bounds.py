"""Bounds for configured numbers: finite, non-negative unless stated otherwise, and
never absurdly large.

One rule for settings, the admin API, YAML files and prices. A field with other bounds
declares them with `Annotated[float, Meta(ge=…, le=…)]`.
"""

import math
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import yaml
from yaml.constructor import ConstructorError

MAX_NUMBER = 1e12
"""Upper bound for fields that declare none."""

Priority = Annotated[int, msgspec.Meta(ge=-100_000, le=100_000)]
Weight = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Amount = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
"""Amount of a limit. -1 means unlimited; other negative numbers are refused with a
message."""

Bound = Annotated[float, msgspec.Meta(ge=-1e20, le=1e20)]
"""Bound of a model parameter. Seeds are very large, penalties are negative."""
# Beyond it, times and prices calculated from a number would overflow.
_MAX_UNTYPED = 1e20

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class FiniteLoader(_SafeLoader):
    """A YAML loader that rejects `.nan` and `.inf` with a YAMLError naming the line."""


def _finite_float(loader: Any, node: Any) -> float:
    """Construct a YAML float, refusing infinities and NaN.

    Raises ConstructorError, which names the text and the line, if the number is not
    finite.
    """
    number: float = _SafeLoader.construct_yaml_float(loader, node)
    if not math.isfinite(number):
        raise ConstructorError(
            None, None, f"{node.value[:20]} is not a finite number", node.start_mark
        )
    return number


FiniteLoader.add_constructor("tag:yaml.org,2002:float", _finite_float)


def check_numbers(value: Any, path: str = "$", *, is_signed: bool = False) -> None:
    """Raise msgspec.ValidationError for the first number in `value` that is out of
    bounds, naming its path.

    `value` is a struct or decoded JSON. In untyped values, such as a model definition,
    or with `is_signed`, any finite number up to 1e20 is accepted.
    """
    is_typed = not isinstance(value, dict | list)
    try:
        for problem in _problems(value, path, is_typed=is_typed, is_signed=is_signed):
            raise msgspec.ValidationError(problem)
    except RecursionError as error:
        raise msgspec.ValidationError(f"Nested too deeply - at `{path}`") from error


def _problems(
    value: Any, path: str, *, is_typed: bool, is_signed: bool
) -> Iterator[str]:
    """Yield a message for each number in `value` that is out of bounds."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        # Typed fields must not be negative; untyped ones only need to be finite.
        low, high = (
            (0, MAX_NUMBER)
            if is_typed and not is_signed
            else (-_MAX_UNTYPED, _MAX_UNTYPED)
        )
        # NaN fails every comparison, so this check rejects it as well.
        if not low <= value <= high:
            yield (
                f"Expected a finite number from {low:g} to {high:g}, got"
                f" {_shortened(value)} - at `{path}`"
            )
        return
    for child, child_path, is_child_typed in _children(value, path, is_typed=is_typed):
        yield from _problems(
            child, child_path, is_typed=is_child_typed, is_signed=is_signed
        )


def _children(
    value: Any, path: str, *, is_typed: bool
) -> Iterator[tuple[Any, str, bool]]:
    """Yield (value, path, whether it is typed) of the parts of a value."""
    nested: dict[Any, Any] | list[Any] | tuple[Any, ...] | None = value
    if isinstance(value, msgspec.Struct):
        # Fields with declared bounds were already checked by msgspec.
        bounded, untyped = _field_bounds(type(value))
        for name in value.__struct_fields__:
            if name not in bounded:
                yield getattr(value, name), f"{path}.{name}", name not in untyped
    elif isinstance(nested, dict):
        for key, member in nested.items():
            yield member, f"{path}.{key}", is_typed
    elif isinstance(nested, list | tuple):
        for index, element in enumerate(nested):
            yield element, f"{path}[{index}]", is_typed


def _shortened(value: float | Decimal) -> str:
    """Return a number for an error message."""
    return f"{value:g}" if isinstance(value, float) else f"{str(value)[:20]}"


def _is_bounded(hint: Any) -> bool:
    """Return whether a type, or one that it is composed of, has bounds."""
    return get_origin(hint) is Annotated or any(
        _is_bounded(part) for part in get_args(hint)
    )


@lru_cache(256)
def _field_bounds(
    struct_type: type[msgspec.Struct],
) -> tuple[frozenset[str], frozenset[str]]:
    """Return (fields with declared bounds, fields of untyped content) of a struct type."""
    hints = get_type_hints(struct_type, include_extras=True)
    bounded = {name for name, hint in hints.items() if _is_bounded(hint)}
    untyped = {name for name, hint in hints.items() if "Any" in str(hint)}
    return frozenset(bounded), frozenset(untyped)
