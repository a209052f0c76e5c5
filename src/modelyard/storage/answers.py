"""Answers that may be given again, each under its tenant: in memory, or in the database for all processes on it."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from modelyard.base.clock import Clock
from modelyard.storage.database import Database
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.statements import statements


class Answers(Protocol):
    async def get(self, tenant: str, name: str) -> bytes | None: ...

    async def put(self, tenant: str, name: str, body: bytes, seconds: float) -> None: ...

    async def clear(self, tenant: str) -> None: ...


class MemoryAnswers:
    """As many bytes as it is given; the longest unused go first."""

    def __init__(self, clock: Clock, *, most_bytes: int) -> None:
        self._clock = clock
        self._most = most_bytes
        self._size = 0
        self._kept: OrderedDict[tuple[str, str], tuple[bytes, float]] = OrderedDict()

    async def get(self, tenant: str, name: str) -> bytes | None:
        found = self._kept.get((tenant, name))
        if found is None:
            return None
        body, until = found
        if until <= self._clock.monotonic():
            self._drop((tenant, name))
            return None
        self._kept.move_to_end((tenant, name))
        return body

    async def put(self, tenant: str, name: str, body: bytes, seconds: float) -> None:
        if len(body) > self._most // 8:
            return  # one answer must not push out all others
        self._drop((tenant, name))
        self._kept[tenant, name] = body, self._clock.monotonic() + seconds
        self._size += len(body)
        while self._size > self._most:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, str]) -> None:
        if (found := self._kept.pop(key, None)) is not None:
            self._size -= len(found[0])

    async def clear(self, tenant: str) -> None:
        for key in [one for one in self._kept if one[0] == tenant]:
            self._drop(key)


class DatabaseAnswers:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._sql = statements("answers")
        self._turns = 0

    async def get(self, tenant: str, name: str) -> bytes | None:
        values = {"tenant": tenant, "name": name, "now": self._clock.time()}
        rows = await self._database.fetch(self._sql["get"], values)
        return bytes(rows[0]["body"]) if rows else None

    async def put(self, tenant: str, name: str, body: bytes, seconds: float) -> None:
        now = self._clock.time()
        self._database.write(self._sql["put"], (tenant, name, body, now + seconds))
        self._turns += 1
        if self._turns % 1000 == 0:
            self._database.submit(lambda it: it.execute(self._sql["forget"], (now,)), may_gather=True)

    async def clear(self, tenant: str) -> None:
        await self._database.transact(lambda it: it.execute(self._sql["clear"], (tenant,)))


class Patient:
    """Another store that a call does not fail for: out of reach, it holds nothing."""

    def __init__(self, answers: Answers, on_trouble: Callable[[StorageUnavailableError], None]) -> None:
        self._answers = answers
        self._on_trouble = on_trouble

    async def get(self, tenant: str, name: str) -> bytes | None:
        try:
            return await self._answers.get(tenant, name)
        except StorageUnavailableError as error:
            self._on_trouble(error)
            return None

    async def put(self, tenant: str, name: str, body: bytes, seconds: float) -> None:
        try:
            await self._answers.put(tenant, name, body, seconds)
        except StorageUnavailableError as error:
            self._on_trouble(error)

    async def clear(self, tenant: str) -> None:
        await self._answers.clear(tenant)
