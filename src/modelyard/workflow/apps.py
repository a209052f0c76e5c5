"""Apps that tenants have: imported, found, listed, exported, removed; and the keys that their callers show."""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from modelyard.base import computing
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError, suggestion
from modelyard.base.ids import new_id
from modelyard.storage.resources import Resources
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy import api_keys
from modelyard.tenancy.directory import Directory, Known
from modelyard.tenancy.kinds import AppKey, AppVersion, ChatPage, StoredApp
from modelyard.workflow.dsl import App, AppMapping, dump, loads
from modelyard.workflow.journal import DatabaseJournal
from modelyard.workflow.trigger_nodes import triggers_of, webhooks_of

_MOST_PARSED = 128
_MOST_VERSIONS = 200


class NotPublishedError(InvokeBadRequestError):
    """An app that has a draft alone cannot be called."""

    code = "app_unavailable"


class DraftChangedError(ModelyardError):
    """Somebody else has changed the draft meanwhile."""

    code = "draft_changed"


class FoundApp(msgspec.Struct, frozen=True):
    """An app by its id, its name, and what is stored of it."""

    tenant: str
    id: str
    name: str
    stored: StoredApp


class Apps:
    def __init__(
        self, resources: Resources, directory: Directory, journal: DatabaseJournal, keys: KeyRing,
        now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._now = now
        self._pages: dict[str, FoundApp] = {}
        self._pages_at = -1
        self._resources = resources
        self._directory = directory
        self._documents = journal.documents
        self._keys = keys
        self._parsed: OrderedDict[tuple[str, str, str], App] = OrderedDict()

    # apps

    async def add(
        self, tenant: str, text: str, *, file: str = "", mapping: AppMapping | None = None, name: str = "",
        publishes: bool = True, note: str = "",
    ) -> tuple[FoundApp, App, bool]:  # fmt: skip
        """(the app, what its file says, whether it took the place of one of that name). Raises DslError.

        With `publishes` callers get it at once; else it is a draft, and callers get what they got before.
        """
        app = await computing.apart(loads, text, name=file, mapping=mapping)
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        await self._documents.keep(tenant, digest, text)
        known = next((one for one in self.all(tenant) if one.name == (name or app.name)), None)
        before = known.stored if known is not None else StoredApp(mode=app.mode, digest="")
        stored = msgspec.structs.replace(
            before, mode=app.mode, draft=digest, description=app.description,
            icon=app.icon if len(app.icon) < 200 else "",
            mapping=msgspec.to_builtins(mapping) if mapping is not None else before.mapping,
        )  # fmt: skip
        stored = msgspec.structs.replace(stored, webhooks=webhooks_of(app, stored.triggers, stored.webhooks))
        if publishes:
            stored = self._published(stored, app, "", note)
        if known is not None:
            return await self._keep(known, stored), app, True
        body = msgspec.json.encode(stored).decode()
        row = await self._resources.add(tenant, StoredApp.kind, name or app.name, lambda _: body)
        await self._directory.refresh()
        return FoundApp(tenant, row.id, row.name, stored), app, False

    async def _keep(self, found: FoundApp, stored: StoredApp) -> FoundApp:
        old = await self._resources.one(found.tenant, StoredApp.kind, found.id)
        body = msgspec.json.encode(stored).decode()
        await self._resources.change(old, name=old.name, body=body)
        await self._directory.refresh()
        return FoundApp(found.tenant, found.id, found.name, stored)

    # versions

    def _published(self, stored: StoredApp, draft: App, name: str, note: str) -> StoredApp:
        """With its draft in the place of what was published."""
        version = AppVersion(digest=stored.draft, at=self._now(), name=name[:100], note=note[:1000])
        versions = [one for one in stored.versions if one.digest != stored.draft][1 - _MOST_VERSIONS :]
        triggers = triggers_of(draft)
        return msgspec.structs.replace(
            stored, digest=stored.draft, draft="", versions=[*versions, version], triggers=triggers,
            webhooks=webhooks_of(draft, triggers, stored.webhooks),
        )  # fmt: skip

    async def publish(self, found: FoundApp, *, name: str = "", note: str = "") -> FoundApp:
        """Callers get the draft from now on; runs that have begun go on with what they began with.

        Raises InvokeBadRequestError where there is no draft.
        """
        if not found.stored.draft:
            raise InvokeBadRequestError(f"app {found.name!r} has no draft: all of it is published")
        return await self._keep(found, self._published(found.stored, await self.draft(found), name, note))

    async def restore(self, found: FoundApp, version: str) -> FoundApp:
        """What was published once is the draft again. `version`: its digest's beginning, or its name."""
        one = self.version(found, version)
        draft = "" if one.digest == found.stored.digest else one.digest
        app = await self.read(found.tenant, one.digest, found.stored.mapping)
        webhooks = webhooks_of(app, found.stored.triggers, found.stored.webhooks)
        return await self._keep(found, msgspec.structs.replace(found.stored, draft=draft, webhooks=webhooks))

    def version(self, found: FoundApp, wanted: str) -> AppVersion:
        """By its digest's beginning, eight signs at least, or by its name. Raises NotFoundError."""
        for one in reversed(found.stored.versions):
            if wanted and (one.name == wanted or (len(wanted) >= 8 and one.digest.startswith(wanted))):
                return one
        names = [one.name or one.digest[:8] for one in found.stored.versions]
        hint = suggestion(wanted, names, label="there are")
        raise NotFoundError(f"app {found.name!r} has no version {wanted[:80]!r}; {hint}", code="version_not_found")

    @staticmethod
    def at(found: FoundApp, digest: str) -> FoundApp:
        """The app as it is in one of its versions: for runs of that version."""
        return FoundApp(found.tenant, found.id, found.name, msgspec.structs.replace(found.stored, digest=digest))

    async def draft(self, found: FoundApp) -> App:
        """What waits to be published, or what is published where nothing does."""
        return await self.read(found.tenant, found.stored.draft or found.stored.digest, found.stored.mapping)

    # pages

    async def set_page(self, found: FoundApp, *, is_on: bool, origins: list[str] | None = None) -> FoundApp:
        """Let people use the app on a page of its own, or no longer. The address stays the same."""
        page = found.stored.page
        page = ChatPage(
            token=page.token or secrets.token_urlsafe(16), is_on=is_on,
            origins=page.origins if origins is None else origins,
        )  # fmt: skip
        return await self._keep(found, msgspec.structs.replace(found.stored, page=page))

    def by_page(self, token: str) -> FoundApp | None:
        """The app whose page this is, wherever it is; None where nobody's page is on."""
        if self._pages_at != self._directory.changes:
            self._pages_at = self._directory.changes
            self._pages = {
                stored.page.token: FoundApp(tenant, one.id, one.name, stored)
                for tenant, one, stored in self._directory.everywhere(StoredApp)
                if stored.page.is_on and stored.is_enabled and stored.digest
            }
        found = self._pages.get(token)
        return found if found is not None and self._directory.is_enabled(found.tenant) else None

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
        text = await self._documents.find(tenant, digest)
        if text is None:
            raise NotFoundError("the app's file is gone", code="app_not_found")
        app = await computing.apart(loads, text, name="", mapping=msgspec.convert(given, AppMapping))
        self._parsed[key] = app
        if len(self._parsed) > _MOST_PARSED:
            self._parsed.popitem(last=False)
        return app

    async def app(self, found: FoundApp) -> App:
        """What is published. Raises NotPublishedError."""
        if not found.stored.digest:
            raise NotPublishedError(f"app {found.name!r} is a draft: it was never published")
        return await self.read(found.tenant, found.stored.digest, found.stored.mapping)

    async def export(self, found: FoundApp, *, with_secrets: bool = False, is_draft: bool = True) -> str:
        """As a file: what is worked on, or, without `is_draft`, what is published."""
        app = await (self.draft(found) if is_draft else self.app(found))
        return dump(app, with_secrets=with_secrets)

    async def enable(self, found: FoundApp, *, is_on: bool) -> FoundApp:
        """Let callers in, or keep them out, keys and page and all."""
        return await self._keep(found, msgspec.structs.replace(found.stored, is_enabled=is_on))

    async def remove(self, found: FoundApp) -> None:
        """The app and its keys; runs and conversations stay until their time is over."""
        for one, key in self._directory.of(found.tenant, AppKey):
            if key.app == found.id:
                await self._resources.remove(found.tenant, AppKey.kind, one.id)
        await self._resources.remove(found.tenant, StoredApp.kind, found.id)
        await self._directory.refresh()

    # keys

    async def make_key(self, found: FoundApp) -> tuple[str, str]:
        """(id, key). The key is shown this once."""
        row, key = api_keys.mint_for("app")
        stored = AppKey(app=found.id, digest=self._keys.digest(key.encode()), hint=f"{key[:8]}…{key[-4:]}")
        body = msgspec.json.encode(stored).decode()
        await self._resources.add(found.tenant, AppKey.kind, new_id("appkey"), lambda _: body, id=row)
        await self._directory.refresh()
        return row, key

    def keys(self, found: FoundApp) -> list[tuple[Known, AppKey]]:
        return [(one, key) for one, key in self._directory.of(found.tenant, AppKey) if key.app == found.id]

    async def revoke_key(self, found: FoundApp, row: str) -> None:
        """Raises NotFoundError where the app has no such key."""
        if row not in {one.id for one, _ in self.keys(found)}:
            raise NotFoundError(f"key {row[:80]!r} does not exist", code="key_not_found")
        await self._resources.remove(found.tenant, AppKey.kind, row)
        await self._directory.refresh()

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
