"""What tool providers offer is read from where it is kept, and is never older than what was changed last."""

import asyncio
import json
from pathlib import Path

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.storage.scoped_store import ScopedStore
from modelyard.tools.providers import ToolProviders


class HeldKept(ScopedStore):
    """Hands a value over once it is let to; until then others may change it."""

    has_read: asyncio.Event | None = None
    may_go: asyncio.Event | None = None

    def hold(self) -> tuple[asyncio.Event, asyncio.Event]:
        """(set once somebody has read, to be set so that they get it)."""
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


def test_what_was_read_before_a_change_is_not_remembered_after_it(tmp_path: Path):
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


def test_what_is_read_is_remembered_until_it_changes(tmp_path: Path):
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
