"""The apps of tenants: import, look-up, versions, export, deletion, and the keys of
their callers."""

import secrets as random_tokens
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base import cpu_work
from modelyard.base.errors import (
    InvokeBadRequestError,
    ModelyardError,
    NotFoundError,
    suggestion,
)
from modelyard.base.ids import new_id
from modelyard.storage.resources import Resources
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy import api_keys
from modelyard.tenancy.directory import CachedResource, Directory
from modelyard.tenancy.resource_types import (
    AppKey,
    AppVersion,
    ChatPage,
    StoredApp,
    TraceDestination,
)
from modelyard.workflow.app_appearance import (
    app_with_appearance,
    appearance_from_file,
    appearance_of,
    merge_appearance,
)
from modelyard.workflow.app_secrets import (
    store_file,
    store_with_secrets,
    with_secret_values,
)
from modelyard.workflow.dsl import (
    App,
    AppMapping,
    DslError,
    Problem,
    dump,
    dump_with_environment,
    loads,
)
from modelyard.workflow.journal import DatabaseJournal
from modelyard.workflow.trigger_nodes import (
    schedule_problems,
    triggers_of,
    webhooks_of,
)

# A parsed app is large, so only those in use are kept in memory.
_MAX_CACHED_APPS = 128
# All versions are in one row, which is read and written as a unit.
_MAX_VERSIONS = 200


class NotPublishedError(InvokeBadRequestError):
    """The app has only a draft and cannot be called."""

    code = "app_unavailable"


class DraftChangedError(ModelyardError):
    """The draft was changed by someone else in the meantime."""

    code = "draft_changed"


class AppRecord(msgspec.Struct, frozen=True):
    """An app's id, its name, and its stored record."""

    tenant: str
    id: str
    name: str
    stored: StoredApp


