"""The sources of datasets: added with their settings and credentials, listed, changed,
removed, and synchronised by schedule or on request.

Credentials are encrypted with the id of their row. They are never returned: a mask
stands for each, and a mask that is sent back keeps the value.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.knowledge.connectors.base import Source, parse_rules
from modelyard.knowledge.connectors.types import Opening, connector_type
from modelyard.knowledge.connectors.web import WebAccess
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.rows import ConflictError
from modelyard.knowledge.stored.dataset_sources import (
    LEASE_SECONDS,
    StoredSource,
    StoredSources,
)
from modelyard.storage.secrets import KeyRing
from modelyard.transport.egress import EgressClient

MASK = "********"
_SECRET_TYPE = "dataset_source"  # noqa: S105
_MAX_NAME_LENGTH = 100
_MAX_SOURCES = 50
"""Sources of one dataset."""
_STOP_POLL_SECONDS = 0.1

NextTime = Callable[[str, str, float], float | None]
"""(cron expression, time zone, time in seconds since 1970) → the next time of the
schedule. Raises InvokeBadRequestError for an invalid schedule."""
Removal = Literal["keep", "delete"]


class SourceDefinition(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A source as its administrator describes it."""

    name: str
    connector: str
    settings: dict[str, Any] = {}
    credentials: dict[str, Any] = {}
    access: list[str] = []
    """Who may read its documents, as PREFIX=user:NAME,group:NAME."""
    schedule: str = ""
    """Cron expression of its synchronisations; empty for requests alone."""
    timezone: str = "UTC"
    enabled: bool = True


