"""Vectors and postings in a PostgreSQL database with pgvector: HNSW, and BM25 as a sum over rows."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from modelyard.base.errors import ConfigError
from modelyard.storage.database import Database
from modelyard.storage.engine import Connection, Row, StorageUnavailableError
from modelyard.storage.statements import statements

_CONNECTIONS = 4
_MOST_INDEXED = 2000
"""Numbers of a vector that pgvector's HNSW takes; above, search is exact."""
_LEAST_FAR, _MOST_FAR = 100, 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """Where a dataset's vectors of one model are."""

    dataset: str
    number: int
    dimensions: int
    """0 where there are words alone."""

    @property
    def table(self) -> str:
        return f"index_vectors_{self.dimensions}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorRows:
    """Entries to be put, a place each in all of the first three; and a place a posting in all of the others."""

    entries: Sequence[int]
    documents: Sequence[str]
    vectors: Sequence[str | None]
    """As pgvector reads them."""
    terms: Sequence[int]
    counts: Sequence[int]
    posting_entries: Sequence[int]
    posting_lengths: Sequence[int]
    posting_documents: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What words are looked for: BM25's constants, entries' mean length, and terms with their weights."""

    k1: float
    b: float
    average: float
    weights: Mapping[int, float]

    def values(self) -> list[object]:
        constants = [self.k1, self.k1, self.b, self.b, self.average]
        return [*constants, list(self.weights), list(self.weights.values())]


class VectorTables:
    """On connections of its own: an index takes long, and nobody's short statement waits behind it."""

    def __init__(self, database: Database) -> None:
        """Raises ConfigError for a database that is not PostgreSQL."""
        if database.engine != "postgresql":
            raise ConfigError("knowledge.store pgvector needs a postgresql:// database")
        self._engine = database.opened()
        self._sql = statements("vectors")
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(_CONNECTIONS)
        self._made: set[int] = set()

    # ways in

    async def _run(self, space: VectorSpace | None, work: Callable[[Connection], T]) -> T:
        """With the tables of a space there. Raises StorageUnavailableError."""
        async with self._places:
            return await asyncio.to_thread(self._work, space, work)

    def _work(self, space: VectorSpace | None, work: Callable[[Connection], T]) -> T:
        connection = self._idle.pop() if self._idle else self._engine.connect()
        try:
            if space is not None and space.dimensions not in self._made:
                self._make(connection, space)
            result = work(connection)
        except self._engine.errors as error:
            with suppress(*self._engine.errors):
                connection.close()
            if self._engine.passes(error):
                raise StorageUnavailableError(f"the vector index cannot be reached: {error}") from error
            raise
        self._idle.append(connection)
        return result

    def _make(self, connection: Connection, space: VectorSpace) -> None:
        for name in ("make_extension", "make_postings", "make_postings_by_entry", "make_table", "make_table_by_space"):
            statement = self._in(space, name).replace("{dimensions}", str(max(1, space.dimensions)))
            connection.execute(statement)
        if 0 < space.dimensions <= _MOST_INDEXED:
            connection.execute(self._in(space, "make_graph"))
        self._made.add(space.dimensions)

    def _in(self, space: VectorSpace, name: str) -> str:
        return self._sql[name].replace("{table}", space.table)

    # changes

    async def put(
        self, space: VectorSpace, removed: Sequence[int], batches: Sequence[VectorRows], *, is_whole: bool
    ) -> None:
        """In one transaction: with `is_whole` in the place of all that the space has, without those that are removed.
        What is there already stays."""

        def work(connection: Connection) -> None:
            connection.execute("BEGIN")
            try:
                self._put(connection, space, removed, batches, is_whole=is_whole)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

        await self._run(space, work)

    def _put(
        self, connection: Connection, space: VectorSpace, removed: Sequence[int], batches: Sequence[VectorRows], *,
        is_whole: bool,
    ) -> None:  # fmt: skip
        for table in (space.table, "index_postings"):
            if is_whole:
                statement = self._sql["clear"].replace("{table}", table)
                connection.execute(statement, (space.dataset, space.number))
            if removed:
                connection.execute(self._sql["delete"].replace("{table}", table), (list(removed),))
        for batch in batches:
            self._insert(connection, space, batch)

    def _insert(self, connection: Connection, space: VectorSpace, rows: VectorRows) -> None:
        vectors = (list(rows.entries), list(rows.documents), list(rows.vectors))
        connection.execute(self._in(space, "add_vectors"), (space.dataset, space.number, *vectors))
        postings = (
            list(rows.terms), list(rows.posting_entries), list(rows.counts), list(rows.posting_lengths),
            list(rows.posting_documents),
        )  # fmt: skip
        connection.execute(self._sql["add_postings"], (space.dataset, space.number, *postings))

    async def delete(self, dataset: str, number: int | None) -> None:
        """A space, or all of a dataset's."""

        def work(connection: Connection) -> None:
            for row in connection.execute(self._sql["tables"]):
                if number is None:
                    statement = self._sql["clear_dataset"].replace("{table}", row["tablename"])
                    connection.execute(statement, (dataset,))
                else:
                    statement = self._sql["clear"].replace("{table}", row["tablename"])
                    connection.execute(statement, (dataset, number))

        await self._run(None, work)

    # search

    async def nearest(
        self, space: VectorSpace, vector: str, most: int, documents: Collection[str] | None
    ) -> dict[int, float]:
        """Entry → cosine, of some documents or of all."""
        name, among = ("nearest", []) if documents is None else ("nearest_among", [list(documents)])
        statement = self._in(space, name).replace("{most}", f"{most:d}")
        values = [vector, space.dataset, space.number, *among, vector]
        far = min(_MOST_FAR, max(_LEAST_FAR, most * 2))

        def work(connection: Connection) -> dict[int, float]:
            connection.execute("BEGIN")
            try:
                connection.execute(self._sql["scan_on"])
                connection.execute(self._sql["scan_far"], (str(far),))
                return _scores(connection.execute(statement, values))
            finally:
                connection.execute("COMMIT")

        return await self._run(space, work)

    async def cosines(self, space: VectorSpace, vector: str, entries: Sequence[int]) -> dict[int, float]:
        """Of these alone."""
        return await self._scored(space, self._in(space, "cosines"), [vector, list(entries)])

    async def matching(
        self, space: VectorSpace, wanted: Wanted, most: int, documents: Collection[str] | None
    ) -> dict[int, float]:
        """Entry → sum of BM25, of some documents or of all."""
        name, among = ("matching", []) if documents is None else ("matching_among", [list(documents)])
        statement = self._sql[name].replace("{most}", f"{most:d}")
        return await self._scored(space, statement, [*wanted.values(), space.dataset, space.number, *among])

    async def sums(self, space: VectorSpace, wanted: Wanted, entries: Sequence[int]) -> dict[int, float]:
        """Of these alone."""
        values = [*wanted.values(), space.dataset, space.number, list(entries)]
        return await self._scored(space, self._sql["sums"], values)

    async def _scored(self, space: VectorSpace, statement: str, values: Sequence[object]) -> dict[int, float]:
        return await self._run(space, lambda connection: _scores(connection.execute(statement, values)))

    async def count(self, space: VectorSpace) -> int:
        """Entries that a space has."""

        def work(connection: Connection) -> int:
            rows = connection.execute(self._in(space, "count"), (space.dataset, space.number))
            return int(rows[0]["count"])

        return await self._run(space, work)

    async def aclose(self) -> None:
        while self._idle:
            self._idle.pop().close()


def _scores(rows: Sequence[Row]) -> dict[int, float]:
    return {row["entry"]: float(row["score"]) for row in rows}
