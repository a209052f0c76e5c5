"""The carrier of runs: decides which process executes a run, and when.

The record of a run (its steps, events and result) stays in the journal, whose fence
decides who may write it. So a carrier cannot execute a run twice: at worst it lets two
processes try, and one of them is refused.
"""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Protocol

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.workflow.live_runs import RunStart
from modelyard.workflow.run_record import RunRecord


class EngineUnavailableError(ModelyardError):
    """The engine that carries runs cannot be reached. Its message names the address."""

    status = 503
    code = "workflow_engine_unavailable"
    retryable = True


class RunTicket(msgspec.Struct, frozen=True, kw_only=True):
    """All that an engine learns of a run: where its record is.

    An engine keeps its history in the clear and has limits of size, so neither inputs nor
    results nor errors ever become part of it.
    """

    tenant: str
    run: str
    epoch: int = 0
    """How often the run had been claimed when it was queued."""


class SegmentState(StrEnum):
    """How a run is when a process is done with it."""

    OVER = "over"
    """It has ended, or does not exist any more."""
    PAUSED = "paused"
    LEFT = "left"
    """This process shuts down. Another one should go on at once."""
    ELSEWHERE = "elsewhere"
    """Another process has it, or may have it."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a run between a start or resumption and its end or pause."""

    state: SegmentState
    due_in: float | None = None
    """Seconds until a form of a paused run expires; None without one."""


Execute = Callable[[RunTicket], Awaitable[Segment]]
"""Executes a queued run in this process until it ends, pauses or is left. Does nothing
if another process has it. May be called again at any time."""


class Carrier(Protocol):
    """What `Runs` asks of a carrier. Methods may raise StorageUnavailableError."""

    @property
    def has_queue(self) -> bool:
        """Whether a run that no process can execute yet waits."""
        ...

    @property
    def problem(self) -> str:
        """Why no run is executed at present; empty if nothing is wrong."""
        ...

    def start(self) -> None:
        """Take part in the execution of runs, on the running event loop."""
        ...

    async def accept(self, start: RunStart) -> bool:
        """Record a new run and let it be executed. Returns False if its id exists."""
        ...

    async def resume(self, record: RunRecord) -> bool:
        """Let a paused run go on. Returns False if somebody else was faster."""
        ...

    async def recover(self, *, may_be_silent: bool) -> int:
        """Let the runs go on that nobody executes; return their number.

        With `may_be_silent`, owners may have had no chance to renew their leases.
        """
        ...

    @property
    def expire_seconds(self) -> float:
        """How often to look for expired forms, in seconds."""
        ...

    def leave(self) -> None:
        """Take no further runs, because this process shuts down."""
        ...

    async def aclose(self) -> None:
        """Close connections, after all runs of this process have ended or been left."""
        ...


class Engine(Protocol):
    """A durable engine that starts `Execute` on some process, after a crash on another.

    `dispatch` may be repeated: an engine that is asked twice for one ticket may execute it
    twice, since `Execute` has no effect if the run has an owner.
    """

    problem: str
    """Why the engine cannot be used at present, with its address; else empty."""

    def start(self, execute: Execute) -> None:
        """Connect on the running event loop, and go on trying until that works. Take
        work, if this process is to have any."""
        ...

    @property
    def executes(self) -> bool:
        """Whether this process executes runs, or only hands them to others."""
        ...

    async def dispatch(self, ticket: RunTicket) -> None:
        """Queue a run, unless it is queued already. Raises EngineUnavailableError."""
        ...

    async def maintain(self, *, may_be_silent: bool) -> None:
        """Look after the engine, every few seconds. Sets `problem`."""
        ...

    def leave(self) -> None:
        """Take no further work."""
        ...

    async def aclose(self) -> None:
        """Stop, after the work of this process has ended."""
        ...
