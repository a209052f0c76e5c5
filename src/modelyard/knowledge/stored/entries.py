"""What is searched, as rows: the truth that every index follows; what is gone of it, and vectors that wait for their
documents."""

from collections.abc import Iterable, Sequence

from modelyard.knowledge.rows import Changes, Entry
from modelyard.knowledge.stored.followers import Followers
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository
from modelyard.storage.statements import insert

_MOST_TOLD = 200_000
"""Gone entries that are kept for indexes which have not heard of them."""


class StoredEntries(Repository):
    def __init__(self, database: Database, followers: Followers) -> None:
        super().__init__(database, "index_entries")
        self._followers = followers

    async def changes(self, dataset: str, space: int, since: int, until: int) -> Changes:
        """What an index at a generation has not heard of until another: all there is where it is too far behind."""
        names = {"dataset": dataset, "space": space}

        def work(connection: Connection) -> Changes:
            is_whole = since == 0 or self._followers.forgotten(connection, dataset, space) > since
            between = {**names, "since": 0 if is_whole else since, "until": until}
            removed = [] if is_whole else connection.execute(self._sql["removed_since"], between)
            rows = connection.execute(self._sql["since"], between)
            return Changes(
                is_whole,
                [row["id"] for row in rows],
                [row["document"] for row in rows],
                [row["vector"] for row in rows],
                [row["terms"] for row in rows],
                [row["length"] for row in rows],
                [row["entry"] for row in removed],
                [(row["terms"], row["length"]) for row in removed if row["born"] <= since],
            )

        return await self._database.at_once(work, is_long=True)

    async def count(self, dataset: str, space: int) -> int:
        return int((await self._rows("count", dataset=dataset, space=space))[0]["count"])

    async def of(self, document: str, space: int) -> list[Row]:
        """A document's, in order."""
        return await self._rows("of_document", document=document, space=space)

    async def vectors(self, ids: Sequence[int]) -> dict[int, bytes]:
        def work(connection: Connection) -> dict[int, bytes]:
            return {row["id"]: row["vector"] for row in self._listed(connection, "vectors", ids)}

        return await self._database.at_once(work)

    async def known_vectors(self, document: str, space: int, model: str) -> dict[str, bytes]:
        """By digest of what they were made of: those it has, and those that were made before it was finished."""

        def work(connection: Connection) -> dict[str, bytes]:
            staged = connection.execute(self._sql["staged"], {"document": document, "model": model})
            indexed = connection.execute(self._sql["vectors_of"], {"document": document, "space": space})
            return {row["digest"]: row["vector"] for row in [*staged, *indexed] if row["vector"]}

        return await self._database.at_once(work)

    async def stage(self, rows: Sequence[tuple[str, str, str, bytes]]) -> None:
        """(document, model, digest, vector) each, until the document is finished."""
        await self._database.transact(lambda connection: insert(connection, self._sql["stage"], rows))

    # steps of transactions, and of trips to a reader

    def standing_for(self, connection: Connection, dataset: str, ids: Sequence[int]) -> list[Row]:
        """{id, segment, child} of those that are there."""
        return self._listed(connection, "standing_for", ids, dataset)

    def segments(self, connection: Connection, dataset: str) -> dict[str, int]:
        """Segment → how many entries stand for it."""
        rows = connection.execute(self._sql["segments"], {"dataset": dataset})
        return {row["segment"]: int(row["count"]) for row in rows}

    def add(
        self, connection: Connection, dataset: str, space: int, generation: int,
        entries: Iterable[tuple[str, Entry]],
    ) -> None:  # fmt: skip
        """Each with its document."""
        rows = [
            (dataset, space, generation, document, each.segment, each.child, each.digest, each.vector, each.terms,
             each.length)
            for document, each in entries
        ]  # fmt: skip
        insert(connection, self._sql["add"], rows)

    def unstage(self, connection: Connection, documents: Sequence[str]) -> None:
        self._listed(connection, "unstage", documents)

    def remove_of(self, connection: Connection, document: str, generation: int) -> None:
        """All of a document's; indexes are told."""
        self._step(connection, "remove_of_document", generation, document)
        self._step(connection, "delete_of_document", document)

    def remove_of_segment(self, connection: Connection, document: str, segment: str, generation: int) -> None:
        self._step(connection, "remove_of_segment", generation, document, segment)
        self._step(connection, "delete_of_segment", document, segment)

    def forget(self, connection: Connection, dataset: str, row: Row) -> None:
        """What is gone is not told of for ever: whoever is too far behind begins anew. `row` is what `bump` gave."""
        if int(self._step(connection, "many_removed", dataset)[0]["count"]) > _MOST_TOLD:
            self._step(connection, "forget_removed", dataset)
            self._followers.set_forgotten(connection, dataset, row["space"], row["generation"])

    def remove_all(self, connection: Connection, dataset: str) -> None:
        """All of a dataset's."""
        self._step(connection, "delete_of_dataset", dataset)
        self._step(connection, "forget_removed", dataset)

    # another space, beside the one in use

    def put_beside(
        self, connection: Connection, dataset: str, space: int, document: str, entries: Sequence[Entry]
    ) -> None:
        """A document's in a space that is not in use yet."""
        self._step(connection, "clear", document, space)
        self.add(connection, dataset, space, 1, [(document, each) for each in entries])

    def replace_space(self, connection: Connection, dataset: str, row: Row, space: int) -> bool:
        """Keep one space alone, which is to be used from now on; False where it lacks what the one in use has. `row`
        is what `bump` gave."""
        old = row["space"]
        if self._step(connection, "behind", dataset, old, dataset, space):
            return False
        # What was taken out of the old one meanwhile must not come back.
        self._step(connection, "take_out", dataset, space, dataset, old)
        self._step(connection, "delete_others", dataset, space)
        self._step(connection, "forget_removed", dataset)
        self._step(connection, "renumber", row["generation"], dataset, space)
        return True
