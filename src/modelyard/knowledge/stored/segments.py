"""Segments of documents and their children, as rows."""

from collections.abc import Sequence

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.knowledge.entities import Child, Segment
from modelyard.knowledge.rows import child_row, dump, like, read_child, read_segment, segment_row
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository, by_name
from modelyard.storage.statements import insert


class StoredSegments(Repository):
    def __init__(self, database: Database) -> None:
        super().__init__(database, "segments")

    async def listed(
        self, tenant: str, document: str, *, keyword: str = "", enabled: int = -1, most: int = 100, skip: int = 0
    ) -> tuple[list[Segment], int]:
        """In order, and how many there are in all; with `enabled` 0 or 1 those that are off, or on."""
        where = {"tenant": tenant, "document": document, "keyword": like(keyword), "enabled": enabled}

        def work(connection: Connection) -> tuple[list[Segment], int]:
            rows = by_name(connection.execute(self._sql["listed"], {**where, "most": most, "skip": skip}))
            count = connection.execute(self._sql["count"], where)
            return [read_segment(row) for row in rows], int(count[0]["count"])

        return await self._database.at_once(work, is_long=bool(keyword))

    async def get(self, tenant: str, document: str, id: str) -> Segment:  # noqa: A002
        """Raises NotFoundError."""
        rows = await self._rows("get", tenant=tenant, document=document, id=id)
        if not rows:
            raise NotFoundError(f"segment {id[:80]!r} does not exist", code="segment_not_found")
        return read_segment(rows[0])

    async def children(
        self, tenant: str, segment: str, *, keyword: str = "", most: int = 10_000, skip: int = 0
    ) -> tuple[list[Child], int]:
        """Of one segment in order, and how many there are in all."""
        where = {"tenant": tenant, "segment": segment, "keyword": like(keyword)}

        def work(connection: Connection) -> tuple[list[Child], int]:
            rows = connection.execute(self._sql["children"], {**where, "most": most, "skip": skip})
            count = connection.execute(self._sql["count_children"], where)
            return [read_child(row) for row in rows], int(count[0]["count"])

        return await self._database.at_once(work)

    async def child(self, tenant: str, segment: str, id: str) -> Child:  # noqa: A002
        """Raises NotFoundError."""
        rows = await self._rows("child", tenant=tenant, segment=segment, id=id)
        if not rows:
            raise NotFoundError(f"child chunk {id[:80]!r} does not exist", code="child_not_found")
        return read_child(rows[0])

    # steps of transactions, and of trips to a reader

    def read(self, connection: Connection, tenant: str, ids: Sequence[str]) -> dict[str, Segment]:
        """Those that may be found, by id."""
        rows = by_name(self._listed(connection, "of_ids", ids, tenant))
        return {row["id"]: read_segment(row) for row in rows}

    def read_children(self, connection: Connection, tenant: str, ids: Sequence[str]) -> dict[str, Child]:
        rows = by_name(self._listed(connection, "children_of_ids", ids, tenant))
        return {row["id"]: read_child(row) for row in rows}

    def of_dataset(self, connection: Connection, dataset: str) -> list[Row]:
        """{id, document, is_enabled} of each."""
        return connection.execute(self._sql["of_dataset"], {"dataset": dataset})

    def totals(self, connection: Connection, document: str) -> dict[str, int]:
        """{count, words, tokens} of all that a document has."""
        row = self._step(connection, "totals", document)[0]
        return {name: int(row[name]) for name in ("count", "words", "tokens")}

    def add(self, connection: Connection, segments: Sequence[Segment]) -> None:
        insert(connection, self._sql["add"], [segment_row(each) for each in segments])

    def append(self, connection: Connection, document: str, segments: Sequence[Segment]) -> list[Segment]:
        """After a document's last, in order."""
        last = int(self._step(connection, "last", document)[0]["position"])
        placed = [msgspec.structs.replace(each, position=last + at + 1) for at, each in enumerate(segments)]
        self.add(connection, placed)
        return placed

    def change(self, connection: Connection, segment: Segment) -> None:
        """What it says, and whether it is on, as it is here; without its children. Raises NotFoundError."""
        values = (
            segment.content, segment.answer, dump(segment.keywords), segment.summary, segment.words, segment.tokens,
            segment.digest, int(segment.is_enabled), segment.updated_at, segment.tenant, segment.document, segment.id,
        )  # fmt: skip
        if not self._step(connection, "change", *values):
            raise NotFoundError(f"segment {segment.id!r} does not exist", code="segment_not_found")
        self._step(connection, "delete_children_of", segment.tenant, segment.id)

    def add_children(self, connection: Connection, children: Sequence[Child]) -> None:
        insert(connection, self._sql["add_child"], [child_row(each) for each in children])

    def hit(self, connection: Connection, ids: Sequence[str]) -> None:
        """Each was found once more."""
        self._listed(connection, "hit", ids)

    def remove(self, connection: Connection, segment: Segment) -> None:
        self._step(connection, "delete", segment.tenant, segment.document, segment.id)
        self._step(connection, "delete_children_of", segment.tenant, segment.id)

    def remove_of(self, connection: Connection, document: str) -> None:
        """All of a document's."""
        self._step(connection, "delete_of_document", document)
        self._step(connection, "delete_children_of_document", document)

    def remove_all(self, connection: Connection, dataset: str) -> None:
        """All of a dataset's."""
        self._step(connection, "delete_of_dataset", dataset)
        self._step(connection, "delete_children_of_dataset", dataset)