class SourceChange(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Changed fields of a source; what is left out stays."""

    name: str | None = None
    settings: dict[str, Any] | None = None
    credentials: dict[str, Any] | None = None
    access: list[str] | None = None
    schedule: str | None = None
    timezone: str | None = None
    enabled: bool | None = None


class DatasetSources:
    """Stores the sources of datasets and opens them."""

    def __init__(
        self,
        store: StoredSources,
        datasets: Datasets,
        keys: KeyRing,
        egress: EgressClient,
        web: WebAccess,
        get_time: Callable[[], float],
        next_time: NextTime,
    ) -> None:
        self._store = store
        self._datasets = datasets
        self._keys = keys
        self._egress = egress
        self._web = web
        self._now = get_time
        self.next_time = next_time
        datasets.on_delete(store.remove_all)

    async def add(
        self,
        dataset: Dataset,
        definition: SourceDefinition,
        *,
        is_operators: bool = False,
    ) -> StoredSource:
        """Add a source to a dataset. One with a schedule is synchronised at once.

        `is_operators` is for the server's command line: private addresses and folders
        are allowed then. Raises InvokeBadRequestError that names the field,
        ConflictError if the dataset has a source of this name or address.
        """
        connector = connector_type(definition.connector)
        if connector.is_operators_alone and not is_operators:
            raise InvokeBadRequestError(
                f"A source of type {definition.connector!r} can be added on the server's"
                " command line only",
                param="connector",
            )
        if (
            len(await self._store.of_dataset(dataset.tenant, dataset.id))
            >= _MAX_SOURCES
        ):
            raise InvokeBadRequestError(
                f"A dataset may have at most {_MAX_SOURCES} sources"
            )
        source = self._built(dataset, definition, is_operators=is_operators)
        if not await self._store.add(source):
            raise ConflictError(
                f"Dataset {dataset.name!r} has a source with the name {source.name!r} or"
                f" the address {source.address!r} already",
                param="name",
            )
        return source

    def _built(
        self, dataset: Dataset, definition: SourceDefinition, *, is_operators: bool
    ) -> StoredSource:
        """Return a valid source that is not stored yet. Raises InvokeBadRequestError."""
        now, row = self._store.now(), new_uuid()
        opened = connector_type(definition.connector).open_source(
            self._opening(definition.access, is_operators=is_operators),
            definition.settings,
            definition.credentials,
        )
        is_scheduled = definition.schedule != ""
        # The schedule is read now, so that a mistake is told to whoever makes it.
        if is_scheduled:
            self.next_time(definition.schedule, definition.timezone, now)
        return StoredSource(
            id=row,
            tenant=dataset.tenant,
            dataset=dataset.id,
            name=_valid_name(definition.name),
            connector=definition.connector,
            address=opened.name,
            settings=definition.settings,
            secret=self._sealed(dataset.tenant, row, definition.credentials),
            access=definition.access,
            schedule=definition.schedule,
            timezone=definition.timezone,
            is_enabled=definition.enabled,
            is_operators=is_operators,
            created_at=now,
            due_at=now if is_scheduled and definition.enabled else None,
            owner="",
            lease_until=0.0,
            attempt=0,
            started_at=0.0,
            finished_at=0.0,
            report=None,
            error="",
        )

    async def list_all(self, dataset: Dataset) -> list[StoredSource]:
        """Return the sources of a dataset, by name."""
        return await self._store.of_dataset(dataset.tenant, dataset.id)

    async def get(self, dataset: Dataset, source: str) -> StoredSource:
        """Return a source by its id or name. Raises NotFoundError."""
        stored = await self._store.find(dataset.tenant, dataset.id, source)
        if stored is None:
            raise NotFoundError(
                f"Source {source[:80]!r} does not exist in dataset {dataset.name!r}",
                code="source_not_found",
            )
        return stored

    async def change(
        self,
        dataset: Dataset,
        source: str,
        change: SourceChange,
        *,
        is_operators: bool = False,
    ) -> StoredSource:
        """Change a source. A synchronisation that is under way starts again.

        The address stays: documents know their source by it. Raises NotFoundError,
        ConflictError, InvokeBadRequestError.
        """
        stored = await self.get(dataset, source)
        changed = self._changed(stored, change, is_operators=is_operators)
        others = await self._store.of_dataset(dataset.tenant, dataset.id)
        if any(
            other.name == changed.name and other.id != stored.id for other in others
        ):
            raise ConflictError(
                f"Dataset {dataset.name!r} has a source with the name {changed.name!r}"
                " already",
                param="name",
            )
        saved = await self._store.change(changed)
        # It may have been removed by somebody else meanwhile.
        return saved or await self.get(dataset, stored.id)

    def _changed(
        self, stored: StoredSource, change: SourceChange, *, is_operators: bool
    ) -> StoredSource:
        """Return a source with changed fields. Raises InvokeBadRequestError."""
        settings = stored.settings if change.settings is None else change.settings
        if stored.is_operators and not is_operators and settings != stored.settings:
            raise InvokeBadRequestError(
                "The settings of a source that was added on the server's command line"
                " can be changed there only",
                param="settings",
            )
        # What is left out of a change stays as it is.
        credentials = self._merged(stored, change.credentials or {})
        access = stored.access if change.access is None else change.access
        # A private address stays allowed only for who has added it.
        opening = self._opening(access, is_operators=stored.is_operators)
        opened = connector_type(stored.connector).open_source(
            opening, settings, credentials
        )
        if opened.name != stored.address:
            raise InvokeBadRequestError(
                f"The settings lead to {opened.name!r} instead of {stored.address!r}:"
                " add another source, and remove this one",
                param="settings",
            )
        changed = msgspec.structs.replace(
            stored,
            name=stored.name if change.name is None else _valid_name(change.name),
            settings=settings,
            access=access,
            secret=self._sealed(stored.tenant, stored.id, credentials),
            schedule=stored.schedule if change.schedule is None else change.schedule,
            timezone=stored.timezone if change.timezone is None else change.timezone,
            is_enabled=(
                stored.is_enabled if change.enabled is None else change.enabled
            ),
        )
        return msgspec.structs.replace(changed, due_at=self._due_after(stored, changed))

    def _due_after(self, stored: StoredSource, changed: StoredSource) -> float | None:
        """Return when a changed source is due. Raises InvokeBadRequestError for an
        invalid schedule."""
        now = self._store.now()
        following = (
            self.next_time(changed.schedule, changed.timezone, now)
            if changed.schedule
            else None
        )
        if not changed.is_enabled:
            return None
        # What was interrupted by the change, or had not begun, begins again at once.
        if stored.is_running or (stored.due_at is not None and stored.due_at <= now):
            return now
        return following

    async def request(self, dataset: Dataset, source: str) -> StoredSource:
        """Have a source synchronised as soon as a process is free, whatever its
        schedule. Raises NotFoundError."""
        stored = await self.get(dataset, source)
        await self._store.request(stored)
        return await self.get(dataset, stored.id)

    async def remove(self, dataset: Dataset, source: str, documents: Removal) -> int:
        """Remove a source, and delete or keep its documents. Returns how many documents
        it had.

        Kept documents stay as they are, with their access lists; a new source of the
        same address takes them over. Raises NotFoundError.
        """
        stored = await self.get(dataset, source)
        # Disabled first: nothing may begin while the documents are deleted.
        await self._store.stop(stored)
        await self._wait_until_stopped(dataset, stored)
        ids = await self._document_ids(dataset, stored)
        if documents == "delete" and ids:
            await self._datasets.delete_documents(dataset, ids)
        await self._store.remove(stored)
        return len(ids)

    async def _wait_until_stopped(self, dataset: Dataset, stored: StoredSource) -> None:
        """Wait until no process synchronises a source: it would add documents after
        they were deleted."""
        waited = 0.0
        # The lease of a process that died ends by itself.
        while waited < LEASE_SECONDS:
            current = await self._store.find(dataset.tenant, dataset.id, stored.id)
            if current is None or not current.owner:
                return
            await asyncio.sleep(_STOP_POLL_SECONDS)
            waited += _STOP_POLL_SECONDS

    def is_due(self, stored: StoredSource) -> bool:
        """Return whether a source waits for a process that synchronises it."""
        return stored.due_at is not None and stored.due_at <= self._store.now()

    async def document_count(self, dataset: Dataset, stored: StoredSource) -> int:
        """Return how many documents of a dataset came from a source."""
        return len(await self._document_ids(dataset, stored))

    async def _document_ids(self, dataset: Dataset, stored: StoredSource) -> list[str]:
        # Documents name their source by its address, which is unique in a dataset.
        rows = await self._datasets.store.documents.sources(dataset.tenant, dataset.id)
        return [
            row["id"]
            for row in rows
            if msgspec.json.decode(row["source"]).get("connector") == stored.address
        ]

    # Credentials

    def open(self, stored: StoredSource) -> Source:
        """Return the source for a synchronisation. Raises InvokeBadRequestError,
        SecretError."""
        return connector_type(stored.connector).open_source(
            self._opening(stored.access, is_operators=stored.is_operators),
            stored.settings,
            self._credentials(stored),
        )

    def masked_credentials(self, stored: StoredSource) -> dict[str, str]:
        """Return a mask for each stored credential. Raises SecretError."""
        return {
            name: MASK for name, value in self._credentials(stored).items() if value
        }

    async def reencrypt_all(self, tenant: str, keys: KeyRing) -> int:
        """Encrypt the credentials of a tenant's sources with the key ring's active key.
        Returns how many were changed. Raises SecretError."""
        count = 0
        for stored in await self._store.of_tenant(tenant):
            # Decrypted also if nothing changes: a lost key must be noticed.
            plain = keys.decrypt(
                stored.secret, tenant=tenant, kind=_SECRET_TYPE, row=stored.id
            )
            if not keys.is_current(stored.secret):
                sealed = keys.encrypt(
                    plain, tenant=tenant, kind=_SECRET_TYPE, row=stored.id
                )
                count += await self._store.reseal(stored, sealed)
        return count

    def _opening(self, access: list[str], *, is_operators: bool) -> Opening:
        return Opening(
            egress=self._egress,
            web=self._web,
            get_time=self._now,
            rules=parse_rules(access),
            is_operators=is_operators,
        )

    def _sealed(self, tenant: str, row: str, credentials: Mapping[str, Any]) -> str:
        text = msgspec.json.encode(credentials).decode()
        return self._keys.encrypt(text, tenant=tenant, kind=_SECRET_TYPE, row=row)

    def _credentials(self, stored: StoredSource) -> dict[str, Any]:
        """Return the decrypted credentials. Raises SecretError."""
        text = self._keys.decrypt(
            stored.secret, tenant=stored.tenant, kind=_SECRET_TYPE, row=stored.id
        )
        return msgspec.json.decode(text, type=dict[str, Any])

    def _merged(
        self, stored: StoredSource, changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the credentials with changes. Raises SecretError.

        A mask keeps the value, and an empty text removes it.
        """
        # Clients that never saw the values send the masks of a listing back.
        credentials = self._credentials(stored)
        for name, value in changes.items():
            if value == "":
                credentials.pop(name, None)
            elif value != MASK:
                credentials[name] = value
        return credentials


def _valid_name(name: str) -> str:
    """Return a name without surrounding spaces. Raises InvokeBadRequestError."""
    name = name.strip()
    if not 1 <= len(name) <= _MAX_NAME_LENGTH:
        raise InvokeBadRequestError(
            f"'name' must have 1 to {_MAX_NAME_LENGTH} characters", param="name"
        )
    return name
