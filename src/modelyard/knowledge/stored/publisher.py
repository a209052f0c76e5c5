"""What is found from now on: segments, and the entries that stand for them, change in one transaction, so the two never
disagree, whatever is killed when."""

from collections.abc import Sequence

from modelyard.knowledge.entities import Dataset, Document, Segment
from modelyard.knowledge.rows import Entry, Indexed, Ready
from modelyard.knowledge.stored.claims import Claims
from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.knowledge.stored.documents import StoredDocuments
from modelyard.knowledge.stored.entries import StoredEntries
from modelyard.knowledge.stored.segments import StoredSegments
from modelyard.storage.database import Connection, Database, Row


class Publisher:
    def __init__(
        self, database: Database, *, datasets: StoredDatasets, documents: StoredDocuments, claims: Claims,
        segments: StoredSegments, entries: StoredEntries,
    ) -> None:  # fmt: skip
        self._database = database
        self._datasets = datasets
        self._documents = documents
        self._claims = claims
        self._segments = segments
        self._entries = entries

    async def publish(self, ready: Sequence[Ready]) -> list[Document]:
        """Have documents of one dataset found from now on, each in the place of what was there of it.

        Gives those that are; not those that somebody else has now, or that are gone. Raises InvokeBadRequestError
        where their vectors are not like the others of the dataset.
        """
        first = ready[0].document

        def work(connection: Connection) -> list[Document]:
            row = self._datasets.bump(connection, first.tenant, first.dataset)
            if row is None:
                return []
            ours = self._claims.ours(connection, first.dataset, ready)
            self._make_room(connection, row, first.dataset, ours)
            self._segments.add(connection, [segment for each in ours for segment in each.indexed.segments])
            self._segments.add_children(connection, [child for each in ours for child in each.indexed.children])
            entries = [(each.document.id, entry) for each in ours for entry in each.indexed.entries]
            self._entries.add(connection, first.dataset, row["space"], row["generation"], entries)
            self._claims.finish(connection, ours)
            return [each.document for each in ours]

        return await self._database.transact(work, may_gather=True)

    def _make_room(self, connection: Connection, row: Row, dataset: str, ours: Sequence[Ready]) -> None:
        """What was there of them goes."""
        for each in ours:
            row = self._datasets.measure(connection, row, dataset, each.indexed)
            if each.turn:  # the first time there is nothing to take away
                self._entries.remove_of(connection, each.document.id, row["generation"])
                self._segments.remove_of(connection, each.document.id)
        self._entries.unstage(connection, [each.document.id for each in ours if each.indexed.is_staged])

    async def put_segments(self, document: Document, indexed: Indexed, *, is_new: bool) -> list[Segment]:
        """Add segments to a document, or have some of it say something else; their entries with them.

        Raises NotFoundError, InvokeBadRequestError.
        """

        def work(connection: Connection) -> list[Segment]:
            row = self._datasets.bumped(connection, document.tenant, document.dataset)
            self._documents.require(connection, document.tenant, document.id)
            self._datasets.measure(connection, row, document.dataset, indexed)
            if is_new:
                kept = self._segments.append(connection, document.id, indexed.segments)
            else:
                kept = indexed.segments
                self._change(connection, document.id, kept, row["generation"])
            self._segments.add_children(connection, indexed.children)
            entries = [(document.id, each) for each in indexed.entries]
            self._entries.add(connection, document.dataset, row["space"], row["generation"], entries)
            self._recount(connection, document.id)
            return kept

        return await self._database.transact(work)

    def _change(self, connection: Connection, document: str, segments: Sequence[Segment], generation: int) -> None:
        for each in segments:
            self._segments.change(connection, each)
            self._entries.remove_of_segment(connection, document, each.id, generation)

    def _recount(self, connection: Connection, document: str) -> None:
        self._documents.recount(connection, document, self._segments.totals(connection, document))

    async def delete_segment(self, segment: Segment) -> None:
        """Raises NotFoundError where its dataset is gone."""

        def work(connection: Connection) -> None:
            row = self._datasets.bumped(connection, segment.tenant, segment.dataset)
            self._segments.remove(connection, segment)
            self._entries.remove_of_segment(connection, segment.document, segment.id, row["generation"])
            self._recount(connection, segment.document)

        await self._database.transact(work)

    # another model's index, beside the one in use

    async def put_beside(self, dataset: str, space: int, document: str, entries: Sequence[Entry]) -> None:
        """Entries of a space that is not in use yet."""
        await self._database.transact(
            lambda connection: self._entries.put_beside(connection, dataset, space, document, entries)
        )

    async def switch(self, dataset: Dataset, space: int, dimensions: int, model: str) -> bool:
        """Use another space from now on, and delete the one that was; False where documents changed meanwhile.

        Raises NotFoundError.
        """

        def work(connection: Connection) -> bool:
            row = self._datasets.bumped(connection, dataset.tenant, dataset.id)
            if not self._entries.replace_space(connection, dataset.id, row, space):
                return False
            self._datasets.switch(connection, dataset, space, dimensions, model)
            return True

        return await self._database.transact(work)
