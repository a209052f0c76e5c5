"""Response caches, separated by tenant: in memory, or in the database for all processes
that share it."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from modelyard.base.clock import Clock
from modelyard.storage.database import Database
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.statements import statements


class ResponseCache(Protocol):
    """A cache of response bodies, by tenant and name."""

    async def get(self, tenant: str, name: str) -> bytes | None:
        """Return a cached body, or None if it is missing or expired."""
        ...

    async def put(self, tenant: str, name: str, body: bytes, seconds: float) -> None:
        """Store a body for a number of seconds."""
        ...

    async def clear(self, tenant: str) -> None:
        """Delete all entries of a tenant."""
        ...


class MemoryResponseCache:
    """A cache in memory with a size limit; the least recently used entries are evicted
    first."""

    def __init__(self, clock: Clock, *, max_bytes: int) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._size = 0
        self._entries: OrderedDict[tuple[str, str], tuple[bytes, float]] = OrderedDict()

    async def get(self, tenant: str, name: str) -> bytes | None:
        """Return a cached body and mark it as recently used, or None if it is missing
        or expired."""
        cached = self._entries.get((tenant, name))
        if cached is None:
            return None
        body, until = cached
        if until <= self._clock.monotonic():
            self._drop((tenant, name))
            return None
        self._entries.move_to_end((tenant, name))
        return body

    async def put(self, tenant: str, name: str, body: bytes, seconds: float) -> None:
        """Store a body for a number of seconds. Bodies above an eighth of the limit are
        not stored."""
        if len(body) > self._max_bytes // 8:
            # One response must not evict all others.
            return
        # Dropped first, so that the size of a replaced entry is subtracted.
        self._drop((tenant, name))
        self._entries[tenant, name] = body, self._clock.monotonic() + seconds
        self._size += len(body)
        # The dict is ordered from the least to the most recently used.
        while self._size > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: tuple[str, str]) -> None:
        """Remove an entry, and subtract its size."""
        if (cached := self._entries.pop(key, None)) is not None:
            self._size -= len(cached[0])

    async def clear(self, tenant: str) -> None:
        """Delete all entries of a tenant."""
        for key in [
            cached_key for cached_key in self._entries if cached_key[0] == tenant
        ]:
            self._drop(key)


class DatabaseResponseCache:
    """A cache in the database. Writes are queued; an entry may become readable a moment
    later."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._sql = statements("answers")
        self._write_count = 0

    async def get(self, tenant: str, name: str) -> bytes | None:
        """Return a cached body, or None if it is missing or expired."""
        values = {"tenant": tenant, "name": name, "now": self._clock.time()}
        rows = await self._database.fetch(self._sql["get"], values)
        return bytes(rows[0]["body"]) if rows else None

    async def put(self, tenant: str, name: str, body: bytes, seconds: float) -> None:
        """Queue a body to be stored for a number of seconds."""
        current_time = self._clock.time()
        self._database.write(
            self._sql["put"], (tenant, name, body, current_time + seconds)
        )
        self._write_count += 1
        # Expired rows are deleted once per thousand writes, when the writer has time.
        if self._write_count % 1000 == 0:
            self._database.submit(
                lambda connection: connection.execute(
                    self._sql["forget"], (current_time,)
                ),
                may_gather=True,
            )

    async def clear(self, tenant: str) -> None:
        """Delete all entries of a tenant."""
        await self._database.transact(
            lambda connection: connection.execute(self._sql["clear"], (tenant,))
        )


class FailSoftCache:
    """Wraps a cache so that an unreachable one behaves as if it were empty.

    Errors go to `on_trouble`, except for `clear`, whose caller must know.
    """

    def __init__(
        self,
        answers: ResponseCache,
        on_trouble: Callable[[StorageUnavailableError], None],
    ) -> None:
        self._answers = answers
        self._on_trouble = on_trouble

    async def get(self, tenant: str, name: str) -> bytes | None:
        """Return a cached body, or None if it is missing or the cache is unreachable."""
        try:
            return await self._answers.get(tenant, name)
        except StorageUnavailableError as error:
            self._on_trouble(error)
            return None

    async def put(self, tenant: str, name: str, body: bytes, seconds: float) -> None:
        """Store a body; an unreachable cache is only reported."""
        try:
            await self._answers.put(tenant, name, body, seconds)
        except StorageUnavailableError as error:
            self._on_trouble(error)

    async def clear(self, tenant: str) -> None:
        """Delete all entries of a tenant. Raises StorageUnavailableError."""
        await self._answers.clear(tenant)
