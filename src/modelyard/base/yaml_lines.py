"""Lines of the values in a YAML file, for messages about mistakes in it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

_yaml: Any = yaml  # its `compose` has no types
# msgspec states the name of the field only within its message.
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]+)`")


def yaml_lines(text: str) -> dict[str, int]:
    """Return path → line for every value of a YAML document, as `$.local.threads` → 4.

    Lines are counted from 1. The line of a mapping's value is that of its key. An empty
    document gives an empty dict. Raises YAMLError for invalid YAML.
    """
    node = _yaml.compose(text, Loader=yaml.CSafeLoader)
    return {} if node is None else dict(_lines(node, "$"))


def _lines(node: Any, path: str) -> Iterator[tuple[str, int]]:
    """Yield (path, line) for a YAML node and all nodes below it.

    The path of a mapping's value is yielded last with the line of its key, so that a
    dict of the pairs holds that line.
    """
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            # Children first; the key's own line then overrides the line of the value's
            # start.
            yield from _lines(value, f"{path}.{key.value}")
            yield f"{path}.{key.value}", key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, f"{path}[{index}]")


def unknown_field(reason: str) -> str | None:
    """Return the field that msgspec's message calls unknown; None if it names none."""
    match = _UNKNOWN_FIELD.search(reason)
    return match[1] if match else None


def line_of_mistake(lines: Mapping[str, int], path: str, reason: str) -> int:
    """Return the line of a mistake: of the value itself if known, otherwise of the
    closest parent.

    `lines` comes from `yaml_lines`; `path` and `reason` come from msgspec's message.
    """
    path = path.replace("[...]", "")
    # msgspec reports an unknown field at its parent; the field's own line is more
    # helpful.
    if field := unknown_field(reason):
        path += f".{field}"
    while path and path not in lines:
        path = path[
            : max(
                path.rfind("."),
                path.rfind("["),
                0,
            )
        ]
    return lines.get(path, 1)
