"""Leases of documents: which process indexes which document. Columns `owner`,
`lease_until`, `command` and `turn`."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from modelyard.base.process_identity import has_exited, owner_name
from modelyard.knowledge.entities import Document, Status
from modelyard.knowledge.rows import (
    PreparedDocument,
    finished_row,
    read_document,
    to_json,
)
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.database_clock import DatabaseClock
from modelyard.storage.repository import Repository
from modelyard.storage.signals import SignalListener

LEASE_SECONDS = 15.0
DOCUMENTS_TOPIC = "documents"
"""Signalled when documents are added that some process may index."""


class DocumentClaims(Repository):
    """Claims documents for this process and records their progress."""

    def __init__(
        self, database: Database, clock: Callable[[], float], *, owner: str = ""
    ) -> None:
        """`owner` identifies this process unless another name is given."""
        super().__init__(database, "documents")
        self._clock = DatabaseClock.of(database, clock)
        self.owner = owner or owner_name()

    @property
    def lease_end(self) -> float:
        """The end of a lease that starts now."""
        return self._clock() + LEASE_SECONDS

    # Signals

    def listener(self) -> AbstractContextManager[SignalListener]:
        """Return what hears, during a block, that documents have been added."""
        return self._database.signals.listener(DOCUMENTS_TOPIC)

    def wake(self) -> None:
        """Wake the indexer of this process."""
        self._database.signals.wake(DOCUMENTS_TOPIC)

    def announce(self) -> None:
        """Wake the indexers of all processes, because there are new documents."""
        self.wake()
        # Lost with an outage of the database, but then each one looks by itself.
        if self._database.is_shared:
            self._database.submit(
                lambda connection: self._database.signals.send(
                    connection, DOCUMENTS_TOPIC
                ),
                may_gather=True,
            )

    # Claims

    async def claim(self, limit: int) -> list[tuple[Document, int]]:
        """Claim unowned documents for this process. Returns each with its revision."""
        await self._clock.synchronise()
        current_time = self._clock()

        def look(connection: Connection) -> tuple[list[Row], list[Row]]:
            """Read the current owners and the unowned documents."""
            owned = connection.execute(self._sql["owned"])
            return owned, connection.execute(
                self._sql["to_do"], {"now": current_time, "most": limit}
            )

        owned, to_do = await self._database.read_together(look)
        # Documents of a process that has exited are freed at once, without waiting for
        # the lease to expire.
        exited_owners = [
            row["owner"]
            for row in owned
            if row["owner"] != self.owner and has_exited(row["owner"])
        ]
        if exited_owners:
            await self._release(exited_owners)
            # The released documents are now among those without an owner.
            to_do = await self._rows("to_do", now=current_time, most=limit)
        if not to_do:
            return []

        def work(connection: Connection) -> list[Row]:
            """Claim the documents. One that another process claimed meanwhile yields no
            row."""
            rows: list[Row] = []
            for row in to_do:
                rows += self._step(
                    connection,
                    "claim",
                    self.owner,
                    current_time + LEASE_SECONDS,
                    row["id"],
                    current_time,
                )
            return rows

        return [
            (read_document(row), row["turn"])
            for row in await self._database.transact(work)
        ]

    async def _release(self, owners: Sequence[str]) -> None:
        """Release all documents of the given owners."""
        rows = [(owner,) for owner in owners]
        await self._database.transact(
            lambda connection: connection.execute_many(self._sql["release"], rows)
        )

    async def renew(self) -> None:
        """Extend the leases of all documents of this process."""
        await self._execute("renew", self.lease_end, self.owner)

    async def release(self, ids: Sequence[str]) -> None:
        """Release documents for other processes. Retried until the database accepts it."""
        rows = [(id, self.owner) for id in ids]  # noqa: A001
        await self._database.transact(
            lambda connection: connection.execute_many(self._sql["give_back"], rows),
            is_retried=True,
            may_gather=True,
        )

    async def commands(self) -> dict[str, str]:
        """Return the pending commands for documents of this process, by document id."""
        return {
            row["id"]: row["command"]
            for row in await self._rows("commands", owner=self.owner)
        }

    async def progress(self, documents: Iterable[tuple[Document, int]]) -> None:
        """Record the progress of documents. A document that was changed meanwhile has a
        newer revision, and is left alone."""
        rows = [
            (
                document.status.value,
                document.segments,
                document.done,
                to_json(document.times),
                document.id,
                self.owner,
                revision,
            )
            for document, revision in documents
        ]
        await self._database.transact(
            lambda connection: connection.execute_many(self._sql["progress"], rows)
        )

    async def record_failure(
        self, document: Document, revision: int, status: Status, error: str
    ) -> None:
        """Record that a document failed or was paused, unless it has a newer revision."""
        times = to_json(document.times)
        await self._execute(
            "failed",
            status.value,
            error,
            times,
            self._clock(),
            document.id,
            self.owner,
            revision,
        )

    # Steps of transactions

    def still_owned(
        self, connection: Connection, dataset: str, ready: Sequence[PreparedDocument]
    ) -> list[PreparedDocument]:
        """Return the documents that this process still owns, in the revision it worked
        on."""
        ids = [prepared.document.id for prepared in ready]
        # Reading within the transaction makes the check and the publication atomic.
        rows = self._with_list(connection, "turns", ids, dataset, self.owner)
        turns = {row["id"]: row["turn"] for row in rows}
        return [
            prepared
            for prepared in ready
            if turns.get(prepared.document.id) == prepared.attempt
        ]

    def finish(
        self,
        connection: Connection,
        ready: Sequence[PreparedDocument],
        generation: int,
    ) -> None:
        """Mark documents as completed, in a new generation of their dataset, and
        release them."""
        current_time = self._clock()
        connection.execute_many(
            self._sql["finished"],
            [finished_row(prepared, current_time, generation) for prepared in ready],
        )
