"""Storage of the tool providers that tenants add: a resource row, its encrypted secret,
and the description of its tools."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError, suggestion
from modelyard.storage.resources import Resources
from modelyard.storage.scoped_store import ScopedStore
from modelyard.tenancy.directory import CachedResource, Directory
from modelyard.tenancy.resource_types import ToolProvider
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.tools.api import Auth
from modelyard.tools.openapi import Api

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SCOPE = "providers"
_MAX_CACHED = 64


class McpListing(msgspec.Struct, frozen=True, kw_only=True):
    """The tools of an MCP server as of its last listing."""

    version: str
    server: dict[str, Any] = {}
    instructions: str = ""
    tools: list[dict[str, Any]] = []


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a provider that is stored encrypted."""

    auth: Auth = Auth()
    headers: dict[str, str] = {}


OnReplaced = Callable[[str, str], Awaitable[None]]
"""Callback (tenant, row id): the provider was replaced or removed."""


class ProviderStore:
    """The rows of tool providers. Their descriptions are loaded on first use and cached
    until they change."""

    def __init__(
        self,
        resources: Resources,
        directory: Directory,
        rows: SealedRows,
        scoped_store: ScopedStore,
    ) -> None:
        self._resources = resources
        self._directory = directory
        self._rows = rows
        self._scoped_store = scoped_store
        self._content_cache: OrderedDict[tuple[str, str], Api | McpListing] = (
            OrderedDict()
        )
        self._generation = 0
        """Incremented whenever stored descriptions may have changed. A description that
        was loaded before is not cached after it."""
        self._on_replaced: list[OnReplaced] = []
        directory.on_change(self._invalidate)

    def on_replaced(self, listener: OnReplaced) -> None:
        """Register a callback that runs after a provider is replaced or removed."""
        self._on_replaced.append(listener)

    def _invalidate(self, touched: set[tuple[str, str]]) -> None:
        """Forget the cached descriptions of tenants whose tool providers have changed.

        `touched` are the changed (tenant, kind) pairs of the directory.
        """
        tenants = {
            tenant
            for tenant, resource_type in touched
            if resource_type == ToolProvider.kind
        }
        if tenants:
            # Incremented first, so that a load in progress does not cache a stale
            # description.
            self._generation += 1
        for key in [
            cached_key for cached_key in self._content_cache if cached_key[0] in tenants
        ]:
            del self._content_cache[key]

    # rows

    def all(self, tenant: str) -> list[tuple[CachedResource, ToolProvider]]:
        """Return all providers of a tenant, sorted by name."""
        return sorted(
            self._directory.of(tenant, ToolProvider), key=lambda pair: pair[0].name
        )

    def find(self, tenant: str, name: str) -> tuple[CachedResource, ToolProvider]:
        """Return a provider by id or name. Raises NotFoundError with a suggestion of
        similar names."""
        providers = self.all(tenant)
        provider_pair = next(
            (pair for pair in providers if name in (pair[0].id, pair[0].name)), None
        )
        if provider_pair is None:
            hint = suggestion(
                name, [resource.name for resource, _ in providers], label="available:"
            )
            raise NotFoundError(
                f"Tool provider {name[:80]!r} does not exist; {hint}",
                code="tool_provider_not_found",
            )
        return provider_pair

    def secret(self, tenant: str, row: str, provider_record: ToolProvider) -> Secret:
        """Decrypt and return a provider's secret; an empty one if none is stored.

        `row` is the provider's id. Raises SecretError if it cannot be decrypted.
        """
        if not provider_record.secret:
            return Secret()
        return msgspec.convert(
            self._rows.read(tenant, ToolProvider.kind, row, provider_record.secret),
            Secret,
        )

    async def save(
        self,
        tenant: str,
        name: str,
        provider_record: ToolProvider,
        secret: Secret,
        content: bytes,
    ) -> str:
        """Store a provider with its secret, and return the row's id.

        A provider of the same name is replaced and keeps its id. `content` is the
        encoded description of its tools; `secret` is stored encrypted. The listeners of
        `on_replaced` are called.
        """
        existing = next(
            (resource for resource, _ in self.all(tenant) if resource.name == name),
            None,
        )
        document = msgspec.to_builtins(secret)
        # Reusing the id of the replaced row keeps references to the provider valid.
        row = await self._rows.save(
            tenant,
            ToolProvider.kind,
            name,
            document,
            provider_record,
            id=existing.id if existing else "",
        )
        await self._scoped_store.put(tenant, _SCOPE, row, content)
        self._generation += 1
        self._content_cache.pop((tenant, row), None)
        await self._notify_replaced(tenant, row)
        return row

    async def remove(self, tenant: str, name: str) -> None:
        """Remove a provider and its stored description. Raises NotFoundError."""
        resource, _ = self.find(tenant, name)
        await self._resources.remove(tenant, ToolProvider.kind, resource.id)
        await self._scoped_store.remove(tenant, _SCOPE, resource.id)
        await self._directory.refresh()
        await self._notify_replaced(tenant, resource.id)

    async def _notify_replaced(self, tenant: str, row: str) -> None:
        """Tell all listeners that a provider has changed."""
        for listener in self._on_replaced:
            await listener(tenant, row)

    # stored descriptions

    async def api(self, tenant: str, row: str) -> Api:
        """Return an API provider's description. Raises like `content`."""
        content = await self.content(tenant, row, "api")
        return content if isinstance(content, Api) else Api(title="")

    async def listing(self, tenant: str, row: str) -> McpListing:
        """Return the accepted tools of an MCP server. Raises like `content`."""
        content = await self.content(tenant, row, "mcp")
        return content if isinstance(content, McpListing) else McpListing(version="")

    async def content(
        self, tenant: str, row: str, provider_type: str
    ) -> Api | McpListing:
        """Return a provider's description, from the cache if possible.

        Raises NotFoundError, StorageUnavailableError.
        """
        key = (tenant, row)
        if (cached := self._content_cache.get(key)) is not None:
            self._content_cache.move_to_end(key)
            return cached
        # The counter is compared after the read: a change in between makes this result
        # stale.
        changes_before = self._generation
        data = await self._scoped_store.get(tenant, _SCOPE, row)
        # Another process may have removed the provider between the two reads.
        if data is None:
            raise NotFoundError(
                "The provider's stored description was not found",
                code="tool_provider_not_found",
            )
        decoded: Api | McpListing = msgspec.json.decode(
            data, type=Api if provider_type == "api" else McpListing
        )
        if self._generation == changes_before:
            self._cache(key, decoded)
        return decoded

    def _cache(self, key: tuple[str, str], content: Api | McpListing) -> None:
        """Cache a provider's description.

        The least recently used one leaves a full cache.
        """
        self._content_cache[key] = content
        # The dictionary is ordered by last use, so the first item is the least recently
        # used.
        if len(self._content_cache) > _MAX_CACHED:
            self._content_cache.popitem(last=False)


def check_name(name: str) -> None:
    """Raise InvokeBadRequestError unless the name is valid for a tool provider."""
    if not _NAME.fullmatch(name):
        raise InvokeBadRequestError(
            f"Invalid tool provider name {name[:60]!r}; expected at most 64 letters,"
            " digits, '-' and '_', starting with a letter or a digit",
            param="name",
        )
