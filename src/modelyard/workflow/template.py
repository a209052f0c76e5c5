"""Templates with `{{#node.variable#}}` references. No I/O; parsed templates are cached."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from modelyard.workflow.variables import MISSING, VariablePool, to_markdown, to_text

# The lengths are bounded so that a long text cannot slow the pattern down.
_SELECTOR = r"[a-zA-Z0-9_]{1,50}(?:\.[a-zA-Z_][a-zA-Z0-9_]{0,29}){1,10}"
_REFERENCE = re.compile(r"\{\{#(" + _SELECTOR + r")#\}\}")
_BARE_SELECTOR = re.compile(_SELECTOR)

Part = str | tuple[str, ...]
"""A text or a selector."""


@lru_cache(4096)
def parts_of(text: str) -> tuple[Part, ...]:
    """Return a template as texts and selectors. A text that consists of a bare selector
    is a selector: apps rely on it."""
    # A quick test avoids the pattern for ordinary text.
    if "{{#" not in text and not (
        "." in text and len(text) < 400 and _BARE_SELECTOR.fullmatch(text)
    ):
        return (text,) if text else ()
    fragments = _REFERENCE.split(text)
    parts: list[Part] = []
    # The pattern's group puts the selectors at the odd indexes.
    for index, fragment in enumerate(fragments):
        if index % 2 or (fragment and _BARE_SELECTOR.fullmatch(fragment)):
            parts.append(tuple(fragment.split(".")))
        elif fragment:
            parts.append(fragment)
    return tuple(parts)


def selectors_in(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the selectors that are written as references."""
    for match in _REFERENCE.finditer(text):
        yield tuple(match[1].split("."))


def render(
    text: str,
    pool: VariablePool,
    print_value: Callable[[Any], str] = to_text,
    *,
    fill: Callable[[str], str] = str,
) -> str:
    """Return the text with values. A missing value is shown as its selector.

    `fill` replaces placeholders of the node itself, such as `{{#context#}}`, in the
    texts of the template. Values are data: they are neither filled nor rendered.
    """
    parts = parts_of(text)
    # Most texts have no references and are returned without a copy.
    if len(parts) == 1 and parts[0] is text:
        return fill(text)
    return "".join(
        [
            fill(part) if isinstance(part, str) else _printed(part, pool, print_value)
            for part in parts
        ]
    )


def _printed(
    selector: tuple[str, ...], pool: VariablePool, print_value: Callable[[Any], str]
) -> str:
    """Return the text of a selector's value."""
    value = pool.get(selector)
    return ".".join(selector) if value is MISSING else print_value(value)


def render_markdown(
    text: str, pool: VariablePool, *, fill: Callable[[str], str] = str
) -> str:
    """Return the text with values in Markdown, for people. `fill` is as in `render`."""
    return render(text, pool, to_markdown, fill=fill)
