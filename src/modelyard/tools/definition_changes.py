"""The differences between a tool provider's accepted tools and its current ones, for a
person to review. Pure.

Models read descriptions and schemas, so the operator of a server could insert
instructions at any time. A change takes effect only after a person has reviewed and
accepted it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from modelyard.tools.openapi import Api

_MAX_DISPLAY_LENGTH = 2000


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A changed field of a tool, or of the provider itself if `tool` is empty."""

    tool: str = ""
    field: str
    before: str
    after: str


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """All differences of a provider."""

    added: list[str] = []
    removed: list[str] = []
    changed: list[Change] = []
    new_origins: list[str] = []
    """Origins that calls, and the credentials sent with them, would go to for the first
    time."""
    digest: str = ""
    """The digest of the provider's current state, to accept exactly this."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing has changed."""
        return not (self.added or self.removed or self.changed or self.new_origins)

    def lines(self) -> Iterator[str]:
        """Yield the differences as lines for a terminal."""
        yield from (f"+ {name}" for name in self.added)
        yield from (f"- {name}" for name in self.removed)
        for change in self.changed:
            yield f"~ {change.tool or 'the provider'}: {change.field}"
            yield f"    - {change.before}"
            yield f"    + {change.after}"
        yield from (f"! calls would go to {origin}" for origin in self.new_origins)


Fields = Mapping[str, Mapping[str, Any]]
"""Tool name to its fields."""


def compare(
    old_fields: Fields,
    new_fields: Fields,
    *,
    about_before: Mapping[str, Any],
    about_after: Mapping[str, Any],
    new_origins: Sequence[str] = (),
) -> Changes:
    """Return the differences. `about_before` and `about_after` are the provider's own
    fields."""
    changed = list(_field_changes("", about_before, about_after))
    for name in new_fields:
        if name in old_fields:
            changed += _field_changes(name, old_fields[name], new_fields[name])
    return Changes(
        added=[name for name in new_fields if name not in old_fields],
        removed=[name for name in old_fields if name not in new_fields],
        changed=changed,
        new_origins=list(new_origins),
        # The digest covers the new state only, so accepting is refused if the provider
        # changes again in between.
        digest=hashlib.sha256(
            msgspec.json.encode([new_fields, about_after], order="deterministic")
        ).hexdigest(),
    )


def _field_changes(
    tool: str, old_fields: Mapping[str, Any], new_fields: Mapping[str, Any]
) -> Iterator[Change]:
    """Yield the changed fields of a tool."""
    for field in dict.fromkeys([*old_fields, *new_fields]):
        old, new = old_fields.get(field), new_fields.get(field)
        if old != new:
            yield Change(
                tool=tool,
                field=field,
                before=_display_text(old),
                after=_display_text(new),
            )


def _display_text(value: Any) -> str:
    """Format a field's value for display, shortened if it is long."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if len(text) <= _MAX_DISPLAY_LENGTH:
        return text
    return f"{text[:_MAX_DISPLAY_LENGTH]}… ({len(text):,} characters)"


def origins_of(api: Api) -> list[str]:
    """Return the origins that an API's calls go to, without duplicates."""
    servers = [api.server, *(operation.server for operation in api.operations)]
    return list(dict.fromkeys(origin for url in servers if (origin := origin_of(url))))


def origin_of(url: str) -> str:
    """Return scheme, host and port of an address; empty if it has no host."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return url
    if not parts.hostname:
        return ""
    # The default port is written out, so that equal origins compare equal.
    port = port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def with_server(api: Api, server: str) -> Api:
    """Return the API with all calls going to a chosen server, even if operations name
    their own."""
    operations = [
        msgspec.structs.replace(operation, server="") for operation in api.operations
    ]
    return msgspec.structs.replace(
        api, server=server.rstrip("/"), operations=operations
    )
