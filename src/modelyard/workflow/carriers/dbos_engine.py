"""DBOS as the engine of runs: a queued run is a DBOS workflow with one step, on a queue
whose partitions are tenants. Needs the extra `dbos`.

DBOS recovers the workflows of a process only when it is told that the process is gone;
our own leases tell it (`executors.py`). Forms that expire are delayed workflows.
"""

import asyncio
import json
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from dbos import DBOS, DBOSClient, EnqueueOptions, Serializer

from modelyard.storage.database import StorageUnavailableError
from modelyard.workflow.carrier import (
    EngineUnavailableError,
    Execute,
    RunTicket,
    Segment,
    SegmentState,
)
from modelyard.workflow.carriers.executors import Executors

_NAME = "modelyard"
_QUEUE = "modelyard-runs"
_WORKFLOW = "modelyard.run"
# What the workflow does has not changed since; servers of several releases share it.
_VERSION = "modelyard-run-1"
_POLL_SECONDS = 0.1
"""How soon a queued run starts. Each process asks the database that often."""
_NO_LIMIT = 1_000_000
_MAX_SECONDS = 5.0
"""Time for the database to answer."""
_RETRY_SECONDS = 2.0
_ENDED = frozenset({"SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"})


class DbosSetup(msgspec.Struct, frozen=True, kw_only=True):
    """How to use DBOS."""

    url: str
    """The PostgreSQL database, with a password. Never part of a message."""
    max_runs: int
    """Runs that this process executes at once; 0 if it executes none."""
    max_tenant_runs: int = 0
    """Runs of one tenant that all processes execute at once; 0 for no limit."""

    @property
    def address(self) -> str:
        """The database without a password."""
        return f"postgresql://{self.url.rpartition('@')[2].partition('?')[0]}"


class _JsonSerializer(Serializer):
    """Stores tickets as JSON. DBOS's own serializer would unpickle what it reads."""

    def serialize(self, data: Any) -> str:
        """Return a value as JSON; an exception as its type, because its text may be
        about a run."""
        if isinstance(data, BaseException):
            data = {"error": type(data).__name__}
        return json.dumps(data)

    def deserialize(self, serialized_data: str) -> Any:
        """Return a stored value."""
        return json.loads(serialized_data)

    def name(self) -> str:
        """Return the name that is stored with each value."""
        return "modelyard_json"


