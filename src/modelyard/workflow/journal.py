"""What is kept of runs, so that none is lost: a Protocol, and the one on our own database.

The Protocol asks little, so that a durable engine can carry it: a run is that engine's workflow, each step that ended
one of its recorded results, in the order in which they ended. What a run needs to go on is its record and its steps;
events are for people who watch.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from modelyard.base.owners import is_gone, owner_name
from modelyard.storage.database import Connection, Database, Row, statements
from modelyard.storage.statements import insert
from modelyard.workflow.engine import Status, Step
from modelyard.workflow.events import AnyEvent, dump_event, parse_event


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run as it was started, and what came of it."""

    tenant: str
    id: str
    app: str
    """The app's id; empty for one that was never imported."""
    digest: str = ""
    """Which version of the app's file."""
    mode: str = "workflow"
    root: str = ""
    user: str = ""
    api_key: str = ""
    """The id of the API key on whose behalf it runs; empty for callers of the app itself."""
    inputs: dict[str, Any] = {}
    """By variable; files as objects."""
    system: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    conversation: str = ""
    message: str = ""
    variables: dict[str, Any] = {}
    """Conversation variables as they were when it began."""
    depth: int = 0
    created_at: float = 0.0
    created_from: str = "service-api"
    # what came of it
    status: Status = Status.RUNNING
    outputs: dict[str, Any] = {}
    error: str = ""
    reasons: list[dict[str, Any]] = []
    total_tokens: int = 0
    total_price: float = 0.0
    total_steps: int = 0
    exceptions_count: int = 0
    elapsed: float = 0.0
    finished_at: float | None = None


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What a run that goes on has behind it."""

    steps: list[Step] = []
    """In the order in which they ended."""
    begun: list[str] = []
    """Steps with effects that were begun, and not ended."""
    events: int = 0
    """The number of the last event."""
    said: str = ""
    """The text that was shown."""


class Journal(Protocol):
    """`owner` names a process. Every method may raise StorageUnavailableError."""

    owner: str

    async def create(self, run: RunRecord) -> bool:
        """A run begins here; False where one of that id has begun already."""
        ...

    async def is_mine(self, run: str) -> bool:
        """Whether a run that is not over was begun, or taken up, here."""
        ...

    async def append(
        self, run: RunRecord, steps: Sequence[tuple[int, Step]], events: Sequence[tuple[int, AnyEvent]],
        begun: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Done once all of it is safe, or none: it is one write."""
        ...

    async def settle(self, run: RunRecord, events: Sequence[tuple[int, AnyEvent]] = ()) -> None:
        """It is over, or paused: it belongs to nobody."""
        ...

    async def find(self, tenant: str, run: str) -> RunRecord | None: ...

    async def history(self, run: RunRecord) -> History: ...

    async def resume(self, run: RunRecord) -> bool:
        """A paused run goes on here; False where somebody was quicker."""
        ...

    async def orphans(self) -> list[RunRecord]:
        """Runs whose process is gone; they go on here."""
        ...

    async def renew(self) -> None:
        """This process is there."""
        ...

    async def command(self, tenant: str, run: str, command: str) -> bool:
        """Want something of a run, whichever process has it; False where it does not run."""
        ...

    async def commands(self) -> list[tuple[str, str]]:
        """What is wanted of this process's runs: (run, command)."""
        ...

    async def events(self, run: str, after: int, most: int = 1000) -> list[tuple[int, AnyEvent]]: ...


LEASE_SECONDS = 15.0
_BODY = (
    "digest", "mode", "root", "inputs", "system", "environment", "conversation", "message", "variables", "depth",
    "created_from",
)  # fmt: skip
_RESULT = (
    "outputs", "error", "reasons", "total_tokens", "total_price", "total_steps", "exceptions_count", "elapsed",
)  # fmt: skip


