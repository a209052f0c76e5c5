"""Apps that tenants have: imported, found, listed, exported, removed; and the keys that their callers show."""

import asyncio
import hashlib
from collections import OrderedDict
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError, suggestion
from modelyard.base.ids import new_id
from modelyard.runtime import api_keys
from modelyard.runtime.tenancy import AppKey, Directory, Known, StoredApp
from modelyard.storage.resources import Resources
from modelyard.storage.secrets import KeyRing
from modelyard.workflow.dsl import App, AppMapping, dump, loads
from modelyard.workflow.journal import DatabaseJournal

_MOST_PARSED = 128


class FoundApp(msgspec.Struct, frozen=True):
    """An app by its id, its name, and what is stored of it."""

    tenant: str
    id: str
    name: str
    stored: StoredApp


class Apps:
    def __init__(self, resources: Resources, directory: Directory, journal: DatabaseJournal, keys: KeyRing) -> None:
        self._resources = resources
        self._directory = directory
        self._journal = journal
        self._keys = keys
        self._parsed: OrderedDict[tuple[str, str, str], App] = OrderedDict()

    # apps

    async def add(
        self, tenant: str, text: str, *, file: str = "", mapping: AppMapping | None = None, name: str = ""
    ) -> tuple[FoundApp, App, bool]:
        """(the app, what its file says, whether it took the place of one of that name). Raises DslError."""
        app = await asyncio.to_thread(loads, text, name=file, mapping=mapping)
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        await self._journal.keep_document(tenant, digest, text)
        known = next((one for one in self.all(tenant) if one.name == (name or app.name)), None)
        given = msgspec.to_builtins(mapping) if mapping is not None else (known.stored.mapping if known else {})
        stored = StoredApp(
            mode=app.mode, digest=digest, description=app.description, icon=app.icon if len(app.icon) < 200 else "",
            mapping=given,
        )  # fmt: skip
        body = msgspec.json.encode(stored).decode()
        if known is None:
            row = await asyncio.wrap_future(
                self._resources.add(tenant, StoredApp.kind, name or app.name, lambda _: body)
            )
        else:
            old = await asyncio.to_thread(self._resources.one, tenant, StoredApp.kind, known.id)
            row = await asyncio.wrap_future(self._resources.change(old, name=old.name, body=body))
        self._directory.refresh()
        return FoundApp(tenant, row.id, row.name, stored), app, known is not None

    def all(self, tenant: str) -> list[FoundApp]:
        found = self._directory.of(tenant, StoredApp)
        return sorted((FoundApp(tenant, one.id, one.name, stored) for one, stored in found), key=lambda one: one.name)

    def find(self, tenant: str, name: str) -> FoundApp:
        """By id or by name. Raises NotFoundError."""
        every = self.all(tenant)
        found = next((one for one in every if name in (one.id, one.name)), None)
        if found is None:
            hint = suggestion(name, [one.name for one in every], label="there are")
            raise NotFoundError(f"app {name[:80]!r} does not exist; {hint}", code="app_not_found")
        return found

    async def read(self, tenant: str, digest: str, mapping: dict[str, dict[str, str]] | None = None) -> App:
        """What an app's file says, by its digest. Raises NotFoundError."""
        given = mapping or {}
        key = (tenant, digest, msgspec.json.encode(given, order="sorted").decode())
        if (known := self._parsed.get(key)) is not None:
            self._parsed.move_to_end(key)
            return known
        text = await self._journal.document(tenant, digest)
        if text is None:
            raise NotFoundError("the app's file is gone", code="app_not_found")
        app = await asyncio.to_thread(loads, text, name="", mapping=msgspec.convert(given, AppMapping))
        self._parsed[key] = app
        if len(self._parsed) > _MOST_PARSED:
            self._parsed.popitem(last=False)
        return app

    def read_now(self, found: FoundApp) -> App:
        """The same where nobody can wait: for apps that are called as tools. Raises NotFoundError."""
        given = found.stored.mapping or {}
        key = (found.tenant, found.stored.digest, msgspec.json.encode(given, order="sorted").decode())
        if (known := self._parsed.get(key)) is not None:
            return known
        text = self._journal.document_now(found.tenant, found.stored.digest)
        if text is None:
            raise NotFoundError("the app's file is gone", code="app_not_found")
        app = self._parsed[key] = loads(text, name="", mapping=msgspec.convert(given, AppMapping))
        return app

    async def app(self, found: FoundApp) -> App:
        return await self.read(found.tenant, found.stored.digest, found.stored.mapping)

    async def export(self, found: FoundApp, *, with_secrets: bool = False) -> str:
        return dump(await self.app(found), with_secrets=with_secrets)

    async def remove(self, found: FoundApp) -> None:
        """The app and its keys; runs and conversations stay until their time is over."""
        for one, key in self._directory.of(found.tenant, AppKey):
            if key.app == found.id:
                await asyncio.wrap_future(self._resources.remove(found.tenant, AppKey.kind, one.id))
        await asyncio.wrap_future(self._resources.remove(found.tenant, StoredApp.kind, found.id))
        self._directory.refresh()

    # keys

    async def make_key(self, found: FoundApp) -> tuple[str, str]:
        """(id, key). The key is shown this once."""
        row, key = api_keys.mint_for("app")
        stored = AppKey(app=found.id, digest=self._keys.digest(key.encode()), hint=f"{key[:8]}…{key[-4:]}")
        body = msgspec.json.encode(stored).decode()
        adding = self._resources.add(found.tenant, AppKey.kind, new_id("appkey"), lambda _: body, id=row)
        await asyncio.wrap_future(adding)
        self._directory.refresh()
        return row, key

    def keys(self, found: FoundApp) -> list[tuple[Known, AppKey]]:
        return [(one, key) for one, key in self._directory.of(found.tenant, AppKey) if key.app == found.id]

    async def revoke_key(self, found: FoundApp, row: str) -> None:
        """Raises NotFoundError where the app has no such key."""
        if row not in {one.id for one, _ in self.keys(found)}:
            raise NotFoundError(f"key {row[:80]!r} does not exist", code="key_not_found")
        await asyncio.wrap_future(self._resources.remove(found.tenant, AppKey.kind, row))
        self._directory.refresh()

    def by_key(self, shown: str) -> FoundApp | None:
        """The app whose key this is; None where it is nobody's."""
        row = api_keys.id_for("app", shown)
        found: Any = self._directory.wherever(AppKey, row) if row else None
        if found is None:
            return None
        tenant, key = found
        if not self._keys.matches(shown.encode(), key.digest) or not self._directory.is_enabled(tenant):
            return None
        app = self._directory.one(tenant, StoredApp, key.app)
        if app is None or not app.is_enabled:
            return None
        name = next((one.name for one, _ in self._directory.of(tenant, StoredApp) if one.id == key.app), "")
        return FoundApp(tenant, key.app, name, app)
