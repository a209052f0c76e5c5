"""Numbers that people set: finite, not negative where nothing else is said, and never absurdly large.

One rule for settings, the admin API, YAML files and prices. A field that may hold other numbers says so itself, with
`Annotated[float, Meta(ge=…, le=…)]`.
"""

import math
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import yaml
from yaml.constructor import ConstructorError

MOST = 1e12
"""The largest number that a field takes which does not say otherwise."""

Priority = Annotated[int, msgspec.Meta(ge=-100_000, le=100_000)]
Weight = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Amount = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
"""Of a limit; -1 is unlimited, and other negative numbers are refused in words."""

Bound = Annotated[float, msgspec.Meta(ge=-1e20, le=1e20)]
"""Of a model's parameter: seeds go far up, penalties below zero."""
_MOST_UNTYPED = 1e20

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class FiniteLoader(_SafeLoader):
    """Reads YAML without `.nan` and `.inf`: what refuses them is a YAMLError that names their line."""


def _finite_float(loader: Any, node: Any) -> float:
    number: float = _SafeLoader.construct_yaml_float(loader, node)
    if not math.isfinite(number):
        raise ConstructorError(None, None, f"{node.value[:20]} is not a finite number", node.start_mark)
    return number


FiniteLoader.add_constructor("tag:yaml.org,2002:float", _finite_float)


def check_numbers(value: Any, path: str = "$", *, is_signed: bool = False) -> None:
    """Raises msgspec.ValidationError that names the first number in `value`, a struct or what JSON holds, that is out
    of bounds. Within values that have no type of their own, as a model's definition, a number only has to be finite;
    with `is_signed`, everywhere."""
    is_typed = not isinstance(value, dict | list)
    try:
        for problem in _problems(value, path, is_typed=is_typed, is_signed=is_signed):
            raise msgspec.ValidationError(problem)
    except RecursionError as error:
        raise msgspec.ValidationError(f"Nested too deeply - at `{path}`") from error


def _problems(value: Any, path: str, *, is_typed: bool, is_signed: bool) -> Iterator[str]:
    if isinstance(value, msgspec.Struct):
        bounded, untyped = _kinds_of_fields(type(value))
        for name in value.__struct_fields__:
            if name not in bounded:
                inner = getattr(value, name)
                yield from _problems(inner, f"{path}.{name}", is_typed=name not in untyped, is_signed=is_signed)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _problems(inner, f"{path}.{key}", is_typed=is_typed, is_signed=is_signed)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _problems(inner, f"{path}[{index}]", is_typed=is_typed, is_signed=is_signed)
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        low, most = (0, MOST) if is_typed and not is_signed else (-_MOST_UNTYPED, _MOST_UNTYPED)
        # NaN compares false with everything, so it is caught here as well.
        if not low <= value <= most:
            yield f"Expected a finite number from {low:g} to {most:g}, got {_shortened(value)} - at `{path}`"


def _shortened(value: float | Decimal) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{str(value)[:20]}"


def _is_bounded(hint: Any) -> bool:
    return get_origin(hint) is Annotated or any(_is_bounded(part) for part in get_args(hint))


@lru_cache(256)
def _kinds_of_fields(kind: type[msgspec.Struct]) -> tuple[frozenset[str], frozenset[str]]:
    """(fields whose own bounds msgspec has checked already, fields that hold anything)."""
    hints = get_type_hints(kind, include_extras=True)
    bounded = {name for name, hint in hints.items() if _is_bounded(hint)}
    untyped = {name for name, hint in hints.items() if "Any" in str(hint)}
    return frozenset(bounded), frozenset(untyped)
