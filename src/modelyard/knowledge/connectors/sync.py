"""Keeping a dataset in step with a source: new and changed documents are read, deleted
ones removed, and permissions follow.

After each page its cursor is stored, so that an interrupted synchronisation continues
there. Repeating a page changes nothing.
"""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.ids import new_uuid
from modelyard.knowledge.access import AccessList, principals_of_list
from modelyard.knowledge.connectors.base import (
    ItemError,
    RemembersRevisions,
    Source,
    SourceItem,
    SourcePage,
)
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset, Document, Status
from modelyard.knowledge.prepare import digest_of
from modelyard.storage.scoped_store import ScopedStore

_MAX_REASONS = 10


class StoredDocument(msgspec.Struct, frozen=True):
    """A document that an earlier synchronisation has added."""

    id: str
    revision: str
    readers: list[str]
    name: str


@dataclass(slots=True)
class SyncReport:
    """What a synchronisation has done."""

    added: int = 0
    changed: int = 0
    deleted: int = 0
    same: int = 0
    permissions: int = 0
    """Documents whose access list alone has changed."""
    skipped: int = 0
    reasons: list[str] = field(default_factory=list[str])
    """Why documents were skipped; the first ten."""
    batches: list[str] = field(default_factory=list[str])
    """The batches that are being indexed."""

    def skip(
        self,
        item: SourceItem,
        error: Exception,
    ) -> None:
        """Record a document that cannot be read."""
        self.skipped += 1
        if len(self.reasons) < _MAX_REASONS:
            self.reasons.append(f"{item.key[:200]}: {str(error)[:300]}")


class SourceSync:
    """Synchronises datasets with sources."""

    def __init__(
        self,
        datasets: Datasets,
        progress: ScopedStore,
    ) -> None:
        self._datasets = datasets
        self._progress = progress
        datasets.on_delete(self._forget)

    async def run(
        self,
        dataset: Dataset,
        source: Source,
        report: SyncReport | None = None,
    ) -> SyncReport:
        """Bring a dataset up to date with a source. `report` is filled while it works,
        for callers that show what was done before an error.

        Documents of other origin are left alone. Raises SourceError if the source
        cannot be reached; what was done until then stays, and the next run continues.
        """
        report, scope = report or SyncReport(), _scope(dataset.id)
        # Names of sources are longer than those of records may be.
        name = digest_of(source.name)
        stored = await self._progress.get(dataset.tenant, scope, name)
        by_key = await self._known_documents(dataset, source.name)
        if isinstance(source, RemembersRevisions):
            source.remember({key: known.revision for key, known in by_key.items()})
        pages = source.changes(stored.decode() if stored else "")
        async with aclosing(pages):
            async for page in pages:
                await self._apply(dataset, source, page, by_key, report)
                # Last: after an interruption the page is applied again.
                await self._progress.put(
                    dataset.tenant, scope, name, page.cursor.encode()
                )
        return report

    async def _forget(
        self,
        tenant: str,
        dataset: str,
    ) -> None:
        """Forget the cursors of a deleted dataset."""
        for entry in await self._progress.list(tenant, _scope(dataset)):
            await self._progress.remove(tenant, _scope(dataset), entry.name)

    async def _known_documents(
        self, dataset: Dataset, source: str
    ) -> dict[str, StoredDocument]:
        """Return the documents that came from a source, by key."""
        by_key: dict[str, StoredDocument] = {}
        for row in await self._datasets.store.documents.sources(
            dataset.tenant, dataset.id
        ):
            origin: Mapping[str, Any] = msgspec.json.decode(row["source"])
            # Uploads and other sources of the dataset are none of its business.
            if origin.get("connector") != source:
                continue
            # What could not be indexed is read again, even if it has not changed.
            failed = row["status"] == Status.ERROR
            by_key[origin["key"]] = StoredDocument(
                id=row["id"],
                revision="" if failed else origin["revision"],
                readers=msgspec.json.decode(row["readers"]),
                name=row["name"],
            )
        return by_key

    async def _apply(
        self,
        dataset: Dataset,
        source: Source,
        page: SourcePage,
        by_key: dict[str, StoredDocument],
        report: SyncReport,
    ) -> None:
        """Apply one page. Permissions come first: what is revoked at the source is
        revoked before anything slow happens."""
        await self._apply_access(dataset, page.items, by_key, report)
        await self._delete(dataset, _gone(page, by_key), by_key, report)
        batch = new_uuid()
        for item in page.items:
            before = by_key.get(item.key)
            if before is not None and before.revision == item.revision:
                report.same += 1
                continue
            try:
                data = await source.fetch(item)
                document = await self._store(
                    dataset, source.name, item, data, before, batch
                )
            except (ItemError, InvokeBadRequestError) as error:
                report.skip(item, error)
                continue
            by_key[item.key] = StoredDocument(
                document.id, item.revision, document.readers, document.name
            )
            report.batches += {document.batch} - set(report.batches)
            if before is None:
                report.added += 1
            else:
                report.changed += 1

    async def _apply_access(
        self,
        dataset: Dataset,
        items: Sequence[SourceItem],
        by_key: dict[str, StoredDocument],
        report: SyncReport,
    ) -> None:
        """Set the access lists of known documents that have changed at the source."""
        lists: dict[str, AccessList | None] = {}
        for item in items:
            before = by_key.get(item.key)
            readers = principals_of_list(item.access)
            if before is None or before.readers == readers:
                continue
            lists[before.id] = item.access
            by_key[item.key] = msgspec.structs.replace(before, readers=readers)
            report.permissions += 1
        # One transaction: a search sees the permissions of a page before or after.
        if lists:
            await self._datasets.access.set(dataset, lists)

    async def _delete(
        self,
        dataset: Dataset,
        keys: Sequence[str],
        by_key: dict[str, StoredDocument],
        report: SyncReport,
    ) -> None:
        ids = [by_key.pop(key).id for key in keys]
        if ids:
            await self._datasets.delete_documents(dataset, ids)
        report.deleted += len(ids)

    async def _store(
        self,
        dataset: Dataset,
        source: str,
        item: SourceItem,
        data: bytes,
        before: StoredDocument | None,
        batch: str,
    ) -> Document:
        """Add or replace a document; it has its access list from the beginning."""
        origin = {"connector": source, "key": item.key, "revision": item.revision}
        if item.url:
            origin["url"] = item.url
        readers = principals_of_list(item.access)
        if before is None:
            return await self._datasets.add_file(
                dataset, item.name, data, origin=origin, readers=readers, batch=batch
            )
        old = await self._datasets.store.documents.get(
            dataset.tenant, dataset.id, before.id
        )
        return await self._datasets.update_file(
            dataset, old, item.name, data, origin=origin
        )


def _gone(
    page: SourcePage,
    by_key: Mapping[str, StoredDocument],
) -> list[str]:
    """Return the keys of known documents that no longer exist at the source."""
    gone = {key for key in page.removed if key in by_key}
    if page.covers is not None:
        start, end = page.covers
        listed = {item.key for item in page.items}
        gone |= {
            key
            for key in by_key
            if key not in listed and key > start and (end is None or key <= end)
        }
    return sorted(gone)


def _scope(dataset: str) -> str:
    return f"source:{dataset}"