class DbosEngine:
    """See `carrier.Engine`. A process has at most one that executes."""

    def __init__(self, setup: DbosSetup, executors: Executors, owner: str) -> None:
        self.problem = ""
        self._setup = setup
        self._executors = executors
        self._owner = owner
        self._client: DBOSClient | None = None
        self._dbos: DBOS | None = None
        self._launching: asyncio.Task[None] | None = None
        self._is_leaving = False

    @property
    def executes(self) -> bool:
        """See Engine.executes."""
        return self._setup.max_runs > 0

    def start(self, execute: Execute) -> None:
        """See Engine.start."""
        if self.executes:
            self.problem = f"DBOS has not started yet at {self._setup.address}"
            self._launching = asyncio.ensure_future(self._launch(execute))

    async def _launch(self, execute: Execute) -> None:
        """Take work from the queue, as soon as the database can be reached."""
        while not self._is_leaving:
            try:
                # Registered first: whoever takes work must be known to be alive.
                await self._executors.renew(self._owner)
                await self._launch_once(execute)
            except StorageUnavailableError:
                pass
            # DBOS, SQLAlchemy and the driver have errors of their own.
            except Exception as error:  # noqa: BLE001
                self._note(error)
            else:
                self.problem = ""
                return
            await asyncio.sleep(_RETRY_SECONDS)

    async def _launch_once(self, execute: Execute) -> None:
        """Start DBOS in threads of its own."""
        # What an attempt that failed has registered is registered again.
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True)
        self._dbos = DBOS(
            config={
                "name": _NAME,
                "system_database_url": self._setup.url,
                "application_version": _VERSION,
                "executor_id": self._owner,
                "serializer": _JsonSerializer(),
                "log_level": "ERROR",
            }
        )
        self._register(execute, asyncio.get_running_loop())
        await asyncio.to_thread(self._listen)

    def _listen(self) -> None:
        """Start DBOS's threads. Its asynchronous methods are of no use: they replace the
        thread pool of the loop that calls them."""
        DBOS.launch()
        DBOS.register_queue(
            _QUEUE,
            worker_concurrency=self._setup.max_runs,
            partition_concurrency=self._setup.max_tenant_runs or _NO_LIMIT,
            polling_interval_sec=_POLL_SECONDS,
            on_conflict="always_update",
        )

    def _register(self, execute: Execute, loop: asyncio.AbstractEventLoop) -> None:
        """Register the workflow. DBOS runs it on a loop of its own; runs belong to
        `loop`."""

        @DBOS.workflow(name=_WORKFLOW)
        async def carry(ticket: dict[str, Any]) -> str:
            """Execute a run until it ends or pauses; return how it is then."""

            async def step() -> str:
                """Execute the run on the loop of this process's runs."""
                work = self._carry(execute, msgspec.convert(ticket, RunTicket))
                # A future of threads: the two loops belong to two of them.
                return await asyncio.wrap_future(
                    asyncio.run_coroutine_threadsafe(work, loop)
                )

            return await DBOS.run_step_async({"name": "execute"}, step)

        self._carry_workflow = carry

    async def _carry(self, execute: Execute, ticket: RunTicket) -> str:
        """Execute a run, and leave a timer if it waits for a form."""
        segment = await execute(ticket)
        await self._follow_up(ticket, segment)
        return segment.state.value

    async def _follow_up(self, ticket: RunTicket, segment: Segment) -> None:
        """Queue what has to come after a part of a run."""
        try:
            if segment.state is SegmentState.PAUSED and segment.due_in is not None:
                identity = f"{ticket.run}:{ticket.epoch}:due"
                # A little later: by then the form has expired for certain.
                await self._enqueue(ticket, identity, max(0.0, segment.due_in) + 0.5)
        except EngineUnavailableError:
            # Expired forms are looked for without the engine too, less often.
            return

    async def dispatch(self, ticket: RunTicket) -> None:
        """See Engine.dispatch."""
        identity = f"{ticket.run}:{ticket.epoch}"
        status = await self._ask(lambda client: _status(client, identity))
        # It has ended without having claimed the run, or somebody has cancelled it.
        if status in _ENDED:
            identity = f"{identity}:{uuid.uuid4().hex[:12]}"
        await self._enqueue(ticket, identity)

    async def _enqueue(
        self, ticket: RunTicket, identity: str, delay_seconds: float = 0.0
    ) -> None:
        """Queue a workflow, unless there is one with this id. Raises
        EngineUnavailableError."""
        options: EnqueueOptions = {
            "workflow_name": _WORKFLOW,
            "queue_name": _QUEUE,
            "workflow_id": identity,
            "app_version": _VERSION,
            "queue_partition_key": ticket.tenant,
        }
        if delay_seconds:
            options["delay_seconds"] = delay_seconds
        document = msgspec.to_builtins(ticket)

        def enqueue(client: DBOSClient) -> None:
            """Queue the workflow; its result is of no interest."""
            client.enqueue(options, document)

        await self._ask(enqueue)

    async def _ask(self, question: Callable[[DBOSClient], Any]) -> Any:
        """Call a function with the client, in a thread. Raises EngineUnavailableError."""

        def work() -> Any:
            """Connect if that was not done yet, and ask."""
            if self._client is None:
                self._client = DBOSClient(
                    system_database_url=self._setup.url,
                    serializer=_JsonSerializer(),
                    application_name=_NAME,
                    lazy=True,
                    retry_connection_errors=False,
                )
            return question(self._client)

        try:
            async with asyncio.timeout(_MAX_SECONDS):
                return await asyncio.to_thread(work)
        # DBOS, SQLAlchemy and the driver have errors of their own.
        except Exception as error:  # noqa: BLE001
            self._note(error)
            raise EngineUnavailableError(self.problem) from None

    def _note(self, error: Exception) -> None:
        """Remember that DBOS cannot be used. Texts of drivers may hold the password."""
        self.problem = (
            f"DBOS cannot use its database at {self._setup.address}:"
            f" {type(error).__name__}. A process that executes runs creates its tables"
        )

    async def maintain(self, *, may_be_silent: bool) -> None:
        """See Engine.maintain."""
        is_up = self._launching is None or self._launching.done()
        if not is_up:
            return
        try:
            await self._ask(lambda client: client.list_workflows(limit=1))
        except EngineUnavailableError:
            return
        self.problem = ""
        if self._dbos is None or self._is_leaving:
            return
        await self._executors.renew(self._owner)
        await self._executors.recover(
            self._owner, self._give_back, may_be_silent=may_be_silent
        )

    async def _give_back(self, owners: Sequence[str]) -> None:
        """Queue the workflows again that processes had which are gone."""
        # DBOS offers it for a service that watches executors; that is what we do here.
        recover = DBOS._recover_pending_workflows  # pyright: ignore[reportPrivateUsage]
        await asyncio.to_thread(recover, list(owners))

    def leave(self) -> None:
        """See Engine.leave."""
        self._is_leaving = True
        # DBOS itself does this at the beginning of its end, which would end the work too.
        for event in self._dbos.background_thread_stop_events if self._dbos else ():
            event.set()

    async def aclose(self) -> None:
        """See Engine.aclose."""
        if self._launching is not None:
            # What a thread has begun cannot be interrupted.
            self._is_leaving = True
            await asyncio.wait([self._launching], timeout=_MAX_SECONDS)
            self._launching.cancel()
            await asyncio.gather(self._launching, return_exceptions=True)
        if self._dbos is not None:
            await asyncio.to_thread(
                DBOS.destroy, destroy_registry=True, workflow_completion_timeout_sec=2
            )
            self._dbos = None
            # Otherwise others wait for the end of the lease.
            with suppress(StorageUnavailableError):
                await self._executors.end(self._owner)
        if self._client is not None:
            await asyncio.to_thread(self._client.destroy)
            self._client = None


def _status(client: DBOSClient, identity: str) -> str:
    """Return the state of a workflow; empty if there is none."""
    statuses = client.list_workflows(workflow_ids=[identity])
    return statuses[0].status if statuses else ""
