"""Finds values in JSON documents by patterns of paths."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any


def leaves(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of every leaf; an empty list or object is a leaf.

    The steps of a path are joined by dots, and a position in a list is its number.
    """
    children: list[tuple[str, Any]] = []
    if isinstance(document, dict):
        children = list(document.items())
    elif isinstance(document, list):
        children = [(str(index), value) for index, value in enumerate(document)]
    if not children:
        yield path, document
    for step, value in children:
        yield from leaves(value, f"{path}.{step}" if path else step)


@lru_cache(4096)
def _expression(pattern: str) -> re.Pattern[str]:
    """Return a pattern as a regular expression: `*` stands for one step, `**` for any
    number of them."""
    steps = {"*": r"[^.]+", "**": r".*"}
    return re.compile(
        r"\.".join(steps.get(step, re.escape(step)) for step in pattern.split("."))
    )


def is_equal(leaf: Any, expected: Any) -> bool:
    """Return whether a leaf has a wanted value. A text is looked for inside of the leaf,
    any other value must be the same and of the same type."""
    if isinstance(expected, str):
        return isinstance(leaf, str) and expected in leaf
    return type(leaf) is type(expected) and leaf == expected


def holds(document: Any, pattern: str, expected: Any) -> bool:
    """Return whether a leaf whose path fits the pattern has the wanted value. A list or
    object is wanted as a whole."""
    if isinstance(expected, dict | list):
        return any(value == expected for value in _at(document, pattern.split(".")))
    expression = _expression(pattern)
    return any(
        is_equal(value, expected) and expression.fullmatch(path) is not None
        for path, value in leaves(document)
    )


def _at(document: Any, steps: list[str]) -> Iterator[Any]:
    """Yield the values at a path without `**`."""
    if not steps:
        yield document
        return
    step, *remaining = steps
    for value in _children(document, step):
        yield from _at(value, remaining)


def _children(document: Any, step: str) -> list[Any]:
    """Return the values at one step of a path."""
    if isinstance(document, list):
        document = {str(index): value for index, value in enumerate(document)}
    if not isinstance(document, dict):
        return []
    return [value for name, value in document.items() if step in ("*", name)]


def paths_of(document: Any, marker: str) -> list[str]:
    """Return the paths of the leaves, and of the keys, that contain a marker."""
    return [
        path
        for path, value in leaves(document)
        if marker in path or (isinstance(value, str) and marker in value)
    ]
