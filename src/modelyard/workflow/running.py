"""The nodes of a graph that run at the moment, as tasks, and what they have handed in."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass

from modelyard.workflow.node import Node, NodeResult


@dataclass(slots=True)
class RunningNode:
    node: Node
    key: str
    id: str
    started_at: float
    index: int
    predecessor: str
    task: "asyncio.Task[None] | None" = None


class RunningNodes:
    """Owns the tasks. Whoever started them takes what they hand in, one after the other."""

    def __init__(self) -> None:
        self._running: dict[str, RunningNode] = {}
        self._handed_in: deque[tuple[RunningNode, NodeResult | BaseException]] = deque()
        self._wake: asyncio.Future[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._running)

    def begin(self, running: RunningNode, work: Coroutine[None, None, None]) -> None:
        """Run a node as a task; its work ends with `hand_in`."""
        running.task = asyncio.ensure_future(work)
        self._running[running.node.id] = running

    def hand_in(self, running: RunningNode, result: NodeResult | BaseException) -> None:
        self._handed_in.append((running, result))
        self.wake()

    def handed_in(self) -> Iterator[tuple[RunningNode, NodeResult | BaseException]]:
        """Those that are done, with what came of them; they run no more."""
        while self._handed_in:
            running, result = self._handed_in.popleft()
            self._running.pop(running.node.id, None)
            yield running, result

    async def wait(self) -> None:
        """Until something is handed in, or `wake`."""
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def wake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def cancel(self) -> None:
        """All of them; what they hand in then says so."""
        for running in list(self._running.values()):
            if running.task is not None:
                running.task.cancel()

    async def aclose(self) -> None:
        """End all of them."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()
