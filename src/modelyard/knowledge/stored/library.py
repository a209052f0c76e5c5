"""Documents that come, change and go, with all that is theirs: each is one transaction of several nouns."""

from collections.abc import Mapping, Sequence

import msgspec

from modelyard.knowledge.entities import Document
from modelyard.knowledge.rows import DocumentPart
from modelyard.knowledge.stored.claims import Claims
from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.knowledge.stored.documents import StoredDocuments
from modelyard.knowledge.stored.entries import StoredEntries
from modelyard.knowledge.stored.followers import Followers
from modelyard.knowledge.stored.queries import StoredQueries
from modelyard.knowledge.stored.segments import StoredSegments
from modelyard.knowledge.stored.tags import StoredTags
from modelyard.knowledge.stored.texts import StoredTexts
from modelyard.storage.database import Connection, Database


class Library:
    def __init__(
        self, database: Database, *, datasets: StoredDatasets, documents: StoredDocuments, claims: Claims,
        texts: StoredTexts, segments: StoredSegments, entries: StoredEntries, followers: Followers, tags: StoredTags,
        queries: StoredQueries,
    ) -> None:  # fmt: skip
        self._database = database
        self._datasets = datasets
        self._documents = documents
        self._claims = claims
        self._texts = texts
        self._segments = segments
        self._entries = entries
        self._followers = followers
        self._tags = tags
        self._queries = queries

    async def add(
        self, documents: Sequence[Document], texts: Mapping[str, str] | None = None, *, is_ours: bool = False
    ) -> list[Document]:
        """Into the dataset of the first, in order, with their texts where they are known; with `is_ours` for this
        process to index. Raises NotFoundError."""
        first = documents[0]
        owner, until = (self._claims.owner, self._claims.until) if is_ours else ("", 0.0)

        def work(connection: Connection) -> list[Document]:
            self._datasets.require(connection, first.tenant, first.dataset)
            placed = self._documents.place(connection, documents, owner, until)
            self._texts.add(connection, texts or {})
            return placed

        return await self._database.transact(work)

    async def describe(self, document: Document) -> None:
        """Name, metadata and readers as they are here. Raises NotFoundError."""

        def work(connection: Connection) -> None:
            # What filters remember of the dataset is old now.
            self._datasets.bumped(connection, document.tenant, document.dataset)
            self._documents.describe(connection, document)

        await self._database.transact(work)

    async def index_again(
        self, document: Document, parts: Sequence[DocumentPart] | None = None, *, reads_anew: bool = False
    ) -> None:
        """From its source, rule and form as they are here, and from `parts`, where its text is another. What is found
        of it stays until the new is ready. Raises NotFoundError."""

        def work(connection: Connection) -> None:
            self._documents.begin_again(connection, document)
            if parts is not None:
                self._texts.put(connection, document.id, parts)
            elif reads_anew:
                self._texts.forget(connection, [document.id])

        await self._database.transact(work)

    async def set_flags(
        self, tenant: str, dataset: str, ids: Sequence[str], *, enabled: bool | None = None,
        archived: bool | None = None,
    ) -> None:  # fmt: skip
        """What is off or put away is not found. Raises NotFoundError for a document that is not there."""
        known = [await self._documents.get(tenant, dataset, each) for each in ids]
        changed = [
            msgspec.structs.replace(
                each,
                is_enabled=each.is_enabled if enabled is None else enabled,
                is_archived=each.is_archived if archived is None else archived,
            )
            for each in known
        ]

        def work(connection: Connection) -> None:
            self._datasets.bumped(connection, tenant, dataset)
            for each in changed:
                self._documents.flag(connection, each)

        await self._database.transact(work)

    async def delete_documents(self, tenant: str, dataset: str, ids: Sequence[str]) -> None:
        """Those that are there; all that they had goes with them. Raises NotFoundError."""

        def work(connection: Connection) -> None:
            row = self._datasets.bumped(connection, tenant, dataset)
            gone = [each for each in ids if self._documents.remove(connection, tenant, dataset, each)]
            for each in gone:
                self._entries.remove_of(connection, each, row["generation"])
                self._segments.remove_of(connection, each)
            self._texts.forget(connection, gone)
            self._entries.unstage(connection, gone)
            self._entries.forget(connection, dataset, row)

        await self._database.transact(work)

    async def delete(self, tenant: str, dataset: str) -> list[Document]:
        """A dataset and all of it. Gives the documents that it had; raises NotFoundError."""
        await self._datasets.get(tenant, dataset)
        documents = await self._documents.every(tenant, dataset)

        def work(connection: Connection) -> None:
            self._datasets.remove(connection, tenant, dataset)
            gone = self._documents.remove_all(connection, tenant, dataset)
            self._texts.forget(connection, gone)
            self._entries.unstage(connection, gone)
            self._entries.remove_all(connection, dataset)
            self._followers.remove_all(connection, dataset)
            self._segments.remove_all(connection, dataset)
            self._tags.remove_all(connection, dataset)
            self._queries.remove_all(connection, dataset)

        await self._database.transact(work)
        return documents

    def count_hits(self, hits: Mapping[str, str]) -> None:
        """Segment → document: each was found once more. Soon, and not waited for."""
        if not hits:
            return
        segments, documents = sorted(hits), sorted(set(hits.values()))

        def work(connection: Connection) -> None:
            self._segments.hit(connection, segments)
            self._documents.hit(connection, documents)

        self._database.submit(work, may_gather=True)
