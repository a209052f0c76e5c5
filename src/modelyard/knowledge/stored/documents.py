"""Documents as rows: what callers see of them. Who works on them is `Claims`' part of the same table."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.knowledge.entities import Document
from modelyard.knowledge.rows import document_row, dump, like, read_document
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository, by_name
from modelyard.storage.statements import insert

_ALL = 10_000_000


class StoredDocuments(Repository):
    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        super().__init__(database, "documents")
        self._now = now

    async def get(self, tenant: str, dataset: str, id: str) -> Document:  # noqa: A002
        """Raises NotFoundError."""
        rows = await self._rows("get", tenant=tenant, dataset=dataset, id=id)
        if not rows:
            raise _missing(id)
        return read_document(rows[0])

    async def listed(
        self, tenant: str, dataset: str, *, keyword: str = "", state: str = "", batch: str = "", most: int = 100,
        skip: int = 0,
    ) -> tuple[list[Document], int]:  # fmt: skip
        """Newest first, and how many there are in all."""
        where = {"tenant": tenant, "dataset": dataset, "keyword": like(keyword), "state": state, "batch": batch}

        def work(connection: Connection) -> tuple[list[Document], int]:
            rows = by_name(connection.execute(self._sql["listed"], {**where, "most": most, "skip": skip}))
            documents = [read_document(row) for row in rows]
            if skip == 0 and len(rows) < most:
                return documents, len(rows)
            return documents, int(connection.execute(self._sql["count"], where)[0]["count"])

        return await self._database.at_once(work, is_long=bool(keyword) or most > 1000)

    async def every(self, tenant: str, dataset: str) -> list[Document]:
        """All of a dataset's, newest first."""
        documents, _ = await self.listed(tenant, dataset, most=_ALL)
        return documents

    async def of(self, tenant: str, ids: Sequence[str]) -> dict[str, Document]:
        """Those of the tenant's that are there, by id."""
        return await self._database.at_once(lambda connection: self.read(connection, tenant, ids))

    async def counts(self, tenant: str, dataset: str = "") -> dict[str, Row]:
        """Dataset → {documents, words, available}."""
        return {row["dataset"]: row for row in await self._rows("counts", tenant=tenant, dataset=dataset)}

    async def unfinished(self, tenant: str, dataset: str, batch: str) -> int:
        """How many of a batch are still on their way."""
        rows = await self._rows("unfinished", tenant=tenant, dataset=dataset, batch=batch)
        return int(rows[0]["count"])

    async def about(self, tenant: str, dataset: str) -> list[Row]:
        """What filters look at, of all that may be found."""
        return await self._rows("about", tenant=tenant, dataset=dataset)

    async def sources(self, tenant: str, dataset: str) -> list[Row]:
        """What came from where."""
        return await self._rows("sources", tenant=tenant, dataset=dataset)

    async def retry(self, tenant: str, dataset: str, id: str) -> bool:  # noqa: A002
        """False where there is nothing to try again."""
        return bool(await self._do("retry", self._now(), tenant, dataset, id))

    async def command(self, tenant: str, dataset: str, id: str, command: str) -> bool:  # noqa: A002
        """Have it pause or stop, whichever process has it; False where it is not being worked on."""
        status, error = ("paused", "") if command == "pause" else ("error", "cancelled")

        def work(connection: Connection) -> bool:
            rows = self._step(connection, "command", command, self._now(), tenant, dataset, id)
            self._step(connection, "obey", status, error, id, tenant)
            return bool(rows)

        return await self._database.transact(work)

    # steps of transactions, and of trips to a reader

    def read(self, connection: Connection, tenant: str, ids: Sequence[str]) -> dict[str, Document]:
        rows = by_name(self._listed(connection, "of_ids", ids, tenant))
        return {row["id"]: read_document(row) for row in rows}

    def has_exceptions(self, connection: Connection, dataset: str) -> bool:
        """Whether there is a document that not everybody finds."""
        return bool(connection.execute(self._sql["has_exceptions"], {"dataset": dataset}))

    def sizes(self, connection: Connection, dataset: str) -> dict[str, int]:
        """How many segments each finished one says that it has."""
        rows = connection.execute(self._sql["sizes"], {"dataset": dataset})
        return {row["id"]: int(row["segments"]) for row in rows}

    def require(self, connection: Connection, tenant: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError."""
        if not self._step(connection, "exists", id, tenant):
            raise _missing(id)

    def place(self, connection: Connection, documents: Sequence[Document], owner: str, until: float) -> list[Document]:
        """After the last of the first one's dataset, in order; `owner` has them until then."""
        first = documents[0]
        last = int(self._step(connection, "last_position", first.tenant, first.dataset)[0]["position"])
        placed = [msgspec.structs.replace(each, position=last + at + 1) for at, each in enumerate(documents)]
        insert(connection, self._sql["add"], [document_row(each, owner, until) for each in placed])
        return placed

    def describe(self, connection: Connection, document: Document) -> None:
        """Name, metadata and readers as they are here. Raises NotFoundError."""
        values = (
            document.name, dump(document.metadata), dump(document.readers), self._now(), document.tenant,
            document.dataset, document.id,
        )  # fmt: skip
        if not self._step(connection, "describe", *values):
            raise _missing(document.id)

    def begin_again(self, connection: Connection, document: Document) -> None:
        """It waits to be indexed, from its source, rule and form as they are here. Raises NotFoundError."""
        values = (
            document.name, dump(document.source), document.form.value, document.language, dump(document.rule),
            dump(document.metadata), document.digest, document.batch, self._now(), document.tenant, document.dataset,
            document.id,
        )  # fmt: skip
        if not self._step(connection, "again", *values):
            raise _missing(document.id)

    def flag(self, connection: Connection, document: Document) -> None:
        """Whether it is on, and put away, as it is here."""
        flags = (int(document.is_enabled), int(document.is_archived))
        self._step(connection, "flags", *flags, self._now(), document.tenant, document.dataset, document.id)

    def recount(self, connection: Connection, id: str, totals: Mapping[str, int]) -> None:  # noqa: A002
        """Its segments were changed by hand: {count, words, tokens} of all that it has."""
        values = (totals["count"], totals["count"], totals["words"], totals["tokens"], self._now())
        self._step(connection, "recount", *values, id)

    def hit(self, connection: Connection, ids: Sequence[str]) -> None:
        """Something of each was found once more."""
        self._listed(connection, "hit", ids)

    def remove(self, connection: Connection, tenant: str, dataset: str, id: str) -> bool:  # noqa: A002
        """False where it was not there."""
        return bool(self._step(connection, "delete", tenant, dataset, id))

    def remove_all(self, connection: Connection, tenant: str, dataset: str) -> list[str]:
        """Those that the dataset had."""
        return [row["id"] for row in self._step(connection, "delete_of_dataset", tenant, dataset)]


def _missing(id: str) -> NotFoundError:  # noqa: A002
    return NotFoundError(f"document {id[:80]!r} does not exist", code="document_not_found")
