"""The table of documents, as callers see them. Leases are the part of `Claims` in the
same table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.knowledge.entities import Document
from modelyard.knowledge.rows import (
    FilterRow,
    document_row,
    like_pattern,
    read_document,
    read_filter_row,
    source_key,
    to_json,
)
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository, by_name
from modelyard.storage.statements import insert_new

# A number for both engines: PostgreSQL refuses SQLite's LIMIT -1, and SQLite LIMIT ALL.
_NO_LIMIT = 10_000_000


class StoredDocuments(Repository):
    """Repository of documents."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        super().__init__(database, "documents")
        self._clock = clock

    async def get(self, tenant: str, dataset: str, id: str) -> Document:
        """Return a document. Raises NotFoundError."""
        rows = await self._rows("get", tenant=tenant, dataset=dataset, id=id)
        if not rows:
            raise document_not_found(id)
        return read_document(rows[0])

    async def of_source(
        self, tenant: str, dataset: str, source: Mapping[str, Any]
    ) -> Document:
        """Return the document of a file's path. Raises NotFoundError."""
        key = source_key(source)
        rows = await self._rows(
            "of_source", tenant=tenant, dataset=dataset, source_key=key
        )
        if not rows:
            raise document_not_found(key)
        return read_document(rows[0])

    async def list_page(
        self,
        tenant: str,
        dataset: str,
        *,
        keyword: str = "",
        state: str = "",
        batch: str = "",
        limit: int = 100,
        skip: int = 0,
    ) -> tuple[list[Document], int]:
        """Return one page of a dataset's documents, newest first, and the total number
        of matches."""
        where = {
            "tenant": tenant,
            "dataset": dataset,
            "keyword": like_pattern(keyword),
            "state": state,
            "batch": batch,
        }

        def work(connection: Connection) -> tuple[list[Document], int]:
            """Read the page and the total in one trip."""
            rows = by_name(
                connection.execute(
                    self._sql["listed"], {**where, "most": limit, "skip": skip}
                )
            )
            documents = [read_document(row) for row in rows]
            # A first page that is not full is the complete result: the count is known.
            if skip == 0 and len(rows) < limit:
                return documents, len(rows)
            return documents, int(
                connection.execute(self._sql["count"], where)[0]["count"]
            )

        # Keyword filters scan the table, and large pages take long.
        return await self._database.read_together(
            work, is_long=bool(keyword) or limit > 1000
        )

    async def list_all(self, tenant: str, dataset: str) -> list[Document]:
        """Return all documents of a dataset, newest first."""
        documents, _ = await self.list_page(tenant, dataset, limit=_NO_LIMIT)
        return documents

    async def get_many(self, tenant: str, ids: Sequence[str]) -> dict[str, Document]:
        """Return the tenant's documents with these ids, by id. Unknown ids are left
        out."""
        return await self._database.read_together(
            lambda connection: self.read(connection, tenant, ids)
        )

    async def counts(self, tenant: str, dataset: str = "") -> dict[str, Row]:
        """Return {documents, words, available} by dataset."""
        return {
            row["dataset"]: row
            for row in await self._rows("counts", tenant=tenant, dataset=dataset)
        }

    async def unfinished(self, tenant: str, dataset: str, batch: str) -> int:
        """Return how many documents of a batch are still being indexed."""
        rows = await self._rows(
            "unfinished", tenant=tenant, dataset=dataset, batch=batch
        )
        return int(rows[0]["count"])

    async def filter_metadata(self, tenant: str, dataset: str) -> list[Row]:
        """Return the columns that metadata filters use, for all documents that may be
        found."""
        return await self._rows("about", tenant=tenant, dataset=dataset)

    async def filter_changes(
        self, tenant: str, dataset: str, since: int
    ) -> list[FilterRow]:
        """Return the filterable properties of the documents that changed after a
        generation of the dataset; of all documents for -1. Deleted ones are not
        reported."""
        values = {"tenant": tenant, "dataset": dataset, "since": since}

        def work(connection: Connection) -> list[FilterRow]:
            """Read and decode the rows in the reader's thread."""
            rows = connection.execute(self._sql["filter_changes"], values)
            # Freed one by one: freeing 200,000 rows at once stops all threads for a
            # fifth of a second.
            return [read_filter_row(rows.pop()) for _ in range(len(rows))]

        return await self._database.read_together(work, is_long=True)

    async def sources(self, tenant: str, dataset: str) -> list[Row]:
        """Return id, source, digest and status of a dataset's documents."""
        return await self._rows("sources", tenant=tenant, dataset=dataset)

    async def retry(self, tenant: str, dataset: str, id: str) -> bool:
        """Queue a failed document again. Returns False if there is nothing to retry."""
        return bool(await self._execute("retry", self._clock(), tenant, dataset, id))

    async def command(self, tenant: str, dataset: str, id: str, command: str) -> bool:
        """Pause or cancel the indexing of a document. Returns False if it is not being
        indexed.

        A process that owns the document reads the command with its next poll.
        """
        status, error = ("paused", "") if command == "pause" else ("error", "cancelled")

        def work(connection: Connection) -> bool:
            """Store the command, and apply it at once to a document that no process
            owns."""
            rows = self._step(
                connection, "command", command, self._clock(), tenant, dataset, id
            )
            self._step(connection, "obey", status, error, id, tenant)
            return bool(rows)

        return await self._database.transact(work)

    # Steps of transactions and of combined reads

    def read(
        self, connection: Connection, tenant: str, ids: Sequence[str]
    ) -> dict[str, Document]:
        """Return the tenant's documents with these ids, by id."""
        rows = by_name(self._with_list(connection, "of_ids", ids, tenant))
        return {row["id"]: read_document(row) for row in rows}

    def has_restricted(self, connection: Connection, dataset: str) -> bool:
        """Return whether any document is hidden from some users or not searchable."""
        return bool(
            connection.execute(self._sql["has_exceptions"], {"dataset": dataset})
        )

    def segment_counts(
        self, connection: Connection, tenant: str, dataset: str
    ) -> dict[str, int]:
        """Return the recorded number of segments of each completed document."""
        values = {"tenant": tenant, "dataset": dataset}
        rows = connection.execute(self._sql["sizes"], values)
        return {row["id"]: int(row["segments"]) for row in rows}

    def require(self, connection: Connection, tenant: str, id: str) -> None:
        """Raise NotFoundError if the document does not exist."""
        if not self._step(connection, "exists", id, tenant):
            raise document_not_found(id)

    def append(
        self,
        connection: Connection,
        documents: Sequence[Document],
        owner: str,
        until: float,
    ) -> list[Document]:
        """Insert documents at the end of their dataset, in order, leased to `owner`
        until the given time. Returns the inserted ones: those whose source the dataset
        contains already are left out."""
        first = documents[0]
        # All documents belong to the dataset of the first one.
        last = int(
            self._step(connection, "last_position", first.tenant, first.dataset)[0][
                "position"
            ]
        )
        placed = [
            msgspec.structs.replace(document, position=last + index + 1)
            for index, document in enumerate(documents)
        ]
        rows = insert_new(
            connection,
            self._sql["add"],
            [document_row(document, owner, until) for document in placed],
        )
        inserted_ids = {row["id"] for row in rows}
        return [document for document in placed if document.id in inserted_ids]

    def describe(
        self, connection: Connection, document: Document, generation: int
    ) -> None:
        """Update name, metadata and readers, in a new generation of the dataset. Raises
        NotFoundError."""
        values = (
            document.name,
            to_json(document.metadata),
            to_json(document.readers),
            self._clock(),
            generation,
            document.tenant,
            document.dataset,
            document.id,
        )
        if not self._step(connection, "describe", *values):
            raise document_not_found(document.id)

    def reset_for_indexing(
        self, connection: Connection, document: Document, generation: int
    ) -> None:
        """Queue the document for indexing with its current source, rule and form, in a
        new generation of the dataset. Raises NotFoundError."""
        values = (
            document.name,
            to_json(document.source),
            source_key(document.source),
            document.form.value,
            document.language,
            to_json(document.rule),
            to_json(document.metadata),
            document.digest,
            document.batch,
            self._clock(),
            generation,
            document.tenant,
            document.dataset,
            document.id,
        )
        if not self._step(connection, "again", *values):
            raise document_not_found(document.id)

    def set_flags(
        self, connection: Connection, document: Document, generation: int
    ) -> None:
        """Update the enabled and archived flags, in a new generation of the dataset."""
        flags = (int(document.is_enabled), int(document.is_archived))
        self._step(
            connection,
            "flags",
            *flags,
            self._clock(),
            generation,
            document.tenant,
            document.dataset,
            document.id,
        )

    def recount(
        self,
        connection: Connection,
        id: str,
        totals: Mapping[str, int],
        generation: int,
    ) -> None:
        """Update the totals after segments were changed by hand, in a new generation of
        the dataset. `totals` has count, words and tokens."""
        # Edited segments are searchable at once, so both counts are equal.
        values = (
            totals["count"],
            totals["count"],
            totals["words"],
            totals["tokens"],
            self._clock(),
            generation,
        )
        self._step(connection, "recount", *values, id)

    def count_hits(self, connection: Connection, ids: Sequence[str]) -> None:
        """Increment the hit counters of documents."""
        self._with_list(connection, "hit", ids)

    def delete(
        self, connection: Connection, tenant: str, dataset: str, id: str
    ) -> bool:
        """Delete a document. Returns False if it did not exist."""
        return bool(self._step(connection, "delete", tenant, dataset, id))

    def delete_all(
        self, connection: Connection, tenant: str, dataset: str
    ) -> list[str]:
        """Delete all documents of a dataset and return their ids."""
        return [
            row["id"]
            for row in self._step(connection, "delete_of_dataset", tenant, dataset)
        ]


def document_not_found(id: str) -> NotFoundError:
    """Return the error of an id that no document has, or none that the caller may
    know of."""
    return NotFoundError(
        f"Document {id[:80]!r} does not exist", code="document_not_found"
    )
