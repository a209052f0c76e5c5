"""Values as the app format describes them: selectors, and how a value is printed into a
template. It shares no code with the product, which it checks."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MISSING: Any = object()
"""The value of a selector that leads nowhere; None is a value."""
Pool = dict[str, dict[str, Any]]
"""Variables by node id and name."""

_SELECTOR = r"[a-zA-Z0-9_]{1,50}(?:\.[a-zA-Z_][a-zA-Z0-9_]{0,29}){1,10}"
_REFERENCE = re.compile(r"\{\{#(" + _SELECTOR + r")#\}\}")
_BARE = re.compile(_SELECTOR)
_FILE_FIELDS = {"name": "filename"}
_RUN_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def without_run_ids(value: Any) -> Any:
    """Return a value in which random ids are replaced by the same text, so that two
    readings of one run are equal."""
    if isinstance(value, str):
        return _RUN_ID.sub("RUN", value)
    if isinstance(value, Mapping):
        return {key: without_run_ids(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [without_run_ids(element) for element in value]
    return value


def is_file(value: Any) -> bool:
    """Return whether a value is a file object of the format."""
    return (
        isinstance(value, Mapping)
        and value.get("dify_model_identity") == "__dify__file__"
    )


def files_of(value: Any) -> list[Any]:
    """Return the files in a value: a file, or a list with files."""
    values = value if isinstance(value, list) else [value]
    return [element for element in values if is_file(element)]


def look_up(pool: Pool, selector: Any) -> Any:
    """Return the value of a selector, or MISSING."""
    steps = [str(step) for step in selector or ()]
    if len(steps) < 2:
        return MISSING
    value = pool.get(steps[0], {}).get(steps[1], MISSING)
    for step in steps[2:]:
        if not isinstance(value, Mapping):
            return MISSING
        name = _FILE_FIELDS.get(step, step) if is_file(value) else step
        value = value.get(name, MISSING)
    return value


def value_at(pool: Pool, selector: Any) -> Any:
    """Return the value of a selector, None if it leads nowhere."""
    value = look_up(pool, selector)
    return None if value is MISSING else value


def parts_of(template: str) -> Iterator[str | tuple[str, ...]]:
    """Yield the texts and the selectors of a template.

    A text that is nothing but `a.b` counts as a selector, as in Dify.
    """
    for index, fragment in enumerate(_REFERENCE.split(template)):
        if index % 2 or (fragment and _BARE.fullmatch(fragment)):
            yield tuple(fragment.split("."))
        elif fragment:
            yield fragment


def references_in(template: str) -> list[tuple[str, ...]]:
    """Return the selectors that a template names in `{{#…#}}`."""
    return [tuple(match[1].split(".")) for match in _REFERENCE.finditer(template)]


def text_of(value: Any) -> str:
    """Return a value as it is printed into a prompt, a request or a parameter."""
    if value is None or value is MISSING or is_file(value):
        return ""
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        if not value or all(is_file(element) for element in value):
            return ""
        is_texts = all(isinstance(element, str) for element in value)
        # Lists of other values are printed as Python prints them.
        return json.dumps(value, ensure_ascii=False) if is_texts else str(value)
    return str(value)


def markdown_of(value: Any) -> str:
    """Return a value as an answer node shows it."""
    if is_file(value):
        link = f"[{value['filename']}]({value.get('url') or ''})"
        return f"!{link}" if value["type"] == "image" else link
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, indent=2)
    if isinstance(value, list):
        return "\n".join(map(_line_of, value))
    return text_of(value)


def _line_of(element: Any) -> str:
    """Return the line of an element in a list that an answer node shows."""
    return markdown_of(element) if is_file(element) else f"- {text_of(element)}"


def render(
    template: str,
    pool: Pool,
    show: Callable[[Any], str] = text_of,
    insertions: Mapping[str, str] | None = None,
) -> str:
    """Return a template with its values. A selector that leads nowhere shows its name.

    `insertions` has the texts of placeholders without a selector, such as
    `{{#context#}}`; they are replaced in the author's text only.
    """
    rendered: list[str] = []
    for part in parts_of(template):
        if isinstance(part, tuple):
            value = look_up(pool, part)
            rendered.append(".".join(part) if value is MISSING else show(value))
            continue
        for placeholder, text in (insertions or {}).items():
            part = part.replace(placeholder, text)
        rendered.append(part)
    return "".join(rendered)
