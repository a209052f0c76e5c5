"""The processes of the local models: started on first use, shared by all requests, stopped when idle."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from modelyard.base.errors import QueueFullError
from modelyard.providers.local.messages import Load
from modelyard.providers.local.process import ModelProcess, default_threads
from modelyard.providers.local.weights import WeightStore, manifest

logger = logging.getLogger("modelyard.local")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    threads: int = 0
    context: int = 4096
    parallel: int = 2
    queue: int = 32
    idle_seconds: float = 900.0


@dataclass(slots=True)
class _Place:
    """Where one engine's process lives, while there is one."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    process: ModelProcess | None = None
    users: int = 0
    timer: asyncio.TimerHandle | None = None


class LocalRuntime:
    """Models with the same engine and files share a process."""

    def __init__(self, store: WeightStore, options: LocalOptions) -> None:
        self._store = store
        self._options = options
        self._places: dict[tuple[str, ...], _Place] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    @property
    def store(self) -> WeightStore:
        return self._store

    @property
    def context(self) -> int:
        return self._options.context

    async def ask(self, model: str, method: str, payload: Any) -> AsyncGenerator[Any, None]:
        """The pieces of a model's answer.

        Raises NotReadyError where weights or packages are missing, QueueFullError where too many wait already, and
        what the engine raises.
        """
        place = self._place(model)
        if place.users >= self._options.queue + self._options.parallel:
            raise QueueFullError(
                f"{place.users} requests wait for {model!r} already", provider="local", retry_after=1.0
            )
        place.users += 1
        if place.timer:
            place.timer.cancel()
        try:
            process = await self._ready(place, model)
            async with aclosing(process.ask(method, payload)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            place.users -= 1
            if not place.users:
                loop = asyncio.get_running_loop()
                place.timer = loop.call_later(self._options.idle_seconds, self._unload, place)

    async def only(self, model: str, method: str, payload: Any) -> Any:
        """The one piece of an answer that has but one."""
        async with aclosing(self.ask(model, method, payload)) as pieces:
            return await anext(pieces)

    def process_of(self, model: str) -> ModelProcess | None:
        """The model's process, if it is loaded."""
        return self._place(model).process

    def _place(self, model: str) -> _Place:
        known = manifest().models[model]
        return self._places.setdefault((known.engine, *sorted(known.files.values())), _Place())

    async def _ready(self, place: _Place, model: str) -> ModelProcess:
        async with place.lock:
            if place.process is None or not place.process.is_alive:
                if place.process is not None:
                    await place.process.stop()
                place.process = await self._start(model)
            return place.process

    async def _start(self, model: str) -> ModelProcess:
        known = manifest().models[model]
        process = ModelProcess(model)
        options = {
            "threads": self._options.threads or default_threads(),
            "context": self._options.context,
            "parallel": self._options.parallel,
        }
        # Off the loop: files of installed packages are read whole, for their hashes.
        files = await asyncio.to_thread(self._store.paths, model)
        await process.start(Load(engine=known.engine, files=files, options=options))
        fields = {"model": model, "pid": process.pid, "seconds": round(process.load_seconds, 2)}
        logger.info("model loaded", extra={"fields": fields})
        return process

    def _unload(self, place: _Place) -> None:
        process = place.process
        if process is None or place.users or place.lock.locked():
            return
        place.process = None
        logger.info("idle model unloaded", extra={"fields": {"model": process.name}})
        task = asyncio.get_running_loop().create_task(process.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def aclose(self) -> None:
        """Stop every process and wait for them."""
        for place in self._places.values():
            if place.timer:
                place.timer.cancel()
        processes = [place.process for place in self._places.values() if place.process]
        for place in self._places.values():
            place.process = None
        await asyncio.gather(*(process.stop() for process in processes), *self._stopping)
