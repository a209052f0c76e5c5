"""The table of index entries, which is the source of truth for every index; its log of
removals; and staged vectors of documents that are being indexed."""

from collections.abc import Iterable, Sequence

from modelyard.knowledge.rows import Entry, IndexDelta
from modelyard.knowledge.stored.followers import IndexProgress
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository
from modelyard.storage.statements import insert

_MAX_REMOVAL_LOG = 200_000
"""Maximum number of logged removals of a dataset. Indexes that are further behind are
rebuilt."""
_TRIM_INTERVAL = 64
"""Generations of a dataset between two checks of its removal log's length. Counting the
log at every change would cost more than most changes."""


class StoredEntries(Repository):
    """Repository of index entries."""

    def __init__(self, database: Database, followers: IndexProgress) -> None:
        super().__init__(database, "index_entries")
        self._followers = followers

    async def changes(
        self, dataset: str, space: int, since: int, until: int
    ) -> IndexDelta:
        """Return the changes between two generations; a full snapshot if the log no
        longer reaches back far enough."""
        return await self._database.read_together(
            lambda connection: self._changes(connection, dataset, space, since, until),
            is_long=True,
        )

    def _changes(
        self, connection: Connection, dataset: str, space: int, since: int, until: int
    ) -> IndexDelta:
        """Read removals and additions in one consistent view."""
        is_snapshot = (
            since == 0
            or self._followers.log_start_generation(connection, dataset, space) > since
        )
        generation_range = {
            "dataset": dataset,
            "space": space,
            "since": 0 if is_snapshot else since,
            "until": until,
        }
        # A snapshot needs no removals: the index is rebuilt.
        removed = (
            []
            if is_snapshot
            else connection.execute(self._sql["removed_since"], generation_range)
        )
        rows = connection.execute(self._sql["since"], generation_range)
        return IndexDelta(
            is_snapshot,
            [row["id"] for row in rows],
            [row["document"] for row in rows],
            [row["vector"] for row in rows],
            [row["terms"] for row in rows],
            [row["length"] for row in rows],
            [row["entry"] for row in removed],
            _terms_known_since(removed, since),
        )

    async def count(self, dataset: str, space: int) -> int:
        """Return the number of entries in an index."""
        return int(
            (await self._rows("count", dataset=dataset, space=space))[0]["count"]
        )

    async def list_of_document(self, document: str, space: int) -> list[Row]:
        """Return a document's entries in order."""
        return await self._rows("of_document", document=document, space=space)

    async def vectors(self, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the vectors of entries by id."""

        def work(connection: Connection) -> dict[int, bytes]:
            """Read the vectors."""
            return {
                row["id"]: row["vector"]
                for row in self._with_list(connection, "vectors", ids)
            }

        return await self._database.read_together(work)

    async def existing_vectors(
        self, document: str, space: int, model: str
    ) -> dict[str, bytes]:
        """Return a document's existing vectors by the digest of their text, including
        staged ones."""

        def work(connection: Connection) -> dict[str, bytes]:
            """Read staged and indexed vectors; the indexed ones win."""
            staged = connection.execute(
                self._sql["staged"], {"document": document, "model": model}
            )
            indexed = connection.execute(
                self._sql["vectors_of"], {"document": document, "space": space}
            )
            return {
                row["digest"]: row["vector"]
                for row in [*staged, *indexed]
                if row["vector"]
            }

        return await self._database.read_together(work)

    async def stage_entries(self, rows: Sequence[tuple[str, str, str, bytes]]) -> None:
        """Store vectors (document, model, digest, vector) until their document is
        finished."""
        await self._database.transact(
            lambda connection: insert(connection, self._sql["stage"], rows)
        )

    # Steps of transactions and of combined reads

    def entry_targets(
        self, connection: Connection, dataset: str, ids: Sequence[int]
    ) -> list[Row]:
        """Return {id, segment, child} of the entries that exist."""
        return self._with_list(connection, "entry_targets", ids, dataset)

    def segments(self, connection: Connection, dataset: str) -> dict[str, int]:
        """Return the number of entries by segment."""
        rows = connection.execute(self._sql["segments"], {"dataset": dataset})
        return {row["segment"]: int(row["count"]) for row in rows}

    def add(
        self,
        connection: Connection,
        dataset: str,
        space: int,
        generation: int,
        entries: Iterable[tuple[str, Entry]],
    ) -> None:
        """Insert entries, each with the id of its document."""
        rows = [
            (
                dataset,
                space,
                generation,
                document,
                entry.segment,
                entry.child,
                entry.digest,
                entry.vector,
                entry.terms,
                entry.length,
            )
            for document, entry in entries
        ]
        insert(connection, self._sql["add"], rows)

    def unstage(self, connection: Connection, documents: Sequence[str]) -> None:
        """Delete the staged vectors of documents."""
        self._with_list(connection, "unstage", documents)

    def delete_of_document(
        self, connection: Connection, document: str, generation: int
    ) -> None:
        """Delete all entries of a document and log the removals for the indexes."""
        # The log is written from the rows, so it comes before the deletion.
        self._step(connection, "remove_of_document", generation, document)
        self._step(connection, "delete_of_document", document)

    def delete_of_segment(
        self, connection: Connection, document: str, segment: str, generation: int
    ) -> None:
        """Delete all entries of a segment and log the removals for the indexes."""
        self._step(connection, "remove_of_segment", generation, document, segment)
        self._step(connection, "delete_of_segment", document, segment)

    def trim_removal_log(self, connection: Connection, dataset: str, row: Row) -> None:
        """Bound the removal log: if it is too long, discard it. `row` is the result of
        `bump`.

        The length is checked every 64 generations. Indexes that are behind then get a
        full snapshot.
        """
        if row["generation"] % _TRIM_INTERVAL:
            return
        if (
            int(self._step(connection, "many_removed", dataset)[0]["count"])
            > _MAX_REMOVAL_LOG
        ):
            self._step(connection, "forget_removed", dataset)
            self._followers.set_log_start(
                connection, dataset, row["space"], row["generation"]
            )

    def delete_all(self, connection: Connection, dataset: str) -> None:
        """Delete all entries of a dataset, with the removal log."""
        self._step(connection, "delete_of_dataset", dataset)
        self._step(connection, "forget_removed", dataset)

    # A shadow index next to the one in use

    def write_shadow_index(
        self,
        connection: Connection,
        dataset: str,
        space: int,
        document: str,
        entries: Sequence[Entry],
    ) -> None:
        """Replace a document's entries in an index that is not in use yet."""
        # A repeated pass must not add entries twice.
        self._step(connection, "clear", document, space)
        self.add(
            connection, dataset, space, 1, [(document, entry) for entry in entries]
        )

    def swap_index(
        self, connection: Connection, dataset: str, row: Row, space: int
    ) -> bool:
        """Put a shadow index in use and delete all others. `row` is the result of
        `bump`.

        Returns False if the shadow index lacks entries of the one in use.
        """
        old = row["space"]
        if self._step(connection, "behind", dataset, old, dataset, space):
            return False
        # Entries that were removed from the old index meanwhile must not reappear.
        self._step(connection, "take_out", dataset, space, dataset, old)
        self._step(connection, "delete_others", dataset, space)
        # The log belongs to the old index.
        self._step(connection, "forget_removed", dataset)
        self._step(connection, "renumber", row["generation"], dataset, space)
        return True


def _terms_known_since(removed: Iterable[Row], since: int) -> list[tuple[bytes, int]]:
    """Return (terms, length) of the removed entries that an index of generation `since`
    contains. Only these affect its statistics."""
    return [(row["terms"], row["length"]) for row in removed if row["born"] <= since]
