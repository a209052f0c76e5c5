"""The table of dataset sources: what each dataset is kept in step with, and which
process synchronises it."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from modelyard.base.process_identity import has_exited, owner_name
from modelyard.storage.database import Database, Row
from modelyard.storage.database_clock import DatabaseClock
from modelyard.storage.repository import Repository

LEASE_SECONDS = 15.0


class StoredSource(msgspec.Struct, frozen=True, kw_only=True):
    """A source of a dataset."""

    id: str
    tenant: str
    dataset: str
    name: str
    connector: str
    """The type of the source, such as `s3`."""
    address: str
    """What its documents name as their origin; it never changes."""
    settings: Mapping[str, Any]
    """Without credentials."""
    secret: str
    """The credentials as JSON, encrypted."""
    access: list[str]
    """Access rules, in the form that `parse_rules` reads."""
    schedule: str
    timezone: str
    is_enabled: bool
    is_operators: bool
    """Whether it was added on the server's command line."""
    created_at: float
    due_at: float | None
    owner: str
    lease_until: float
    attempt: int
    started_at: float
    finished_at: float
    report: Mapping[str, Any] | None
    error: str

    @property
    def is_running(self) -> bool:
        """Whether a process synchronises it, or did so when it stopped."""
        return self.owner != ""


class StoredSources(Repository):
    """Repository of dataset sources; claims them for this process."""

    def __init__(
        self, database: Database, clock: Callable[[], float], *, owner: str = ""
    ) -> None:
        """`owner` identifies this process unless another name is given."""
        super().__init__(database, "dataset_sources")
        self._clock = DatabaseClock.of(database, clock)
        self.owner = owner or owner_name()

    def now(self) -> float:
        """Return the database's time, by which sources are due."""
        return self._clock()

    async def add(self, source: StoredSource) -> bool:
        """Add a source. Returns False if its dataset has one with its name or its
        address."""
        rows = await self._execute(
            "add",
            source.id,
            source.tenant,
            source.dataset,
            source.name,
            source.connector,
            source.address,
            _json(source.settings),
            source.secret,
            _json(source.access),
            source.schedule,
            source.timezone,
            int(source.is_enabled),
            int(source.is_operators),
            # In seconds of the database's clock, like all times of the table.
            source.created_at,
            source.due_at,
        )
        return bool(rows)

    async def of_dataset(self, tenant: str, dataset: str) -> list[StoredSource]:
        """Return the sources of a dataset, by name."""
        rows = await self._rows("of_dataset", tenant=tenant, dataset=dataset)
        return [_source(row) for row in rows]

    async def of_tenant(self, tenant: str) -> list[StoredSource]:
        """Return all sources of a tenant."""
        return [_source(row) for row in await self._rows("of_tenant", tenant=tenant)]

    async def find(self, tenant: str, dataset: str, source: str) -> StoredSource | None:
        """Return a source by its id or its name; None if the dataset has none."""
        rows = await self._rows("one", tenant=tenant, dataset=dataset, source=source)
        return _source(rows[0]) if rows else None

    async def change(self, source: StoredSource) -> StoredSource | None:
        """Store changed fields and take a running synchronisation's claim away. Returns
        None if the source was removed. Raises AlreadyExistsError of the engine."""
        rows = await self._execute(
            "change",
            source.name,
            _json(source.settings),
            source.secret,
            _json(source.access),
            source.schedule,
            source.timezone,
            int(source.is_enabled),
            source.due_at,
            source.tenant,
            source.id,
        )
        return _source(rows[0]) if rows else None

    async def reseal(self, source: StoredSource, secret: str) -> bool:
        """Replace the encrypted credentials. Returns False if they have been changed."""
        return bool(
            await self._execute(
                "reseal", secret, source.tenant, source.id, source.secret
            )
        )

    async def request(self, source: StoredSource) -> None:
        """Have a source synchronised now; one that is being synchronised is left."""
        await self._execute("request", self._clock(), source.tenant, source.id)

    async def stop(self, source: StoredSource) -> None:
        """Disable a source and have a running synchronisation stop."""
        await self._execute("stop", source.tenant, source.id)

    async def remove(self, source: StoredSource) -> bool:
        """Remove a source. Returns False if it did not exist."""
        return bool(await self._execute("remove", source.tenant, source.id))

    async def remove_all(self, tenant: str, dataset: str) -> None:
        """Remove the sources of a deleted dataset."""
        await self._execute("remove_all", tenant, dataset)

    # Claims

    async def claim(self) -> StoredSource | None:
        """Claim the source that has been due for longest; None if none is due."""
        # Servers compare leases on one clock.
        await self._clock.synchronise()
        now = self._clock()
        for row in await self._rows("due", now=now):
            if not _is_free(row, now):
                continue
            claimed = await self._execute(
                "claim",
                self.owner,
                now + LEASE_SECONDS,
                now,
                row["id"],
                now,
                # Compared once more: of two processes that see it, one gets it.
                row["owner"],
                row["lease_until"],
            )
            if claimed:
                return _source(claimed[0])
        return None

    async def renew(self, source: StoredSource) -> bool:
        """Extend this process's lease. Returns False if the claim was lost: the source
        was changed, stopped, removed, or taken over."""
        lease_end = self._clock() + LEASE_SECONDS
        # The attempt is compared too: a change counts as one, and takes the claim away.
        return bool(
            await self._execute(
                "renew", lease_end, source.id, self.owner, source.attempt
            )
        )

    async def finish(
        self,
        source: StoredSource,
        report: Mapping[str, Any],
        error: str,
        due_at: float | None,
    ) -> bool:
        """Store how a synchronisation ended. Returns False if the claim was lost."""
        # A result of an earlier owner must not hide that of the present one.
        rows = await self._execute(
            "finish",
            self._clock(),
            _json(report),
            error,
            due_at,
            source.id,
            self.owner,
            source.attempt,
        )
        return bool(rows)

    async def release(self, source: StoredSource) -> None:
        """Give up a claim without a result, so that any process can go on."""
        # A stop counts as one attempt more; a later claim of this process as two.
        await self._execute("release", source.id, self.owner, source.attempt + 1)


def _is_free(row: Row, now: float) -> bool:
    """Return whether a due source has no living owner."""
    # A process of this machine that has exited need not be waited for.
    return (
        not row["owner"] or row["lease_until"] < now or bool(has_exited(row["owner"]))
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _source(row: Row) -> StoredSource:
    """Return a row as a source."""
    report = row["report"]
    return StoredSource(
        id=row["id"],
        tenant=row["tenant"],
        dataset=row["dataset"],
        name=row["name"],
        connector=row["connector"],
        address=row["address"],
        settings=msgspec.json.decode(row["settings"], type=dict[str, Any]),
        secret=row["secret"],
        access=msgspec.json.decode(row["access"], type=list[str]),
        schedule=row["schedule"],
        timezone=row["timezone"],
        is_enabled=bool(row["is_enabled"]),
        is_operators=bool(row["is_operators"]),
        created_at=row["created_at"],
        due_at=row["due_at"],
        owner=row["owner"],
        lease_until=row["lease_until"],
        attempt=row["attempt"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        report=msgspec.json.decode(report, type=dict[str, Any]) if report else None,
        error=row["error"],
    )
