"""The nodes of a graph that are running, as tasks, and the results that they have
delivered."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass

from modelyard.workflow.node import Node, NodeResult

_CLEANUP_SECONDS = 5.0
"""Time that a cancelled node has to clean up before it is cancelled again."""


@dataclass(slots=True)
class RunningNode:
    """A node that is running."""

    node: Node
    key: str
    id: str
    started_at: float
    index: int
    predecessor: str
    task: "asyncio.Task[None] | None" = None


class RunningNodes:
    """Owns the tasks of running nodes. The engine takes their results one after the
    other."""

    def __init__(self) -> None:
        self._running: dict[str, RunningNode] = {}
        self._handed_in: deque[tuple[RunningNode, NodeResult | BaseException]] = deque()
        self._wake: asyncio.Future[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._running)

    def begin(self, running: RunningNode, work: Coroutine[None, None, None]) -> None:
        """Run a node as a task. Its coroutine must end with `deliver`."""
        running.task = asyncio.ensure_future(work)
        # Keyed by node: a node runs only once at a time in a graph.
        self._running[running.node.id] = running

    def deliver(self, running: RunningNode, result: NodeResult | BaseException) -> None:
        """Deliver the result of a node, or the error that ended it."""
        self._handed_in.append((running, result))
        self.wake()

    def take_results(self) -> Iterator[tuple[RunningNode, NodeResult | BaseException]]:
        """Yield the finished nodes with their results and remove them."""
        # More results may arrive while one is processed.
        while self._handed_in:
            running, result = self._handed_in.popleft()
            self._running.pop(running.node.id, None)
            yield running, result

    async def wait(self) -> None:
        """Wait until a result is delivered or `wake` is called."""
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def wake(self) -> None:
        """Resume the waiting engine."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def cancel(self) -> None:
        """Cancel all tasks; each of them delivers its cancellation as a result."""
        # A cancelled task may change the dictionary at once.
        for running in list(self._running.values()):
            if running.task is not None:
                running.task.cancel()

    async def aclose(self) -> None:
        """Cancel all tasks and wait for their end."""
        # The dictionary changes while tasks end.
        tasks = [
            running.task
            for running in self._running.values()
            if running.task is not None
        ]
        # A task that a stop has cancelled already may be cleaning up: a second
        # cancellation would interrupt that.
        for task in tasks:
            if not task.cancelling():
                task.cancel()
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=_CLEANUP_SECONDS)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()
