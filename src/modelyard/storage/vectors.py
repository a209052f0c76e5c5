"""Vectors and postings in PostgreSQL with pgvector: HNSW search, and BM25 as a sum over
rows."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from modelyard.base.errors import ConfigError
from modelyard.storage.database import Database
from modelyard.storage.engine import Connection, Row, StorageUnavailableError
from modelyard.storage.statements import statements

# Searches are bound by the processor of the database.
_CONNECTIONS = 4
_MAX_INDEXED_DIMENSIONS = 2000
"""Maximum dimensions of pgvector's HNSW index; above it, search is exact."""
# Bounds of hnsw.ef_search, the size of the candidate list during a graph search.
# pgvector accepts at most 1,000.
_MIN_EF_SEARCH, _MAX_EF_SEARCH = 100, 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """Identifies a dataset's vectors of one embedding model."""

    dataset: str
    number: int
    dimensions: int
    """0 for a keyword index without vectors."""

    @property
    def table(self) -> str:
        """Return the table for vectors of this many dimensions."""
        return f"index_vectors_{self.dimensions}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorRows:
    """Entries to insert. The first three sequences have one element per entry, the
    others one per posting."""

    entries: Sequence[int]
    documents: Sequence[str]
    vectors: Sequence[str | None]
    """In pgvector's text format."""
    terms: Sequence[int]
    counts: Sequence[int]
    posting_entries: Sequence[int]
    posting_lengths: Sequence[int]
    posting_documents: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeywordQuery:
    """A BM25 query: the constants k1 and b, the mean entry length, and the weighted
    terms."""

    k1: float
    b: float
    average: float
    weights: Mapping[int, float]

    def values(self) -> list[object]:
        """Return the values in the order of the statement's placeholders."""
        constants = [self.k1, self.k1, self.b, self.b, self.average]
        return [*constants, list(self.weights), list(self.weights.values())]


