"""What a tool provider changed since its tools were accepted, as people are shown it. Pure.

Descriptions and schemas are read by models: whoever runs the server could put other words into them at any time, so
that they are taken when somebody who saw the difference says so.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from modelyard.tools.openapi import Api

_MOST_SHOWN = 2000


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One field of one tool; of the provider itself where `tool` is empty."""

    tool: str = ""
    field: str
    before: str
    after: str


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    added: list[str] = []
    removed: list[str] = []
    changed: list[Change] = []
    new_origins: list[str] = []
    """Where calls, and what is shown with them, would go and did not go before."""
    digest: str = ""
    """Of what the provider says now: to accept exactly this."""

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.changed or self.new_origins)

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield from (f"+ {name}" for name in self.added)
        yield from (f"- {name}" for name in self.removed)
        for one in self.changed:
            yield f"~ {one.tool or 'the provider'}: {one.field}"
            yield f"    - {one.before}"
            yield f"    + {one.after}"
        yield from (f"! calls would go to {origin}" for origin in self.new_origins)


Fields = Mapping[str, Mapping[str, Any]]
"""Tool → its fields."""


def changes_of(
    before: Fields, after: Fields, *, about_before: Mapping[str, Any], about_after: Mapping[str, Any],
    new_origins: Sequence[str] = (),
) -> Changes:  # fmt: skip
    """`about_…` are the provider's own fields."""
    changed = list(_changed("", about_before, about_after))
    for name in after:
        if name in before:
            changed += _changed(name, before[name], after[name])
    return Changes(
        added=[name for name in after if name not in before],
        removed=[name for name in before if name not in after],
        changed=changed,
        new_origins=list(new_origins),
        digest=hashlib.sha256(msgspec.json.encode([after, about_after], order="deterministic")).hexdigest(),
    )


def _changed(tool: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for field in dict.fromkeys([*before, *after]):
        old, new = before.get(field), after.get(field)
        if old != new:
            yield Change(tool=tool, field=field, before=_shown(old), after=_shown(new))


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}… ({len(text):,} characters)"


def origins_of(api: Api) -> list[str]:
    """Where calls of an API go, each once."""
    servers = [api.server, *(one.server for one in api.operations)]
    return list(dict.fromkeys(origin for one in servers if (origin := origin_of(one))))


def origin_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return url
    if not parts.hostname:
        return ""
    port = port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def with_server(api: Api, server: str) -> Api:
    """With all its calls going where somebody chose, whatever the description says of single operations."""
    operations = [msgspec.structs.replace(one, server="") for one in api.operations]
    return msgspec.structs.replace(api, server=server.rstrip("/"), operations=operations)
