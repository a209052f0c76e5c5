"""Which process works on which document: the columns `owner`, `lease_until`, `command` and `turn` of its row."""

from collections.abc import Callable, Iterable, Sequence

from modelyard.base.owners import is_gone, owner_name
from modelyard.knowledge.entities import Document, Status
from modelyard.knowledge.rows import Ready, dump, finished, read_document
from modelyard.storage.database import Connection, Database, Row
from modelyard.storage.repository import Repository

LEASE_SECONDS = 15.0


class Claims(Repository):
    def __init__(self, database: Database, now: Callable[[], float], *, owner: str = "") -> None:
        """`owner` is this process, unless another is named."""
        super().__init__(database, "documents")
        self._now = now
        self.owner = owner or owner_name()

    @property
    def until(self) -> float:
        """When what is claimed now would be anybody's again."""
        return self._now() + LEASE_SECONDS

    async def claim(self, most: int) -> list[tuple[Document, int]]:
        """Documents that nobody has, as this process's own, each with its turn."""
        now = self._now()

        def look(connection: Connection) -> tuple[list[Row], list[Row]]:
            owned = connection.execute(self._sql["owned"])
            return owned, connection.execute(self._sql["to_do"], {"now": now, "most": most})

        owned, to_do = await self._database.at_once(look)
        gone = [row["owner"] for row in owned if row["owner"] != self.owner and is_gone(row["owner"])]
        if gone:
            await self._release(gone)
            to_do = await self._rows("to_do", now=now, most=most)
        if not to_do:
            return []

        def work(connection: Connection) -> list[Row]:
            rows: list[Row] = []
            for row in to_do:
                rows += self._step(connection, "claim", self.owner, now + LEASE_SECONDS, row["id"], now)
            return rows

        return [(read_document(row), row["turn"]) for row in await self._database.transact(work)]

    async def _release(self, owners: Sequence[str]) -> None:
        """What these had is free."""
        rows = [(owner,) for owner in owners]
        await self._database.transact(lambda connection: connection.execute_many(self._sql["release"], rows))

    async def renew(self) -> None:
        await self._do("renew", self.until, self.owner)

    async def give_back(self, ids: Sequence[str]) -> None:
        """Somebody else may have these; told until the database takes it."""
        rows = [(id, self.owner) for id in ids]  # noqa: A001
        await self._database.transact(
            lambda connection: connection.execute_many(self._sql["give_back"], rows), is_kept=True, may_gather=True
        )

    async def commands(self) -> dict[str, str]:
        """What is wanted of documents that this process has."""
        return {row["id"]: row["command"] for row in await self._rows("commands", owner=self.owner)}

    async def progress(self, documents: Iterable[tuple[Document, int]]) -> None:
        """How far documents are, each in its turn."""
        rows = [
            (each.status.value, each.segments, each.done, dump(each.times), each.id, self.owner, turn)
            for each, turn in documents
        ]
        await self._database.transact(lambda connection: connection.execute_many(self._sql["progress"], rows))

    async def failed(self, document: Document, turn: int, status: Status, error: str) -> None:
        times = dump(document.times)
        await self._do("failed", status.value, error, times, self._now(), document.id, self.owner, turn)

    # steps of transactions

    def ours(self, connection: Connection, dataset: str, ready: Sequence[Ready]) -> list[Ready]:
        """Those that this process still has, in the turn that it worked on."""
        ids = [each.document.id for each in ready]
        rows = self._listed(connection, "turns", ids, dataset, self.owner)
        turns = {row["id"]: row["turn"] for row in rows}
        return [each for each in ready if turns.get(each.document.id) == each.turn]

    def finish(self, connection: Connection, ready: Sequence[Ready]) -> None:
        """They can be searched, and are nobody's."""
        now = self._now()
        connection.execute_many(self._sql["finished"], [finished(each, now) for each in ready])