class Apps:
    """Stores, versions and finds apps."""

    def __init__(
        self,
        resources: Resources,
        directory: Directory,
        journal: DatabaseJournal,
        keys: KeyRing,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._apps_by_page_token: dict[str, AppRecord] = {}
        self._pages_revision = -1
        self._resources = resources
        self._directory = directory
        self._documents = journal.documents
        self._keys = keys
        self._parsed: OrderedDict[tuple[str, str, str], App] = OrderedDict()

    # Import

    async def add(
        self,
        tenant: str,
        text: str,
        *,
        file: str = "",
        mapping: AppMapping | None = None,
        name: str = "",
        publishes: bool = True,
        note: str = "",
        keeps_appearance: bool = False,
        secrets: Mapping[str, str] | None = None,
    ) -> tuple[AppRecord, App, bool]:
        """Import an app file. Returns the app, its parsed file, and whether it replaced
        an app of that name.

        With `publishes` callers get the new version at once; otherwise it becomes a
        draft and callers keep the old one. Secrets that the file does not contain keep
        their values; `secrets` sets some by the names of their variables. With
        `keeps_appearance`, description and icon of an existing app change only if the
        new file differs in them from the previous one. Raises DslError, also if an app
        of another kind has the name, and if a schedule that would be published never
        starts a run, and InvokeBadRequestError for a secret that the app does not have.
        """
        # Parsing is expensive, so it runs outside of the event loop.
        app = await cpu_work.run_in_thread(loads, text, name=file, mapping=mapping)
        existing_app = _named(self.list_all(tenant), name or app.name)
        if existing_app is not None:
            _check_same_kind(existing_app, app)
            app, text = await self._with_previous_secrets(existing_app, app, text)
        if secrets:
            app, text = await cpu_work.run_in_thread(with_secret_values, app, secrets)
        # A draft may have such schedules: only a published version is started by them.
        if publishes and (problems := schedule_problems(app)):
            raise DslError(
                [Problem(message=_unpublishable(problems), file=app.file or file)]
            )
        # The file is stored before the record refers to it.
        digest = await store_file(self._documents, tenant, app, text)
        # Fields that the file does not determine, as keys and triggers, are preserved.
        previous = (
            existing_app.stored
            if existing_app is not None
            else StoredApp(mode=app.mode, digest="")
        )
        stored_app = msgspec.structs.replace(
            previous,
            mode=app.mode,
            draft=digest,
            mapping=msgspec.to_builtins(mapping)
            if mapping is not None
            else previous.mapping,
        )
        previous_app = (
            await self._readable_draft(existing_app)
            if existing_app is not None and keeps_appearance
            else None
        )
        stored_app = (
            merge_appearance(stored_app, previous_app, app)
            if previous_app is not None
            else appearance_from_file(stored_app, app)
        )
        stored_app = msgspec.structs.replace(
            stored_app,
            webhooks=webhooks_of(app, stored_app.triggers, stored_app.webhooks),
        )
        if publishes:
            stored_app = self._with_published_draft(stored_app, app, "", note)
        if existing_app is not None:
            return await self.save(existing_app, stored_app), app, True
        body = msgspec.json.encode(stored_app).decode()
        row = await self._resources.add(
            tenant, StoredApp.kind, name or app.name, lambda _: body
        )
        # Look-ups use the directory's copy in memory, so it is refreshed before
        # returning.
        await self._directory.refresh()
        return AppRecord(tenant, row.id, row.name, stored_app), app, False

    async def set_secrets(
        self, app_record: AppRecord, values: Mapping[str, str]
    ) -> AppRecord:
        """Set secret variables of an app, in the published version and in the draft.

        The published version is published again at once, so that the next run has the
        values. Raises InvokeBadRequestError for a name that the app does not have.
        """
        stored = app_record.stored
        if stored.digest:
            app = await self.published_app(app_record)
            app, digest = await store_with_secrets(
                self._documents, app_record.tenant, app, values
            )
            # A draft that exists stays one.
            changed = msgspec.structs.replace(stored, draft=digest)
            changed = self._with_published_draft(changed, app, "", "Secrets set")
            stored = msgspec.structs.replace(changed, draft=stored.draft)
        if stored.draft:
            app = await self.draft(app_record)
            names = {variable.name for variable in app.environment}
            # The draft may have dropped a variable that the published version has.
            draft_values = {
                name: value
                for name, value in values.items()
                if name in names or not stored.digest
            }
            _, digest = await store_with_secrets(
                self._documents, app_record.tenant, app, draft_values
            )
            stored = msgspec.structs.replace(stored, draft=digest)
        return await self.save(app_record, stored)

    async def _with_previous_secrets(
        self, existing_app: AppRecord, app: App, text: str
    ) -> tuple[App, str]:
        """Return an app and its file with the secrets of the app that it replaces, where
        the file has none: exports leave them out."""
        missing = app.missing_secrets
        if not missing:
            return app, text
        previous = await self._readable_draft(existing_app)
        # A stored file that cannot be read has no secrets to keep.
        if previous is None:
            return app, text
        values = {
            variable.name: variable.value
            for variable in previous.environment
            if variable.name in missing and variable.value
        }
        if not values:
            return app, text
        text = dump_with_environment(app, values)
        app = await cpu_work.run_in_thread(
            loads, text, name=app.file, mapping=app.mapping
        )
        return app, text

    async def save(
        self, app_record: AppRecord, stored_app: StoredApp, *, name: str = ""
    ) -> AppRecord:
        """Store an app's changed record, and its new name if one is given. Returns the
        app with it.

        Raises NotFoundError if the app was deleted, InvokeBadRequestError if the name
        is in use.
        """
        old = await self._resources.get(
            app_record.tenant, StoredApp.kind, app_record.id
        )
        body = msgspec.json.encode(stored_app).decode()
        changed = await self._resources.change(old, name=name or old.name, body=body)
        await self._directory.refresh()
        return AppRecord(app_record.tenant, app_record.id, changed.name, stored_app)

    # Versions

    def _with_published_draft(
        self, stored_app: StoredApp, draft: App, name: str, note: str
    ) -> StoredApp:
        """Return the record with its draft published as a new version."""
        version = AppVersion(
            digest=stored_app.draft,
            at=self._clock(),
            name=name[:100],
            note=note[:1000],
        )
        # A version that is published again moves to the end; the oldest ones are
        # dropped.
        versions = [
            previous_version
            for previous_version in stored_app.versions
            if previous_version.digest != stored_app.draft
        ][1 - _MAX_VERSIONS :]
        triggers = triggers_of(draft)
        return msgspec.structs.replace(
            stored_app,
            digest=stored_app.draft,
            draft="",
            versions=[*versions, version],
            triggers=triggers,
            webhooks=webhooks_of(draft, triggers, stored_app.webhooks),
        )

    async def publish(
        self, app_record: AppRecord, *, name: str = "", note: str = ""
    ) -> AppRecord:
        """Publish the draft. Runs that have started continue with the version they
        started with.

        Raises InvokeBadRequestError if there is no draft, or if one of its schedules
        never starts a run.
        """
        if not app_record.stored.draft:
            raise InvokeBadRequestError(
                f"App {app_record.name!r} has no draft; the current version is published"
            )
        draft = await self.draft(app_record)
        if problems := schedule_problems(draft):
            raise InvokeBadRequestError(_unpublishable(problems))
        return await self.save(
            app_record,
            self._with_published_draft(app_record.stored, draft, name, note),
        )

    async def restore(self, app_record: AppRecord, version: str) -> AppRecord:
        """Make a published version the draft again, and return the app.

        `version` is its name, or the start of its digest. Restoring the version in use
        only discards the draft. Raises NotFoundError.
        """
        restored_version = self.version(app_record, version)
        # Restoring the published version just discards the draft.
        draft = (
            ""
            if restored_version.digest == app_record.stored.digest
            else restored_version.digest
        )
        app = await self.load_version(
            app_record.tenant,
            restored_version.digest,
            app_record.stored.mapping,
        )
        webhooks = webhooks_of(
            app,
            app_record.stored.triggers,
            app_record.stored.webhooks,
        )
        return await self.save(
            app_record,
            msgspec.structs.replace(app_record.stored, draft=draft, webhooks=webhooks),
        )

    def version(self, app_record: AppRecord, name_or_digest: str) -> AppVersion:
        """Return a version by its name or the start of its digest, at least eight
        characters. Raises NotFoundError."""
        # Names may repeat: the newest version wins.
        for app_version in reversed(app_record.stored.versions):
            if name_or_digest and (
                app_version.name == name_or_digest
                or (
                    len(name_or_digest) >= 8
                    and app_version.digest.startswith(name_or_digest)
                )
            ):
                return app_version
        names = [
            app_version.name or app_version.digest[:8]
            for app_version in app_record.stored.versions
        ]
        hint = suggestion(name_or_digest, names, label="published versions:")
        raise NotFoundError(
            f"App {app_record.name!r} has no version {name_or_digest[:80]!r}; {hint}",
            code="version_not_found",
        )

    @staticmethod
    def get_version(app_record: AppRecord, digest: str) -> AppRecord:
        """Return the app's record as of one of its versions, for runs of that version."""
        return AppRecord(
            app_record.tenant,
            app_record.id,
            app_record.name,
            msgspec.structs.replace(app_record.stored, digest=digest),
        )

    async def draft(self, app_record: AppRecord) -> App:
        """Return the parsed draft; without a draft the published version."""
        return await self.load_version(
            app_record.tenant,
            app_record.stored.draft or app_record.stored.digest,
            app_record.stored.mapping,
        )

    async def _readable_draft(self, app_record: AppRecord) -> App | None:
        """Return the parsed draft like `draft`, or None if it cannot be read: a new file
        must be able to replace it."""
        try:
            return await self.draft(app_record)
        except ModelyardError:
            return None

    # Pages

    async def set_page(
        self, app_record: AppRecord, *, is_on: bool, origins: list[str] | None = None
    ) -> AppRecord:
        """Enable or disable the app's public chat page. Its address stays the same."""
        page = app_record.stored.page
        # The token is kept when the page is disabled, so that links work again later.
        page = ChatPage(
            token=page.token or random_tokens.token_urlsafe(16),
            is_on=is_on,
            origins=page.origins if origins is None else origins,
        )
        return await self.save(
            app_record, msgspec.structs.replace(app_record.stored, page=page)
        )

    def get_by_page_token(self, token: str) -> AppRecord | None:
        """Return the app of a page token, in any tenant; None if no enabled page has
        it."""
        # The token table is rebuilt only after the directory has changed.
        if self._pages_revision != self._directory.changes:
            self._pages_revision = self._directory.changes
            self._apps_by_page_token = {
                stored_app.page.token: AppRecord(
                    tenant, resource.id, resource.name, stored_app
                )
                for tenant, resource, stored_app in self._directory.list_all_tenants(
                    StoredApp
                )
                if stored_app.page.is_on and stored_app.is_enabled and stored_app.digest
            }
        app_record = self._apps_by_page_token.get(token)
        return (
            app_record
            if app_record is not None and self._directory.is_enabled(app_record.tenant)
            else None
        )

    def list_all(self, tenant: str) -> list[AppRecord]:
        """Return all apps of a tenant, ordered by name."""
        app_records = [
            AppRecord(tenant, resource.id, resource.name, stored_app)
            for resource, stored_app in self._directory.of(tenant, StoredApp)
        ]
        return sorted(app_records, key=lambda app_record: app_record.name)

    def get_by_id_or_name(self, tenant: str, name: str) -> AppRecord:
        """Return an app by id or name. Raises NotFoundError with similar names."""
        apps = self.list_all(tenant)
        app_record = next(
            (candidate for candidate in apps if name in (candidate.id, candidate.name)),
            None,
        )
        if app_record is None:
            hint = suggestion(
                name, [candidate.name for candidate in apps], label="existing apps:"
            )
            raise NotFoundError(
                f"App {name[:80]!r} does not exist; {hint}", code="app_not_found"
            )
        return app_record

    async def load_version(
        self, tenant: str, digest: str, mapping: dict[str, dict[str, str]] | None = None
    ) -> App:
        """Return a parsed app file by its digest, from the cache if possible. Raises
        NotFoundError."""
        mapping_values = mapping or {}
        # The mapping affects the parsed app, so it is part of the key.
        key = (
            tenant,
            digest,
            msgspec.json.encode(mapping_values, order="sorted").decode(),
        )
        if (cached_app := self._parsed.get(key)) is not None:
            self._parsed.move_to_end(key)
            return cached_app
        text = await self._documents.find(tenant, digest)
        if text is None:
            raise NotFoundError("The app's file was deleted", code="app_not_found")
        app = await cpu_work.run_in_thread(
            loads,
            text,
            name="",
            mapping=msgspec.convert(mapping_values, AppMapping),
        )
        self._parsed[key] = app
        if len(self._parsed) > _MAX_CACHED_APPS:
            self._parsed.popitem(last=False)
        return app

    async def published_app(self, app_record: AppRecord) -> App:
        """Return the parsed published version. Raises NotPublishedError."""
        stored = app_record.stored
        if not stored.digest:
            problem = f"App {app_record.name!r} is a draft and was never published"
            raise NotPublishedError(problem)
        return await self.load_version(app_record.tenant, stored.digest, stored.mapping)

    async def export(
        self,
        app_record: AppRecord,
        *,
        with_secrets: bool = False,
        is_draft: bool = True,
    ) -> str:
        """Return the app as a YAML file.

        It is the draft, if there is one, or with `is_draft=False` the published
        version. Values of secret variables are empty unless `with_secrets` is set.
        Raises NotPublishedError if the published version is asked for and there is
        none.
        """
        app = await (
            self.draft(app_record) if is_draft else self.published_app(app_record)
        )
        appearance = appearance_of(app_record.name, app_record.stored, app)
        return dump(app_with_appearance(app, appearance), with_secrets=with_secrets)

    async def enable(self, app_record: AppRecord, *, is_on: bool) -> AppRecord:
        """Allow or refuse calls of the app, by keys and by its page."""
        return await self.save(
            app_record, msgspec.structs.replace(app_record.stored, is_enabled=is_on)
        )

    async def remove(self, app_record: AppRecord) -> None:
        """Delete the app, its keys and its trace destinations. Runs and conversations
        stay until their retention ends."""
        tenant, app_id = app_record.tenant, app_record.id
        # Delete what belongs to it first: without an app it would be unreachable.
        for owned_class in (AppKey, TraceDestination):
            for resource, owned in self._directory.of(tenant, owned_class):
                if owned.app == app_id:
                    await self._resources.remove(tenant, owned_class.kind, resource.id)
        await self._resources.remove(tenant, StoredApp.kind, app_id)
        await self._directory.refresh()

    # Keys

    async def make_key(
        self, app_record: AppRecord, *, speaks_for_users: bool = False
    ) -> tuple[str, str]:
        """Create an API key of the app. Returns its id and the key, which cannot be
        read again.

        With `speaks_for_users` its caller may name the user on whose behalf a run reads
        documents: whoever creates such a key must be an administrator.
        """
        row, key = api_keys.generate_resource_key("app")
        # Only a digest is stored, and a hint for people.
        app_key = AppKey(
            app=app_record.id,
            digest=self._keys.digest(key.encode()),
            hint=f"{key[:8]}…{key[-4:]}",
            speaks_for_users=speaks_for_users,
        )
        body = msgspec.json.encode(app_key).decode()
        await self._resources.add(
            app_record.tenant,
            AppKey.kind,
            new_id("appkey"),
            lambda _: body,
            id=row,
        )
        await self._directory.refresh()
        return row, key

    def keys(self, app_record: AppRecord) -> list[tuple[CachedResource, AppKey]]:
        """Return the app's keys, each with its resource."""
        return [
            (resource, key)
            for resource, key in self._directory.of(app_record.tenant, AppKey)
            if key.app == app_record.id
        ]

    async def revoke_key(self, app_record: AppRecord, row: str) -> None:
        """Delete a key of the app. Raises NotFoundError if the app has no such key."""
        if row not in {resource.id for resource, _ in self.keys(app_record)}:
            raise NotFoundError(
                f"Key {row[:80]!r} does not exist", code="key_not_found"
            )
        await self._resources.remove(app_record.tenant, AppKey.kind, row)
        await self._directory.refresh()

    def get_by_key(self, presented_key: str) -> tuple[AppRecord, AppKey] | None:
        """Return the app of an API key with the key's rights; None if the key is
        invalid, or its tenant or app disabled."""
        row = api_keys.id_for("app", presented_key)
        key_entry: Any = self._directory.get_any_tenant(AppKey, row) if row else None
        if key_entry is None:
            return None
        tenant, key = key_entry
        # The id in the key only finds the row; the digest proves the key.
        if not self._keys.matches(
            presented_key.encode(), key.digest
        ) or not self._directory.is_enabled(tenant):
            return None
        app = self._directory.one(tenant, StoredApp, key.app)
        if app is None or not app.is_enabled:
            return None
        name = next(
            (
                resource.name
                for resource, _ in self._directory.of(tenant, StoredApp)
                if resource.id == key.app
            ),
            "",
        )
        return AppRecord(tenant, key.app, name, app), key


def _check_same_kind(existing_app: AppRecord, app: App) -> None:
    """Raise DslError if an import would replace an app of another kind, whose callers
    could then not call it any more."""
    mode = existing_app.stored.mode
    if mode and mode != app.mode:
        raise DslError(
            [
                Problem(
                    message=(
                        f"An app named {existing_app.name!r} exists and is of the kind"
                        f" {mode}, not {app.mode}; import the file under another name"
                    ),
                    file=app.file,
                )
            ]
        )


def _unpublishable(problems: Sequence[str]) -> str:
    """Return the message about schedules that never start a run."""
    return (
        f"The app cannot be published: {'; '.join(problems)}. Correct the schedule, or"
        " import the file as a draft"
    )


def _named(app_records: Iterable[AppRecord], name: str) -> AppRecord | None:
    """Return the app of this name; None if there is none."""
    named = (app_record for app_record in app_records if app_record.name == name)
    return next(named, None)