class DatabaseJournal:
    """On SQLite or PostgreSQL. Writes of many runs share a commit."""

    def __init__(self, database: Database, now: Any) -> None:
        self._database = database
        self._now = now
        self._sql = statements("runs")
        self.owner = owner_name()

    async def _transact(self, work: Any, *, is_kept: bool = False) -> Any:
        return await self._database.transact(work, is_kept=is_kept)

    async def _read(self, name: str, **values: Any) -> list[Any]:
        return await self._database.fetch(self._sql[name], values)

    async def create(self, run: RunRecord) -> bool:
        body = _dump(run, _BODY)
        values = (
            run.tenant, run.id, run.app, run.status.value, run.user, body, self.owner, self._now() + LEASE_SECONDS,
            run.created_at,
        )  # fmt: skip
        return bool(await self._transact(lambda it: it.execute(self._sql["create"], values)))

    async def is_mine(self, run: str) -> bool:
        return bool(await self._read("mine", id=run, owner=self.owner))

    async def append(
        self, run: RunRecord, steps: Sequence[tuple[int, Step]], events: Sequence[tuple[int, AnyEvent]],
        begun: Sequence[str] = (),
    ) -> None:  # fmt: skip
        step_rows = [(run.id, step.key, seq, msgspec.json.encode(step).decode()) for seq, step in steps]
        event_rows = self._rows(run, events)

        def work(connection: Connection) -> None:
            if begun:
                connection.execute_many(self._sql["begun"], [(run.id, key) for key in begun])
            if step_rows:
                connection.execute_many(self._sql["step"], step_rows)
            if event_rows:
                insert(connection, self._sql["event"], list(event_rows))

        # It is kept until the database takes it: a full disk must not end a run.
        await self._transact(work, is_kept=True)

    @staticmethod
    def _rows(run: RunRecord, events: Sequence[tuple[int, AnyEvent]]) -> list[tuple[Any, ...]]:
        return [(run.id, seq, dump_event(event).decode()) for seq, event in events]

    async def settle(self, run: RunRecord, events: Sequence[tuple[int, AnyEvent]] = ()) -> None:
        rows = self._rows(run, events)
        values = (run.status.value, _dump(run, _RESULT), run.finished_at, run.id)

        def work(connection: Connection) -> None:
            if rows:
                insert(connection, self._sql["event"], list(rows))
            connection.execute(self._sql["settle"], values)

        await self._transact(work, is_kept=True)

    async def find(self, tenant: str, run: str) -> RunRecord | None:
        rows = await self._read("one", tenant=tenant, id=run)
        return _record(rows[0]) if rows else None

    async def list(
        self, tenant: str, app: str, *, status: str = "", before: float = 1e15, since: float = 0.0, most: int = 20,
        skip: int = 0,
    ) -> "tuple[list[RunRecord], int]":  # fmt: skip
        """(an app's runs, newest first; how many there are)."""
        where = {"tenant": tenant, "app": app, "status": status, "before": before, "since": since}

        def work(connection: Connection) -> "tuple[list[Row], int]":
            rows = connection.execute(self._sql["list"], {**where, "most": most, "skip": skip})
            counted = connection.execute(self._sql["count"], where)
            return rows, int(counted[0]["count"])

        rows, count = await self._database.at_once(work)
        return [_record(row) for row in rows], count

    async def history(self, run: RunRecord) -> History:
        rows = await self._read("steps", run=run.id)
        steps = [msgspec.json.decode(row["body"], type=Step) for row in rows if row["body"]]
        said: list[str] = []
        last = 0
        while events := await self.events(run.id, last, 5000):
            last = events[-1][0]
            for _, event in events:
                kind = type(event).__name__
                if kind == "NodeRunStreamChunk" and not event.in_iteration_id and not event.in_loop_id:  # type: ignore[union-attr]
                    said.append(event.chunk)  # type: ignore[union-attr]
                elif kind == "TextReplaced":
                    said = [event.text]  # type: ignore[union-attr]
        begun = [str(row["key"]) for row in rows if not row["body"]]
        return History(steps=steps, begun=begun, events=last, said="".join(said))

    async def resume(self, run: RunRecord) -> bool:
        values = (self.owner, self._now() + LEASE_SECONDS, run.id, Status.PAUSED.value)
        return bool(await self._transact(lambda it: it.execute(self._sql["own"], values)))

    async def orphans(self) -> "list[RunRecord]":
        now = self._now()
        silent, others = await self._database.at_once(lambda it: self._left(it, now))
        rows = {row["id"]: row for row in silent}
        rows |= {row["id"]: row for row in others if is_gone(row["owner"])}
        # Whoever else recovers claims in the same order: two transactions that wait for each other get nowhere.
        in_order = sorted(rows.values(), key=lambda row: (row["created_at"], row["id"]))
        wanted = [row for row in in_order if row["owner"] != self.owner]
        if not wanted:
            return []

        def work(connection: Connection) -> "list[Row]":
            lease_until = now + LEASE_SECONDS
            return [row for row in wanted if self._is_claimed(connection, row, lease_until)]

        return [_record(row) for row in await self._transact(work)]

    def _left(self, connection: Connection, now: float) -> "tuple[list[Row], list[Row]]":
        """(runs whose owner has not been heard of, runs that any other process has)."""
        silent = connection.execute(self._sql["orphans"], {"now": now})
        others = connection.execute(self._sql["of_owner"], {"owner": self.owner})
        return silent, others

    def _is_claimed(self, connection: Connection, row: Row, lease_until: float) -> bool:
        """Whether an orphan goes on here; False where somebody was quicker."""
        values = (self.owner, lease_until, row["id"], row["owner"])
        return bool(connection.execute(self._sql["claim"], values))

    async def renew(self) -> None:
        values = (self._now() + LEASE_SECONDS, self.owner)
        await self._transact(lambda it: it.execute(self._sql["renew"], values))

    async def command(self, tenant: str, run: str, command: str) -> bool:
        values = (command, tenant, run)
        return bool(await self._transact(lambda it: it.execute(self._sql["command"], values)))

    async def commands(self) -> "list[tuple[str, str]]":
        return [(row["id"], row["command"]) for row in await self._read("commands", owner=self.owner)]

    async def events(self, run: str, after: int, most: int = 1000) -> "list[tuple[int, AnyEvent]]":
        rows = await self._read("events", run=run, after=after, most=most)
        return [(int(row["seq"]), parse_event(row["body"])) for row in rows]

    # forms

    async def form(self, run: str, key: str) -> Any:
        rows = await self._read("form", run=run, key=key)
        return rows[0] if rows else None

    async def form_by_token(self, token: str) -> Any:
        rows = await self._read("form_by_token", token=token)
        return rows[0] if rows else None

    async def ask(self, run: RunRecord, key: str, token: str, form: dict[str, Any], expires_at: float) -> Row:
        """A step's form as it is kept: this one, or the one that was asked before."""
        values = (run.id, key, run.tenant, token, msgspec.json.encode(form).decode(), expires_at)

        def work(connection: Connection) -> Row:
            connection.execute(self._sql["ask"], values)
            return connection.execute(self._sql["form"], {"run": run.id, "key": key})[0]

        return await self._transact(work)

    async def fill(self, token: str, answer: dict[str, Any]) -> "tuple[str, str] | None":
        """(tenant, run); None where it was filled in before."""
        values = (msgspec.json.encode(answer).decode(), token)
        rows = await self._transact(lambda it: it.execute(self._sql["fill"], values))
        return (rows[0]["tenant"], rows[0]["run"]) if rows else None

    async def expired(self) -> "list[tuple[str, str]]":
        """(tenant, run) of those that waited for forms whose time is over; they say so from now on."""
        late = sorted(await self._read("late", now=self._now()), key=lambda row: (row["run"], row["key"]))
        if late:
            answers = [msgspec.json.encode({"expired": row["expires_at"]}).decode() for row in late]
            values = [(answer, row["run"], row["key"]) for row, answer in zip(late, answers, strict=True)]
            await self._transact(lambda it: it.execute_many(self._sql["expire"], values))
        return [(row["tenant"], row["run"]) for row in late]

    # tidying

    async def remove(self, tenant: str, run: str) -> bool:
        """False where there is none, or it runs."""

        def work(connection: Connection) -> bool:
            rows = connection.execute(self._sql["remove"], (tenant, run))
            self._forget(connection, [row["id"] for row in rows])
            return bool(rows)

        return bool(await self._transact(work))

    async def forget(self, before: float) -> int:
        """Runs that ended before then, with all that was kept of them."""

        def work(connection: Connection) -> int:
            rows = connection.execute(self._sql["forget_runs"], (before,))
            self._forget(connection, [row["id"] for row in rows])
            return len(rows)

        return int(await self._transact(work))

    def _forget(self, connection: Connection, runs: "list[str]") -> None:
        for run in runs:
            for name in ("forget_steps", "forget_events", "forget_forms"):
                connection.execute(self._sql[name], (run,))

    # apps' files

    async def keep_document(self, tenant: str, digest: str, text: str) -> None:
        values = (tenant, digest, text, self._now())
        await self._transact(lambda it: it.execute(self._sql["put_document"], values))

    async def document(self, tenant: str, digest: str) -> str | None:
        rows = await self._read("document", tenant=tenant, digest=digest)
        return rows[0]["body"] if rows else None


def _dump(run: RunRecord, names: Sequence[str]) -> str:
    return msgspec.json.encode({name: getattr(run, name) for name in names}).decode()


def _record(row: Any) -> RunRecord:
    values = {**msgspec.json.decode(row["body"]), **(msgspec.json.decode(row["result"]) if row["result"] else {})}
    values |= {
        "tenant": row["tenant"], "id": row["id"], "app": row["app"], "status": row["status"], "user": row["user"],
        "created_at": row["created_at"], "finished_at": row["finished_at"],
    }  # fmt: skip
    return msgspec.convert(values, RunRecord)