class VectorTables:
    """The index tables, on separate connections: indexing is slow, and no short
    statement should wait behind it."""

    def __init__(self, database: Database) -> None:
        """Raises ConfigError for a database that is not PostgreSQL."""
        if database.engine != "postgresql":
            raise ConfigError("knowledge.store pgvector needs a postgresql:// database")
        self._engine = database.engine_object()
        self._sql = statements("vectors")
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._created_dimensions: set[int] = set()

    # Connections.

    async def _run(
        self, space: VectorSpace | None, work: Callable[[Connection], T]
    ) -> T:
        """Run `work` in a thread, after the tables of the space exist. Raises
        StorageUnavailableError."""
        async with self._slots:
            return await asyncio.to_thread(self._work, space, work)

    def _work(self, space: VectorSpace | None, work: Callable[[Connection], T]) -> T:
        """Run `work` on a connection of its own, in the calling thread.

        The tables of the space are created first if this process has not done so; None
        needs none. After an error the connection is closed. Raises
        StorageUnavailableError for a transient error and passes others on.
        """
        connection = self._idle.pop() if self._idle else self._engine.connect()
        try:
            # Tables are created on first use, once per number of dimensions and
            # process.
            if space is not None and space.dimensions not in self._created_dimensions:
                self._create_tables(connection, space)
            result = work(connection)
        except self._engine.errors as error:
            # After an error the connection may be inside a failed transaction, so it is
            # not reused.
            with suppress(*self._engine.errors):
                connection.close()
            if self._engine.is_transient(error):
                raise StorageUnavailableError(
                    f"The vector index cannot be reached: {error}"
                ) from error
            raise
        self._idle.append(connection)
        return result

    def _create_tables(self, connection: Connection, space: VectorSpace) -> None:
        """Create the extension, tables and indexes for a space's number of dimensions.

        What exists is left as it is. Above 2,000 dimensions there is no HNSW index, and
        vectors are compared exactly.
        """
        for name in (
            "make_extension",
            "make_postings",
            "make_postings_by_entry",
            "make_table",
            "make_table_by_space",
        ):
            # There is no `vector(0)`; an index of keywords leaves the column empty.
            statement = self._in(space, name).replace(
                "{dimensions}", str(max(1, space.dimensions))
            )
            connection.execute(statement)
        # Vectors with more dimensions cannot be indexed; they are compared exactly.
        if 0 < space.dimensions <= _MAX_INDEXED_DIMENSIONS:
            connection.execute(self._in(space, "make_graph"))
        self._created_dimensions.add(space.dimensions)

    def _in(self, space: VectorSpace, name: str) -> str:
        """Return a statement for the table of a vector space."""
        return self._sql[name].replace("{table}", space.table)

    # Changes.

    async def put(
        self,
        space: VectorSpace,
        removed: Sequence[int],
        batches: Sequence[VectorRows],
        *,
        replace_all: bool,
    ) -> None:
        """Insert entries and delete `removed` ones in one transaction; existing entries
        are unchanged.

        With `replace_all`, everything else in the space is deleted.
        """

        def work(connection: Connection) -> None:
            """Run the changes as one transaction on this connection."""
            connection.execute("BEGIN")
            try:
                self._put(connection, space, removed, batches, replace_all=replace_all)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

        await self._run(space, work)

    def _put(
        self,
        connection: Connection,
        space: VectorSpace,
        removed: Sequence[int],
        batches: Sequence[VectorRows],
        *,
        replace_all: bool,
    ) -> None:
        """Delete and insert a space's vectors and postings, within a transaction.

        With `replace_all` everything in the space is deleted first; `removed` are ids
        of entries.
        """
        # Vectors and postings of a space are replaced together, so that both searches
        # see the same entries.
        for table in (space.table, "index_postings"):
            if replace_all:
                statement = self._sql["clear"].replace("{table}", table)
                connection.execute(statement, (space.dataset, space.number))
            if removed:
                connection.execute(
                    self._sql["delete"].replace("{table}", table), (list(removed),)
                )
        for batch in batches:
            self._insert(connection, space, batch)

    def _insert(
        self, connection: Connection, space: VectorSpace, rows: VectorRows
    ) -> None:
        """Insert one batch of entries with their postings, by one statement each."""
        # Arrays are sent as lists and unnested by the statement: one execution for any
        # number of rows.
        vectors = (list(rows.entries), list(rows.documents), list(rows.vectors))
        connection.execute(
            self._in(space, "add_vectors"), (space.dataset, space.number, *vectors)
        )
        postings = (
            list(rows.terms),
            list(rows.posting_entries),
            list(rows.counts),
            list(rows.posting_lengths),
            list(rows.posting_documents),
        )
        connection.execute(
            self._sql["add_postings"], (space.dataset, space.number, *postings)
        )

    async def delete(self, dataset: str, number: int | None) -> None:
        """Delete a space, or all spaces of a dataset if `number` is None."""

        def work(connection: Connection) -> None:
            """Delete the rows from every vector table, since the dimensions are unknown
            here."""
            for row in connection.execute(self._sql["tables"]):
                if number is None:
                    statement = self._sql["clear_dataset"].replace(
                        "{table}", row["tablename"]
                    )
                    connection.execute(statement, (dataset,))
                else:
                    statement = self._sql["clear"].replace("{table}", row["tablename"])
                    connection.execute(statement, (dataset, number))

        await self._run(None, work)

    # Search.

    async def nearest(
        self,
        space: VectorSpace,
        vector: str,
        limit: int,
        documents: Collection[str] | None,
    ) -> dict[int, float]:
        """Return entry → cosine similarity of the nearest entries, optionally
        restricted to some documents."""
        name, among = (
            ("nearest", [])
            if documents is None
            else ("nearest_among", [list(documents)])
        )
        statement = self._in(space, name).replace("{most}", f"{limit:d}")
        values = [vector, space.dataset, space.number, *among, vector]
        # A larger candidate list finds more accurate neighbours, but takes longer.
        ef_search = min(_MAX_EF_SEARCH, max(_MIN_EF_SEARCH, limit * 2))

        def work(connection: Connection) -> dict[int, float]:
            """Search within a transaction, since the settings are local to one."""
            connection.execute("BEGIN")
            # The settings below are local to this transaction.
            try:
                connection.execute(self._sql["scan_on"])
                connection.execute(self._sql["scan_far"], (str(ef_search),))
                return _scores(connection.execute(statement, values))
            finally:
                # A search has nothing to undo, and PostgreSQL rolls back a failed
                # transaction at this.
                connection.execute("COMMIT")

        return await self._run(space, work)

    async def cosines(
        self, space: VectorSpace, vector: str, entries: Sequence[int]
    ) -> dict[int, float]:
        """Return entry → cosine similarity of the listed entries."""
        return await self._scored(
            space, self._in(space, "cosines"), [vector, list(entries)]
        )

    async def keyword_search(
        self,
        space: VectorSpace,
        keyword_query: KeywordQuery,
        limit: int,
        documents: Collection[str] | None,
    ) -> dict[int, float]:
        """Return entry → BM25 score of the best entries, optionally restricted to some
        documents."""
        name, among = (
            ("matching", [])
            if documents is None
            else ("matching_among", [list(documents)])
        )
        statement = self._sql[name].replace("{most}", f"{limit:d}")
        return await self._scored(
            space,
            statement,
            [*keyword_query.values(), space.dataset, space.number, *among],
        )

    async def sums(
        self, space: VectorSpace, keyword_query: KeywordQuery, entries: Sequence[int]
    ) -> dict[int, float]:
        """Return entry → BM25 score of the listed entries."""
        values = [*keyword_query.values(), space.dataset, space.number, list(entries)]
        return await self._scored(space, self._sql["sums"], values)

    async def _scored(
        self, space: VectorSpace, statement: str, values: Sequence[object]
    ) -> dict[int, float]:
        """Run a query that returns entries with scores, and return score by entry.

        Raises StorageUnavailableError if the database is unavailable.
        """
        return await self._run(
            space, lambda connection: _scores(connection.execute(statement, values))
        )

    async def count(self, space: VectorSpace) -> int:
        """Return the number of entries in a space."""

        def work(connection: Connection) -> int:
            """Count within the thread."""
            rows = connection.execute(
                self._in(space, "count"), (space.dataset, space.number)
            )
            return int(rows[0]["count"])

        return await self._run(space, work)

    async def aclose(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().close()


def _scores(rows: Sequence[Row]) -> dict[int, float]:
    """Return the scores of rows by their entries."""
    return {row["entry"]: float(row["score"]) for row in rows}
