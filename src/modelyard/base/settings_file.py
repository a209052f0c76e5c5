"""The settings file as text, with secrets masked for display and restored in an edited
version.

Secrets are recognised by their path: keys of callers, of the database, of providers.
References such as `${NAME}` are not masked.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from modelyard.base.errors import ConfigError

_yaml: Any = yaml  # its `compose` has no types

MASK = "********"
_SECRET = re.compile(
    r"(^|\.)(api_keys\[\d+\]|master_key|client_secret|secret_key|session_token|password|qdrant_api_key|env\.\w+)$|(^|\.)credentials\[\d+\]\.values\.(?!.*(url|endpoint|region|version|name)$)"
)
_PASSWORD = re.compile(r"(?P<before>\w+://[^:/@\s]*:)(?P<secret>[^@/\s]+)@")
_PROXY = re.compile(r"(^|\.)proxy$")
"""Proxy values are masked completely if they contain a user: they may lack a scheme,
and may hold a bare token."""


def mask_secrets(text: str) -> str:
    """Return the file's text with secrets masked. Raises ConfigError if it is not YAML."""
    fragments: list[str] = []
    position = 0
    for start, end, _, value in sorted(_secrets(text)):
        # Only the password is masked in a URL, so that host and user stay readable.
        hidden = (
            _PASSWORD.sub(rf"\g<before>{MASK}@", value)
            if _PASSWORD.search(value)
            else MASK
        )
        fragments += [text[position:start], f'"{hidden}"']
        position = end
    return "".join([*fragments, text[position:]])


def unmask_secrets(text: str, old: str) -> str:
    """Return an edited text with the masked secrets replaced by those at the same paths
    of `old`.

    Raises ConfigError if it is not YAML, or if it masks a value that did not exist
    before.
    """
    # Source text including quotes, so that it can be inserted unchanged.
    secrets_by_path = {path: old[start:end] for start, end, path, _ in _secrets(old)}
    fragments: list[str] = []
    position = 0
    for start, end, path, value in sorted(_scalars(text)):
        if MASK not in value:
            continue
        if path not in secrets_by_path:
            raise ConfigError(
                f"{path} is masked as {MASK}, but no value is stored for it; enter the"
                " value"
            )
        fragments += [text[position:start], secrets_by_path[path]]
        position = end
    return "".join([*fragments, text[position:]])


def _secrets(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Yield (start offset, end offset, path, value) of the secrets in a settings text.

    A value is secret by its path, or if it is a URL with a password, or a proxy address
    with a user. Empty values and references to variables without a default are left
    out. Raises ConfigError if the text is not YAML.
    """
    for start, end, path, value in _scalars(text):
        # `${NAME:-default}` may contain the secret itself, so it is masked.
        is_reference = (
            value.startswith("${") and value.endswith("}") and ":-" not in value
        )
        has_proxy_user = bool(_PROXY.search(path)) and "@" in value
        if (
            value
            and not is_reference
            and (has_proxy_user or _SECRET.search(path) or _PASSWORD.search(value))
        ):
            yield start, end, path, value


def _scalars(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Yield (start offset, end offset, path, value) of every scalar in the text."""
    try:
        node = _yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"The settings are not YAML: {error}") from error
    # A stack instead of recursion, whose depth the file would choose.
    pending: list[tuple[str, Any]] = [("", node)]
    while pending:
        path, current_node = pending.pop()
        if isinstance(current_node, yaml.MappingNode):
            pending += [
                (f"{path}.{key.value}".lstrip("."), value)
                for key, value in current_node.value
            ]
        elif isinstance(current_node, yaml.SequenceNode):
            pending += [
                (f"{path}[{index}]", value)
                for index, value in enumerate(current_node.value)
            ]
        elif isinstance(current_node, yaml.ScalarNode):
            yield (
                current_node.start_mark.index,
                current_node.end_mark.index,
                path,
                current_node.value,
            )
