"""Temporal as the engine of runs: a run is a workflow that lets workers execute it, and
waits in between. Needs the extra `temporal`."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
from temporalio import activity
from temporalio.client import Client
from temporalio.common import (
    Priority,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from modelyard.workflow.carrier import EngineUnavailableError, Execute, RunTicket
from modelyard.workflow.carriers.temporal_workflow import (
    ACTIVITY,
    HEARTBEAT_SECONDS,
    WAKE,
    WORKFLOW,
    RunWorkflow,
)

_MAX_SECONDS = 5.0
"""Time for the server to answer."""
_RETRY_SECONDS = 2.0
_UNREACHABLE = (RPCError, RuntimeError, TimeoutError, OSError)
"""What the client raises if the server is away. A connection that fails is a
RuntimeError."""


class TemporalSetup(msgspec.Struct, frozen=True, kw_only=True):
    """How to use Temporal."""

    address: str
    """HOST:PORT."""
    namespace: str = "default"
    task_queue: str = "modelyard"
    api_key: str = ""
    tls: bool = False
    max_runs: int
    """Runs that this process executes at once; 0 if it executes none."""
    grace_seconds: float = 10.0
    """Time for the runs of a process that shuts down."""
    owner: str = ""
    """The name of this process, by which Temporal shows it."""


class TemporalEngine:
    """See `carrier.Engine`."""

    def __init__(self, setup: TemporalSetup) -> None:
        self.problem = ""
        self._setup = setup
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._worker: Worker | None = None
        self._working: asyncio.Task[None] | None = None
        self._shutting_down: asyncio.Task[None] | None = None
        self._is_leaving = False

    @property
    def executes(self) -> bool:
        """See Engine.executes."""
        return self._setup.max_runs > 0

    def start(self, execute: Execute) -> None:
        """See Engine.start."""
        if self.executes:
            self._working = asyncio.ensure_future(self._work(execute))

    async def _work(self, execute: Execute) -> None:
        """Execute runs that the server gives to this process, until it leaves."""
        while not self._is_leaving:
            try:
                client = await self._connected()
                self._worker = self._build_worker(client, execute)
                await self._worker.run()
            except EngineUnavailableError:
                pass
            # A worker that has failed for good is replaced by another one.
            except _UNREACHABLE as error:
                self._note(error)
            if not self._is_leaving:
                await asyncio.sleep(_RETRY_SECONDS)

    def _build_worker(self, client: Client, execute: Execute) -> Worker:
        """Return what asks the server for work."""

        @activity.defn(name=ACTIVITY)
        async def carry(ticket: dict[str, Any]) -> dict[str, Any]:
            """Execute a run until it ends or pauses; return how it is then."""
            task = asyncio.ensure_future(execute(msgspec.convert(ticket, RunTicket)))
            # The server gives up the activity of a process that it has not heard of. The
            # run does not: its owner is in its record.
            while not task.done():
                activity.heartbeat()
                await asyncio.wait([task], timeout=HEARTBEAT_SECONDS / 5)
            return msgspec.to_builtins(task.result())

        return Worker(
            client,
            task_queue=self._setup.task_queue,
            workflows=[RunWorkflow],
            activities=[carry],
            # The sandbox would import this program again for each run. The workflow
            # imports nothing that could differ.
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_concurrent_activities=self._setup.max_runs,
            graceful_shutdown_timeout=timedelta(seconds=self._setup.grace_seconds),
            # Another value would delay what the server learns of a process that is gone.
            max_heartbeat_throttle_interval=timedelta(seconds=HEARTBEAT_SECONDS / 3),
        )

    async def _connected(self) -> Client:
        """Return the client. Raises EngineUnavailableError."""
        async with self._connecting:
            if self._client is None:
                try:
                    async with asyncio.timeout(_MAX_SECONDS):
                        self._client = await self._connect()
                except _UNREACHABLE as error:
                    raise self._note(error) from None
                self.problem = ""
            return self._client

    async def _connect(self) -> Client:
        """Connect to the server."""
        setup = self._setup
        return await Client.connect(
            setup.address,
            namespace=setup.namespace,
            api_key=setup.api_key or None,
            tls=setup.tls,
            identity=setup.owner or None,
        )

    async def dispatch(self, ticket: RunTicket) -> None:
        """See Engine.dispatch."""
        client = await self._connected()
        document = {"tenant": ticket.tenant, "run": ticket.run}
        try:
            async with asyncio.timeout(_MAX_SECONDS):
                # Both at once: a workflow that ends in between is started again.
                await client.start_workflow(
                    WORKFLOW,
                    document,
                    id=f"modelyard-run-{ticket.run}",
                    task_queue=self._setup.task_queue,
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    start_signal=WAKE,
                    # Tenants take turns, as far as the server supports it.
                    priority=Priority(fairness_key=ticket.tenant[:64]),
                )
            self.problem = ""
        except _UNREACHABLE as error:
            raise self._note(error) from None

    def _note(self, error: BaseException) -> EngineUnavailableError:
        """Remember that the server cannot be used, and return an error that says so."""
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        setup = self._setup
        self.problem = (
            f"Temporal cannot be used at {setup.address}, namespace"
            f" {setup.namespace!r}: {reason}"
        )
        return EngineUnavailableError(self.problem)

    async def maintain(self, *, may_be_silent: bool) -> None:
        """See Engine.maintain. Temporal knows by heartbeats who is gone."""
        del may_be_silent
        with suppress(EngineUnavailableError):
            client = await self._connected()
            try:
                async with asyncio.timeout(_MAX_SECONDS):
                    await client.service_client.check_health()
                self.problem = ""
            except _UNREACHABLE as error:
                self._note(error)

    def leave(self) -> None:
        """See Engine.leave."""
        self._is_leaving = True
        if self._worker is not None and self._shutting_down is None:
            # It asks for no more work at once, and waits for what it has.
            self._shutting_down = asyncio.ensure_future(self._worker.shutdown())

    async def aclose(self) -> None:
        """See Engine.aclose."""
        self.leave()
        tasks = [task for task in (self._shutting_down, self._working) if task]
        if self._working is not None and self._worker is None:
            self._working.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._worker = self._client = None
