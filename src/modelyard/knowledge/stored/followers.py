"""The progress of external indexes: the generation each has reached, and how many of
its entries contain each term."""

from collections.abc import Mapping, Sequence

from modelyard.storage.database import Connection, Database
from modelyard.storage.repository import Repository
from modelyard.storage.statements import insert

_REMOVAL_LOG = ""
"""Pseudo-store whose generation is the one up to which the removal log was discarded.
"""


class IndexProgress(Repository):
    """Repository of the external indexes' progress and term statistics."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "index_followers")

    async def synced_generation(self, store: str, dataset: str, space: int) -> int:
        """Return the generation that a store has reached; 0 for an unknown one."""
        return await self._database.read_together(
            lambda connection: self._followed(connection, store, dataset, space)
        )

    def _followed(
        self, connection: Connection, store: str, dataset: str, space: int
    ) -> int:
        """Read the generation that a store has reached; 0 if nothing is recorded.

        It is a step of a transaction on the given connection.
        """
        names = {"store": store, "dataset": dataset, "space": space}
        rows = connection.execute(self._sql["followed"], names)
        return int(rows[0]["generation"]) if rows else 0

    async def sample_vectors(self, dataset: str, space: int, limit: int) -> list[bytes]:
        """Return the vectors of the oldest entries of a space, as float32."""
        # The statement stands with those of its table.
        statement = self._database.statements("index_entries")["sample_vectors"]
        values = {"dataset": dataset, "space": space, "most": limit}
        rows = await self._database.fetch(statement, values)
        return [bytes(row["vector"]) for row in rows]

    async def record_sync(
        self,
        store: str,
        dataset: str,
        space: int,
        since: int,
        until: int,
        terms: Mapping[int, int],
        *,
        is_snapshot: bool,
    ) -> None:
        """Record that a store has reached `until`, with the changes of its term counts.

        Does nothing if another process has recorded the same step before.
        """
        rows = [
            (store, dataset, space, term, count)
            for term, count in terms.items()
            if count
        ]

        def work(connection: Connection) -> None:
            """Record the progress if it still starts at `since`."""
            # Counting the same changes twice would corrupt the statistics.
            if self._followed(connection, store, dataset, space) != since:
                return
            # A full snapshot replaces the earlier counts.
            if is_snapshot:
                self._step(connection, "forget_terms", store, dataset, space)
            insert(connection, self._sql["add_term"], rows)
            self._step(connection, "record_sync", store, dataset, space, until)

        await self._database.transact(work)

    async def term_counts(
        self, store: str, dataset: str, space: int, terms: Sequence[int]
    ) -> dict[int, int]:
        """Return how many entries contain each of the terms. Terms without entries are
        left out."""

        def work(connection: Connection) -> dict[int, int]:
            """Read the counts."""
            rows = self._with_list(connection, "holding", terms, store, dataset, space)
            return {row["term"]: row["holding"] for row in rows}

        return await self._database.read_together(work)

    async def spaces(self, store: str, dataset: str) -> list[int]:
        """Return the numbers of the spaces that a store has indexed."""
        return [
            row["space"]
            for row in await self._rows("spaces", store=store, dataset=dataset)
        ]

    async def forget_store(self, store: str, dataset: str) -> None:
        """Delete the progress and the statistics of a dataset in a store."""

        def work(connection: Connection) -> None:
            """Delete both tables' rows."""
            self._step(connection, "unfollow", store, dataset)
            self._step(connection, "unfollow_terms", store, dataset)

        await self._database.transact(work)

    # Steps of transactions and of combined reads

    def log_start_generation(
        self, connection: Connection, dataset: str, space: int
    ) -> int:
        """Return the generation up to which the removal log was discarded."""
        return self._followed(connection, _REMOVAL_LOG, dataset, space)

    def set_log_start(
        self, connection: Connection, dataset: str, space: int, generation: int
    ) -> None:
        """Record the generation up to which the removal log was discarded."""
        self._step(connection, "record_sync", _REMOVAL_LOG, dataset, space, generation)

    def delete_all(self, connection: Connection, dataset: str) -> None:
        """Delete the progress and statistics of a deleted dataset in all stores."""
        # The statistics are by far the largest table here, and are found by store only.
        for row in self._step(connection, "stores", dataset):
            self._step(connection, "unfollow_terms", row["store"], dataset)
        self._step(connection, "delete_of_dataset", dataset)
