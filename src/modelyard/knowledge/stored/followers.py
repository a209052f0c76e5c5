"""How far indexes outside of this process have come, and how many entries of theirs hold each term."""

from collections.abc import Mapping, Sequence

from modelyard.storage.database import Connection, Database
from modelyard.storage.repository import Repository
from modelyard.storage.statements import insert

_NOBODY = ""
"""In the place of a store: up to which generation it was forgotten what is gone."""


class Followers(Repository):
    def __init__(self, database: Database) -> None:
        super().__init__(database, "index_followers")

    async def followed(self, store: str, dataset: str, space: int) -> int:
        """How far another store has come."""
        return await self._database.at_once(lambda connection: self._followed(connection, store, dataset, space))

    def _followed(self, connection: Connection, store: str, dataset: str, space: int) -> int:
        names = {"store": store, "dataset": dataset, "space": space}
        rows = connection.execute(self._sql["followed"], names)
        return int(rows[0]["generation"]) if rows else 0

    async def set_followed(
        self, store: str, dataset: str, space: int, since: int, until: int, terms: Mapping[int, int], *, is_whole: bool
    ) -> None:
        """It has come so far, and so many more entries hold these terms; unless another process was there first."""
        rows = [(store, dataset, space, term, count) for term, count in terms.items() if count]

        def work(connection: Connection) -> None:
            if self._followed(connection, store, dataset, space) != since:
                return
            if is_whole:
                self._step(connection, "forget_terms", store, dataset, space)
            insert(connection, self._sql["add_term"], rows)
            self._step(connection, "set_followed", store, dataset, space, until)

        await self._database.transact(work)

    async def holding(self, store: str, dataset: str, space: int, terms: Sequence[int]) -> dict[int, int]:
        """How many entries hold each of these terms."""

        def work(connection: Connection) -> dict[int, int]:
            rows = self._listed(connection, "holding", terms, store, dataset, space)
            return {row["term"]: row["holding"] for row in rows}

        return await self._database.at_once(work)

    async def spaces(self, store: str, dataset: str) -> list[int]:
        """Those that another store has followed."""
        return [row["space"] for row in await self._rows("spaces", store=store, dataset=dataset)]

    async def unfollow(self, store: str, dataset: str) -> None:
        def work(connection: Connection) -> None:
            self._step(connection, "unfollow", store, dataset)
            self._step(connection, "unfollow_terms", store, dataset)

        await self._database.transact(work)

    # steps of transactions, and of trips to a reader

    def forgotten(self, connection: Connection, dataset: str, space: int) -> int:
        """Up to which generation what went is no longer told apart."""
        return self._followed(connection, _NOBODY, dataset, space)

    def set_forgotten(self, connection: Connection, dataset: str, space: int, generation: int) -> None:
        self._step(connection, "set_followed", _NOBODY, dataset, space, generation)

    def remove_all(self, connection: Connection, dataset: str) -> None:
        """The dataset is gone."""
        self._step(connection, "delete_of_dataset", dataset)
        self._step(connection, "delete_terms_of_dataset", dataset)
