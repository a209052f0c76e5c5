"""Vectors and words in the PostgreSQL database itself: pgvector's HNSW, and BM25 over rows of postings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from modelyard.base.errors import ConfigError
from modelyard.base.lazy import lazy
from modelyard.knowledge.analysis import split_counted
from modelyard.knowledge.index.base import Space
from modelyard.knowledge.index.bm25 import K1, B
from modelyard.knowledge.index.follower import Follower
from modelyard.knowledge.rows import Changes
from modelyard.knowledge.store import KnowledgeStore
from modelyard.storage.database import Connection, DuplicateError, StorageUnavailableError

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy", extra="knowledge")

_MOST_INDEXED = 2000  # dimensions that pgvector's HNSW takes; above, search is exact
_CONNECTIONS = 4
_ROWS = 500
_TABLES = (
    "CREATE EXTENSION IF NOT EXISTS vector",
    "CREATE TABLE IF NOT EXISTS index_postings (dataset TEXT NOT NULL, space BIGINT NOT NULL, term BIGINT NOT NULL, "
    "entry BIGINT NOT NULL, count SMALLINT NOT NULL, length INTEGER NOT NULL, document TEXT NOT NULL, "
    "PRIMARY KEY (dataset, space, term, entry))",
    "CREATE INDEX IF NOT EXISTS index_postings_by_entry ON index_postings (entry)",
)

T = TypeVar("T")


def _literal(vector: np.ndarray) -> str:
    return "[" + ",".join(f"{one:.7g}" for one in vector.tolist()) + "]"


class PgVectorIndex(Follower):
    name = "pgvector"

    def __init__(self, store: KnowledgeStore) -> None:
        super().__init__(store)
        if store.database.engine != "postgresql":
            raise ConfigError("knowledge.store pgvector needs a postgresql:// database")
        self._idle: list[Any] = []
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._made: set[int] = set()

    async def _run(self, work: Callable[[Connection], T]) -> T:
        """On a connection of ours. Raises StorageUnavailableError."""
        async with self._slots:
            return await asyncio.to_thread(self._work, work)

    def _work(self, work: Callable[[Connection], T]) -> T:
        engine = self.store.database.opened()
        connection = self._idle.pop() if self._idle else engine.connect()
        try:
            found = work(connection)
        except (*engine.errors, DuplicateError) as error:
            with suppress(*engine.errors):
                connection.close()
            if engine.passes(error):
                raise StorageUnavailableError(f"the vector index cannot be reached: {error}") from error
            raise
        self._idle.append(connection)
        return found

    def _table(self, it: Connection, dimensions: int) -> str:
        """Where vectors of this length are; made when the first come."""
        name = f"index_vectors_{dimensions}"
        if dimensions not in self._made:
            for statement in (
                *_TABLES,
                f"CREATE TABLE IF NOT EXISTS {name} (entry BIGINT PRIMARY KEY, dataset TEXT NOT NULL, "
                f"space BIGINT NOT NULL, document TEXT NOT NULL, embedding vector({max(1, dimensions)}))",
                f"CREATE INDEX IF NOT EXISTS {name}_by_space ON {name} (dataset, space)",
            ):
                it.execute(statement)
            if 0 < dimensions <= _MOST_INDEXED:
                it.execute(
                    f"CREATE INDEX IF NOT EXISTS {name}_hnsw ON {name} USING hnsw (embedding vector_cosine_ops) "
                    "WITH (m = 16, ef_construction = 64)"
                )
            self._made.add(dimensions)
        return name

    # changes

    async def put(self, space: Space, changes: Changes) -> None:
        await self._run(lambda it: self._put(it, space, changes))

    def _put(self, it: Connection, space: Space, changes: Changes) -> None:
        name = self._table(it, space.dimensions)
        it.execute("BEGIN")
        try:
            if changes.is_whole:
                it.execute(f"DELETE FROM {name} WHERE dataset = ? AND space = ?", (space.dataset, space.number))
                it.execute("DELETE FROM index_postings WHERE dataset = ? AND space = ?", (space.dataset, space.number))
            if changes.removed:
                it.execute(f"DELETE FROM {name} WHERE entry = ANY(?)", (changes.removed,))
                it.execute("DELETE FROM index_postings WHERE entry = ANY(?)", (changes.removed,))
            for begin in range(0, len(changes.ids), _ROWS):
                self._insert(it, name, space, changes, slice(begin, begin + _ROWS))
        except BaseException:
            it.execute("ROLLBACK")
            raise
        it.execute("COMMIT")

    @staticmethod
    def _insert(it: Connection, name: str, space: Space, changes: Changes, some: slice) -> None:
        ids, documents = changes.ids[some], changes.documents[some]
        vectors = [np.frombuffer(one, np.float32) for one in changes.vectors[some]]
        it.execute(
            f"INSERT INTO {name} (entry, dataset, space, document, embedding) SELECT entry, ?, ?, document, "
            "embedding::vector FROM unnest(?::bigint[], ?::text[], ?::text[]) AS new (entry, document, embedding) "
            "ON CONFLICT (entry) DO NOTHING",
            (space.dataset, space.number, ids, documents, [_literal(one) if len(one) else None for one in vectors]),
        )
        every, counts, sizes = split_counted(changes.terms[some])
        it.execute(
            "INSERT INTO index_postings (dataset, space, term, entry, count, length, document) "
            "SELECT ?, ?, term, entry, count, length, document FROM "
            "unnest(?::bigint[], ?::bigint[], ?::smallint[], ?::integer[], ?::text[]) "
            "AS new (term, entry, count, length, document) ON CONFLICT DO NOTHING",
            (
                space.dataset, space.number, every.tolist(), np.repeat(ids, sizes).tolist(), counts.tolist(),
                np.repeat(changes.lengths[some], sizes).tolist(), np.repeat(documents, sizes).tolist(),
            ),
        )  # fmt: skip

    # search

    async def nearest(
        self, space: Space, vector: np.ndarray, most: int, documents: Collection[str] | None
    ) -> Mapping[int, float]:
        def work(it: Connection) -> Mapping[int, float]:
            name, shown = self._table(it, space.dimensions), _literal(vector)
            values: list[Any] = [shown, space.dataset, space.number]
            among = ""
            if documents is not None:
                among = "AND document = ANY(?) "
                values.append(list(documents))
            it.execute("BEGIN")
            try:
                # Filters are met after the graph was walked: it goes on until there are enough.
                it.execute("SET LOCAL hnsw.iterative_scan = strict_order")
                it.execute(f"SET LOCAL hnsw.ef_search = {min(1000, max(100, most * 2)):d}")
                rows = it.execute(
                    f"SELECT entry, 1 - (embedding <=> ?::vector) AS score FROM {name} "
                    f"WHERE dataset = ? AND space = ? {among}AND embedding IS NOT NULL "
                    f"ORDER BY embedding <=> ?::vector LIMIT {most:d}",
                    [*values, shown],
                )
            finally:
                it.execute("COMMIT")
            return _scores(rows)

        return await self._run(work)

    async def cosines(self, space: Space, vector: np.ndarray, entries: Sequence[int]) -> Mapping[int, float]:
        return await self._run(
            lambda it: _scores(
                it.execute(
                    f"SELECT entry, 1 - (embedding <=> ?::vector) AS score FROM {self._table(it, space.dimensions)} "
                    "WHERE entry = ANY(?) AND embedding IS NOT NULL",
                    (_literal(vector), list(entries)),
                )
            )
        )

    async def matching(
        self, space: Space, weights: Mapping[int, float], average: float, most: int, documents: Collection[str] | None
    ) -> Mapping[int, float]:
        among, more = ("AND document = ANY(?) ", [list(documents)]) if documents is not None else ("", [])
        return await self._summed(space, weights, average, among, more, f"ORDER BY score DESC LIMIT {most:d}")

    async def sums(
        self, space: Space, weights: Mapping[int, float], average: float, entries: Sequence[int]
    ) -> Mapping[int, float]:
        return await self._summed(space, weights, average, "AND entry = ANY(?) ", [list(entries)], "")

    async def _summed(
        self, space: Space, weights: Mapping[int, float], average: float, among: str, more: Sequence[Any], end: str
    ) -> Mapping[int, float]:
        statement = (
            f"SELECT entry, SUM(weight * count * {K1 + 1} / (count + {K1} * ({1 - B} + {B} * length / ?))) AS score "
            "FROM index_postings JOIN unnest(?::bigint[], ?::double precision[]) AS wanted (term, weight) USING (term) "
            f"WHERE dataset = ? AND space = ? {among}GROUP BY entry {end}"
        )
        values = [average, list(weights), list(weights.values()), space.dataset, space.number, *more]

        def work(it: Connection) -> Mapping[int, float]:
            self._table(it, space.dimensions)
            return _scores(it.execute(statement, values))

        return await self._run(work)

    async def points(self, space: Space) -> int:
        def work(it: Connection) -> int:
            name = self._table(it, space.dimensions)
            statement = f"SELECT COUNT(*) AS count FROM {name} WHERE dataset = ? AND space = ?"
            return int(it.execute(statement, (space.dataset, space.number))[0]["count"])

        return await self._run(work)

    async def delete(self, dataset: str, number: int | None) -> None:
        def work(it: Connection) -> None:
            rows = it.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND "
                "(tablename LIKE 'index\\_vectors\\_%' OR tablename = 'index_postings')", ()
            )  # fmt: skip
            for row in rows:
                statement = f"DELETE FROM {row['tablename']} WHERE dataset = ?"
                if number is None:
                    it.execute(statement, (dataset,))
                else:
                    it.execute(f"{statement} AND space = ?", (dataset, number))

        await self._run(work)

    async def aclose(self) -> None:
        while self._idle:
            self._idle.pop().close()


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    return {row["entry"]: float(row["score"]) for row in rows}
