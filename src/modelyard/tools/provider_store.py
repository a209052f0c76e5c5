"""What tenants have added as tool providers, as it is kept: a row, its secret sealed, and beside it what it offers."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError, suggestion
from modelyard.storage.kept import Kept
from modelyard.storage.resources import Resources
from modelyard.tenancy.directory import Directory, Known
from modelyard.tenancy.kinds import ToolProvider
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tools.api import Auth
from modelyard.tools.openapi import Api

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SCOPE = "providers"
_MOST_CACHED = 64


class McpListing(msgspec.Struct, frozen=True, kw_only=True):
    """A server's tools, as they were when it was last asked."""

    version: str
    server: dict[str, Any] = {}
    instructions: str = ""
    tools: list[dict[str, Any]] = []


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored encrypted."""

    auth: Auth = Auth()
    headers: dict[str, str] = {}


OnReplaced = Callable[[str, str], Awaitable[None]]
"""(tenant, row): this provider is another one now, or gone."""


class ProviderStore:
    """The rows of tool providers. What they offer is read when first asked for and remembered until it changes."""

    def __init__(self, resources: Resources, directory: Directory, rows: SealedRows, kept: Kept) -> None:
        self._resources = resources
        self._directory = directory
        self._rows = rows
        self._kept = kept
        self._read: OrderedDict[tuple[str, str], Api | McpListing] = OrderedDict()
        self._changes = 0
        """Grows with whatever makes stored descriptions stale: what was fetched before is not remembered after."""
        self._on_replaced: list[OnReplaced] = []
        directory.on_change(self._changed)

    def on_replaced(self, listener: OnReplaced) -> None:
        self._on_replaced.append(listener)

    def _changed(self, touched: set[tuple[str, str]]) -> None:
        tenants = {tenant for tenant, kind in touched if kind == ToolProvider.kind}
        if tenants:
            self._changes += 1
        for key in [one for one in self._read if one[0] in tenants]:
            del self._read[key]

    # rows

    def all(self, tenant: str) -> list[tuple[Known, ToolProvider]]:
        return sorted(self._directory.of(tenant, ToolProvider), key=lambda one: one[0].name)

    def find(self, tenant: str, name: str) -> tuple[Known, ToolProvider]:
        """By id or name. Raises NotFoundError."""
        every = self.all(tenant)
        found = next((one for one in every if name in (one[0].id, one[0].name)), None)
        if found is None:
            hint = suggestion(name, [one.name for one, _ in every], label="there are")
            raise NotFoundError(f"tool provider {name[:80]!r} does not exist; {hint}", code="tool_provider_not_found")
        return found

    def secret(self, tenant: str, row: str, stored: ToolProvider) -> Secret:
        if not stored.secret:
            return Secret()
        return msgspec.convert(self._rows.read(tenant, ToolProvider.kind, row, stored.secret), Secret)

    async def keep(self, tenant: str, name: str, stored: ToolProvider, secret: Secret, content: bytes) -> str:
        """Store a provider, in the place of one of the same name; the row's id."""
        known = next((one for one, _ in self.all(tenant) if one.name == name), None)
        document = msgspec.to_builtins(secret)
        row = await self._rows.keep(tenant, ToolProvider.kind, name, document, stored, id=known.id if known else "")
        await self._kept.put(tenant, _SCOPE, row, content)
        self._changes += 1
        self._read.pop((tenant, row), None)
        await self._replaced(tenant, row)
        return row

    async def remove(self, tenant: str, name: str) -> None:
        """Raises NotFoundError."""
        known, _ = self.find(tenant, name)
        await self._resources.remove(tenant, ToolProvider.kind, known.id)
        await self._kept.remove(tenant, _SCOPE, known.id)
        await self._directory.refresh()
        await self._replaced(tenant, known.id)

    async def _replaced(self, tenant: str, row: str) -> None:
        for listener in self._on_replaced:
            await listener(tenant, row)

    # what they offer

    async def api(self, tenant: str, row: str) -> Api:
        """What an API's description says. Raises as `content`."""
        found = await self.content(tenant, row, "api")
        return found if isinstance(found, Api) else Api(title="")

    async def listing(self, tenant: str, row: str) -> McpListing:
        """A server's tools as they were accepted. Raises as `content`."""
        found = await self.content(tenant, row, "mcp")
        return found if isinstance(found, McpListing) else McpListing(version="")

    async def content(self, tenant: str, row: str, kind: str) -> Api | McpListing:
        """What a provider offers. Raises NotFoundError, StorageUnavailableError."""
        key = (tenant, row)
        if (known := self._read.get(key)) is not None:
            self._read.move_to_end(key)
            return known
        changes_before = self._changes
        data = await self._kept.get(tenant, _SCOPE, row)
        if data is None:
            raise NotFoundError("what the provider offers is gone", code="tool_provider_not_found")
        made: Api | McpListing = msgspec.json.decode(data, type=Api if kind == "api" else McpListing)
        if self._changes == changes_before:
            self._remember(key, made)
        return made

    def _remember(self, key: tuple[str, str], made: Api | McpListing) -> None:
        self._read[key] = made
        if len(self._read) > _MOST_CACHED:
            self._read.popitem(last=False)


def check_name(name: str) -> None:
    """Raises InvokeBadRequestError."""
    if not _NAME.fullmatch(name):
        raise InvokeBadRequestError(
            f"{name[:60]!r} is no name of a tool provider: letters, digits, - and _, at most 64", param="name"
        )
