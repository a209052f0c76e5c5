"""The tables of segments and their children."""

from collections.abc import Sequence

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.knowledge.entities import Child, Segment
from modelyard.knowledge.rows import (
    child_row,
    like_pattern,
    read_child,
    read_segment,
    segment_row,
    to_json,
)
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository, by_name
from modelyard.storage.statements import insert


class StoredSegments(Repository):
    """Repository of segments and children."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "segments")

    async def list_page(
        self,
        tenant: str,
        document: str,
        *,
        keyword: str = "",
        enabled: int = -1,
        limit: int = 100,
        skip: int = 0,
    ) -> tuple[list[Segment], int]:
        """Return one page of a document's segments in order, and the total number of
        matches.

        `enabled` selects by the enabled flag: 0, 1, or -1 for all.
        """
        where = {
            "tenant": tenant,
            "document": document,
            "keyword": like_pattern(keyword),
            "enabled": enabled,
        }

        def work(connection: Connection) -> tuple[list[Segment], int]:
            """Read the page and the total in one trip."""
            rows = by_name(
                connection.execute(
                    self._sql["listed"], {**where, "most": limit, "skip": skip}
                )
            )
            count = connection.execute(self._sql["count"], where)
            return [read_segment(row) for row in rows], int(count[0]["count"])

        return await self._database.read_together(work, is_long=bool(keyword))

    async def get(self, tenant: str, document: str, id: str) -> Segment:
        """Return a segment. Raises NotFoundError."""
        rows = await self._rows("get", tenant=tenant, document=document, id=id)
        if not rows:
            raise NotFoundError(
                f"Segment {id[:80]!r} does not exist", code="segment_not_found"
            )
        return read_segment(rows[0])

    async def list_children(
        self,
        tenant: str,
        segment: str,
        *,
        keyword: str = "",
        limit: int = 10_000,
        skip: int = 0,
    ) -> tuple[list[Child], int]:
        """Return one page of a segment's children in order, and the total number of
        matches."""
        where = {"tenant": tenant, "segment": segment, "keyword": like_pattern(keyword)}

        def work(connection: Connection) -> tuple[list[Child], int]:
            """Read the page and the total in one trip."""
            rows = connection.execute(
                self._sql["children"], {**where, "most": limit, "skip": skip}
            )
            count = connection.execute(self._sql["count_children"], where)
            return [read_child(row) for row in rows], int(count[0]["count"])

        return await self._database.read_together(work)

    async def get_child(self, tenant: str, segment: str, id: str) -> Child:
        """Return a child of a segment. Raises NotFoundError."""
        rows = await self._rows("child", tenant=tenant, segment=segment, id=id)
        if not rows:
            raise NotFoundError(
                f"Child chunk {id[:80]!r} does not exist", code="child_not_found"
            )
        return read_child(rows[0])

    # Steps of transactions and of combined reads

    def read(
        self, connection: Connection, tenant: str, ids: Sequence[str]
    ) -> dict[str, Segment]:
        """Return the segments that may be found, by id."""
        rows = by_name(self._with_list(connection, "of_ids", ids, tenant))
        return {row["id"]: read_segment(row) for row in rows}

    def read_children(
        self, connection: Connection, tenant: str, ids: Sequence[str]
    ) -> dict[str, Child]:
        """Return children by id."""
        rows = by_name(self._with_list(connection, "children_of_ids", ids, tenant))
        return {row["id"]: read_child(row) for row in rows}

    def of_dataset(self, connection: Connection, dataset: str) -> list[Row]:
        """Return {id, document, is_enabled} of all segments."""
        return connection.execute(self._sql["of_dataset"], {"dataset": dataset})

    def totals(
        self, connection: Connection, tenant: str, document: str
    ) -> dict[str, int]:
        """Return {count, words, tokens} of all segments of a document."""
        row = self._step(connection, "totals", tenant, document)[0]
        return {name: int(row[name]) for name in ("count", "words", "tokens")}

    def add(self, connection: Connection, segments: Sequence[Segment]) -> None:
        """Insert segments."""
        insert(
            connection, self._sql["add"], [segment_row(segment) for segment in segments]
        )

    def append(
        self,
        connection: Connection,
        tenant: str,
        document: str,
        segments: Sequence[Segment],
    ) -> list[Segment]:
        """Insert segments at the end of a document, in order, and return them with
        their positions."""
        last = int(self._step(connection, "last", tenant, document)[0]["position"])
        placed = [
            msgspec.structs.replace(segment, position=last + index + 1)
            for index, segment in enumerate(segments)
        ]
        self.add(connection, placed)
        return placed

    def update(self, connection: Connection, segment: Segment) -> None:
        """Update a segment's content and enabled flag, and delete its children. Raises
        NotFoundError."""
        values = (
            segment.content,
            segment.answer,
            to_json(segment.keywords),
            segment.summary,
            segment.words,
            segment.tokens,
            segment.digest,
            int(segment.is_enabled),
            segment.updated_at,
            segment.tenant,
            segment.document,
            segment.id,
        )
        if not self._step(connection, "change", *values):
            raise NotFoundError(
                f"Segment {segment.id!r} does not exist", code="segment_not_found"
            )
        # The caller inserts the new children afterwards.
        self._step(connection, "delete_children_of", segment.tenant, segment.id)

    def add_children(self, connection: Connection, children: Sequence[Child]) -> None:
        """Insert children."""
        insert(
            connection, self._sql["add_child"], [child_row(child) for child in children]
        )

    def count_hits(self, connection: Connection, ids: Sequence[str]) -> None:
        """Increment the hit counters of segments."""
        self._with_list(connection, "hit", ids)

    def delete(self, connection: Connection, segment: Segment) -> None:
        """Delete a segment and its children."""
        self._step(connection, "delete", segment.tenant, segment.document, segment.id)
        self._step(connection, "delete_children_of", segment.tenant, segment.id)

    def delete_of_document(
        self, connection: Connection, tenant: str, document: str
    ) -> None:
        """Delete all segments and children of a document."""
        # The index of segments by document starts with the tenant.
        self._step(connection, "delete_of_document", tenant, document)
        self._step(connection, "delete_children_of_document", document)

    def delete_all(self, connection: Connection, dataset: str) -> None:
        """Delete all segments and children of a dataset."""
        self._step(connection, "delete_of_dataset", dataset)
        self._step(connection, "delete_children_of_dataset", dataset)
