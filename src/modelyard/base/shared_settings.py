"""Which settings all servers on a database share, and how they are combined with those
that each server has from its own file."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml

from modelyard.base.json_types import is_object
from modelyard.base.number_bounds import FiniteLoader
from modelyard.base.settings import Settings, parse_settings

SOURCE = "Settings in the database"
_SHARED = frozenset(
    {
        "api_keys", "max_body_mb", "providers", "defaults", "failover", "routes",
        "limits", "unpriced", "timeouts", "egress", "mail", "content", "tools",
    }
)  # fmt: skip
"""Settings that take effect on running servers. All others are read at the start, so a
change of them could not reach a server that runs."""
_SHARED_FIELDS: Mapping[str, frozenset[str]] = {
    "cache": frozenset({"seconds", "semantic_model"}),
    "network": frozenset({"proxy", "no_proxy"}),
    "queue": frozenset({"capacity", "waiting", "target_ms"}),
    "telemetry": frozenset({"decision_days", "usage_days"}),
    "workflows": frozenset(
        {"keep_days", "catch_up_seconds", "code_network", "models", "tools", "datasets"}
    ),
}
"""Sections of which only some fields take effect on running servers."""


def with_shared(own: Settings, text: str, environ: Mapping[str, str]) -> Settings:
    """Return a server's own settings with the shared ones of a text instead of those of
    its file. Its environment variables still take precedence.

    Raises ConfigError that lists all mistakes of the text with their lines.
    """
    # Variables are read here, because each server has its own.
    values = parse_settings(text, SOURCE, environ)
    defaults = Settings()
    shared: dict[str, Any] = {
        name: values.get(name, getattr(defaults, name)) for name in _SHARED
    }
    for section_name, names in _SHARED_FIELDS.items():
        section = values.get(section_name) or getattr(defaults, section_name)
        fields = {name: getattr(section, name) for name in names}
        # The other fields of the section are the server's own.
        shared[section_name] = msgspec.structs.replace(
            getattr(own, section_name), **fields
        )
    return msgspec.structs.replace(own, **shared)


def changed_at_start_only(old: str, new: str) -> list[str]:
    """Return the settings that differ between two texts and take effect at a start only,
    such as `port` or `cache.store`. The texts have to be valid."""
    before, after = dict(_start_settings(old)), dict(_start_settings(new))
    # A setting that was removed has changed too.
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name) != after.get(name)]


def _start_settings(text: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of the settings in a text that take effect at a start only."""
    document: Any = yaml.load(text, Loader=FiniteLoader)  # noqa: S506
    # An empty text has no settings.
    settings: Mapping[str, Any] = document or {}
    for name, value in settings.items():
        if name in _SHARED:
            continue
        names = _SHARED_FIELDS.get(name)
        if names is None or not is_object(value):
            yield name, value
            continue
        for field, inner in value.items():
            if field not in names:
                yield f"{name}.{field}", inner
