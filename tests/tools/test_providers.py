"""Tests for cached tool descriptions: none is older than the last change."""

import asyncio
import json
from pathlib import Path

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.storage.scoped_store import ScopedStore
from modelyard.tools.providers import ToolProviders


class HeldKept(ScopedStore):
    """A store whose reads can be held back, while others change the value."""

    has_read: asyncio.Event | None = None
    may_go: asyncio.Event | None = None

    def hold(self) -> tuple[asyncio.Event, asyncio.Event]:
        """Return (event set after the read, event to set to release it)."""
        self.has_read, self.may_go = asyncio.Event(), asyncio.Event()
        return self.has_read, self.may_go

    async def get(self, tenant: str, scope: str, name: str) -> bytes | None:
        value = await super().get(tenant, scope, name)
        if self.has_read is not None and self.may_go is not None:
            self.has_read.set()
            await self.may_go.wait()
        return value


def described(summary: str) -> str:
    operation = {"operationId": "look", "summary": summary, "responses": {}}
    return json.dumps({
        "openapi": "3.0.0", "info": {"title": "Looking", "version": "1"}, "paths": {"/look": {"get": operation}},
        "servers": [{"url": "http://looking.example"}],
    })  # fmt: skip


def test_a_value_read_before_a_change_is_not_cached(tmp_path: Path):
    async def work() -> None:
        async with Modelyard(Settings(home=str(tmp_path)), environ={}) as yard:
            held_store = HeldKept(yard.services.storage.database, yard.services.clock)
            providers = ToolProviders(
                yard.services.storage.resources,
                yard.services.tenancy.directory,
                yard.services.plugins.rows,
                held_store,
                yard.services.network.egress,
            )
            row, _ = await providers.add_api(
                "default", "looking", described("Looks near.")
            )
            has_read, may_go = held_store.hold()
            reading = asyncio.ensure_future(providers.store.api("default", row))
            await has_read.wait()
            await providers.add_api("default", "looking", described("Looks far."))
            may_go.set()
            assert (await reading).operations[0].description == "Looks near.", (
                "it was asked before the change"
            )
            (tool,) = await providers.apis().tools("default")
            assert tool.description == "Looks far."
            assert (
                await providers.apis().find("default", "looking", "look")
            ).entity.description == "Looks far."

    asyncio.run(work())


def test_a_value_is_cached_until_it_changes(tmp_path: Path):
    async def work() -> None:
        async with Modelyard(Settings(home=str(tmp_path)), environ={}) as yard:
            providers = yard.services.tools.providers
            row, _ = await providers.add_api(
                "default", "looking", described("Looks near.")
            )
            first = await providers.store.api("default", row)
            assert await providers.store.api("default", row) is first
            await providers.add_api("default", "looking", described("Looks far."))
            assert (await providers.store.api("default", row)).operations[
                0
            ].description == "Looks far."

    asyncio.run(work())
