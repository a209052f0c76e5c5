"""`{{#node.variable#}}` in texts. Pure; how a text falls apart is remembered."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from modelyard.workflow.variables import MISSING, VariablePool, to_markdown, to_text

_SELECTOR = r"[a-zA-Z0-9_]{1,50}(?:\.[a-zA-Z_][a-zA-Z0-9_]{0,29}){1,10}"
_REFERENCE = re.compile(r"\{\{#(" + _SELECTOR + r")#\}\}")
_BARE = re.compile(_SELECTOR)

Part = str | tuple[str, ...]
"""A piece of text, or a selector."""


@lru_cache(4096)
def parts_of(text: str) -> tuple[Part, ...]:
    """A template as texts and selectors. A text that is a selector's name by itself is one too: apps rely on it."""
    if "{{#" not in text and not ("." in text and len(text) < 400 and _BARE.fullmatch(text)):
        return (text,) if text else ()
    pieces = _REFERENCE.split(text)
    parts: list[Part] = []
    for place, piece in enumerate(pieces):
        if place % 2 or (piece and _BARE.fullmatch(piece)):
            parts.append(tuple(piece.split(".")))
        elif piece:
            parts.append(piece)
    return tuple(parts)


def selectors_in(text: str) -> Iterator[tuple[str, ...]]:
    """What a template refers to in so many words."""
    for match in _REFERENCE.finditer(text):
        yield tuple(match[1].split("."))


def render(text: str, pool: VariablePool, print_value: Callable[[Any], str] = to_text) -> str:
    """The text with values in it. What does not exist leaves its name there."""
    parts = parts_of(text)
    if len(parts) == 1 and parts[0] is text:
        return text
    return "".join([_rendered(part, pool, print_value) for part in parts])


def _rendered(part: Part, pool: VariablePool, print_value: Callable[[Any], str]) -> str:
    if isinstance(part, str):
        return part
    value = pool.get(part)
    return ".".join(part) if value is MISSING else print_value(value)


def render_markdown(text: str, pool: VariablePool) -> str:
    return render(text, pool, to_markdown)
