"""The settings' file as text: its secrets struck out for whoever looks, and put back in what comes from there.

What is a secret is known by its place: keys of callers, of the database, of providers. `${NAME}` stays as it is.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from modelyard.base.errors import ConfigError

STRUCK = "********"
_SECRET = re.compile(
    r"(^|\.)(api_keys\[\d+\]|master_key|client_secret|qdrant_api_key|env\.\w+)$|(^|\.)credentials\[\d+\]\.values\.(?!.*(url|endpoint|region|version|name)$)"
)
_PASSWORD = re.compile(r"(?P<before>\w+://[^:/@\s]*:)(?P<secret>[^@/\s]+)@")
_PROXY = re.compile(r"(^|\.)proxy$")
"""Struck out whole where somebody is named: proxies are written without a scheme too, and with a token alone."""


def struck(text: str) -> str:
    """The file without its secrets. Raises ConfigError where it is no YAML."""
    pieces: list[str] = []
    at = 0
    for begin, end, _, value in sorted(_secrets(text)):
        hidden = _PASSWORD.sub(rf"\g<before>{STRUCK}@", value) if _PASSWORD.search(value) else STRUCK
        pieces += [text[at:begin], f'"{hidden}"']
        at = end
    return "".join([*pieces, text[at:]])


def restored(text: str, old: str) -> str:
    """What was edited, with the secrets that stand in `old` at the places where they are still struck out.

    Raises ConfigError where it is no YAML, or strikes out what was not there.
    """
    known = {path: old[begin:end] for begin, end, path, _ in _secrets(old)}
    pieces: list[str] = []
    at = 0
    for begin, end, path, value in sorted(_scalars(text)):
        if STRUCK not in value:
            continue
        if path not in known:
            raise ConfigError(f"{path} is {STRUCK}, and there is nothing to keep at that place: write the value")
        pieces += [text[at:begin], known[path]]
        at = end
    return "".join([*pieces, text[at:]])


def _secrets(text: str) -> Iterator[tuple[int, int, str, str]]:
    for begin, end, path, value in _scalars(text):
        is_reference = value.startswith("${") and value.endswith("}") and ":-" not in value
        names_somebody = bool(_PROXY.search(path)) and "@" in value
        if value and not is_reference and (names_somebody or _SECRET.search(path) or _PASSWORD.search(value)):
            yield begin, end, path, value


def _scalars(text: str) -> Iterator[tuple[int, int, str, str]]:
    """(where it begins and ends in the text, its path, its value) of every value."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"this is not YAML: {error}") from error
    todo: list[tuple[str, Any]] = [("", node)]
    while todo:
        path, one = todo.pop()
        if isinstance(one, yaml.MappingNode):
            todo += [(f"{path}.{key.value}".lstrip("."), value) for key, value in one.value]
        elif isinstance(one, yaml.SequenceNode):
            todo += [(f"{path}[{place}]", value) for place, value in enumerate(one.value)]
        elif isinstance(one, yaml.ScalarNode):
            yield one.start_mark.index, one.end_mark.index, path, one.value
