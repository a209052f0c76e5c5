"""The processes of the local models: started on first use, shared by all requests,
stopped after an idle time."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from modelyard.base.errors import QueueFullError
from modelyard.providers.local.context_window import ContextWindow, window_of
from modelyard.providers.local.messages import Load
from modelyard.providers.local.process import ModelProcess, default_threads
from modelyard.providers.local.weights import WeightStore, manifest

logger = logging.getLogger("modelyard.local")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """Settings of local models.

    `threads` per model and `context` in tokens, 0 for an automatic choice; `parallel`
    requests at once and `queue` more waiting; `idle_seconds` before a model is
    unloaded.
    """

    threads: int = 0
    context: int = 0
    parallel: int = 2
    queue: int = 32
    idle_seconds: float = 900.0


@dataclass(slots=True)
class _ProcessSlot:
    """Holds the process of one engine with its files, if one is running."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    process: ModelProcess | None = None
    users: int = 0
    timer: asyncio.TimerHandle | None = None


class LocalRuntime:
    """Runs local models. Models with the same engine and files share a process."""

    def __init__(self, store: WeightStore, options: LocalOptions) -> None:
        self._store = store
        self._options = options
        self._slots: dict[tuple[str, ...], _ProcessSlot] = {}
        self._windows: dict[str, ContextWindow] = {}
        # References keep the stopping tasks from being garbage collected.
        self._stopping: set[asyncio.Task[None]] = set()

    @property
    def store(self) -> WeightStore:
        """The store of the weight files."""
        return self._store

    def window(self, model: str) -> ContextWindow:
        """Return how many tokens a chat with a model may have. It is chosen when the
        model is first asked for."""
        if model not in self._windows:
            self._windows[model] = window = self._chosen_window(model)
            if (
                not self._options.context
                and window.tokens < manifest().models[model].context
            ):
                fields = {"model": model, "tokens": window.tokens}
                logger.warning("context reduced", extra={"fields": fields})
        return self._windows[model]

    def _chosen_window(self, model: str) -> ContextWindow:
        """Choose the window of a model by the settings and the free memory."""
        model_entry = manifest().models[model]
        return window_of(
            self._options.context,
            model_entry.context,
            token_bytes=model_entry.token_bytes,
            other_bytes=sum(file.size for file in manifest().files_of(model)),
            parallel=self._options.parallel,
        )

    async def call(
        self, model: str, method: str, payload: Any
    ) -> AsyncGenerator[Any, None]:
        """Yield the parts of a model's result. The process is started if necessary.

        Raises NotReadyError if weights or packages are missing, QueueFullError if too
        many requests wait, and whatever the engine raises.
        """
        slot = self._slot(model)
        # Counted before anything is awaited, so the limit cannot be exceeded.
        if slot.users >= self._options.queue + self._options.parallel:
            raise QueueFullError(
                f"{slot.users} requests are already waiting for {model!r}",
                provider="local",
                retry_after=1.0,
            )
        slot.users += 1
        if slot.timer:
            slot.timer.cancel()
        try:
            process = await self._ensure_process(slot, model)
            async with aclosing(process.call(method, payload)) as results:
                async for result in results:
                    yield result
        finally:
            slot.users -= 1
            # The last user starts the idle timer; the next one cancels it.
            if not slot.users:
                loop = asyncio.get_running_loop()
                slot.timer = loop.call_later(
                    self._options.idle_seconds, self._unload, slot
                )

    async def call_once(self, model: str, method: str, payload: Any) -> Any:
        """Return the result of a call that has exactly one part."""
        async with aclosing(self.call(model, method, payload)) as results:
            return await anext(results)

    def process_of(self, model: str) -> ModelProcess | None:
        """Return the model's process, or None if it is not loaded."""
        return self._slot(model).process

    def _slot(self, model: str) -> _ProcessSlot:
        """Return the slot of a model's process, creating it if necessary.

        Models with the same engine and files share one. Raises KeyError for an unknown
        model.
        """
        model_entry = manifest().models[model]
        # The key has engine and files, so several names of one model share a process.
        return self._slots.setdefault(
            (model_entry.engine, *sorted(model_entry.files.values())), _ProcessSlot()
        )

    async def _ensure_process(self, slot: _ProcessSlot, model: str) -> ModelProcess:
        """Return the slot's running process, starting it if there is none.

        Concurrent requests wait for the same start. Raises NotReadyError or
        InvokeServerUnavailableError if it cannot be started.
        """
        # Only one request starts the process; the others wait for it.
        async with slot.lock:
            if slot.process is None or not slot.process.is_alive:
                if slot.process is not None:
                    # The process has died; its resources are released before a new
                    # start.
                    await slot.process.stop()
                slot.process = await self._start(model)
            return slot.process

    async def _start(self, model: str) -> ModelProcess:
        """Start a process with a model's engine and files; return it when ready.

        Raises NotReadyError if weights are missing or changed,
        InvokeServerUnavailableError if loading fails.
        """
        model_entry = manifest().models[model]
        process = ModelProcess(model)
        window = self.window(model)
        options = {
            "threads": self._options.threads or default_threads(),
            "context": window.tokens,
            "context_reason": window.reason,
            "parallel": self._options.parallel,
        }
        # In a thread, because files of installed packages are read completely to check
        # their hashes.
        files = await asyncio.to_thread(self._store.paths, model)
        await process.start(
            Load(engine=model_entry.engine, files=files, options=options)
        )
        fields = {
            "model": model,
            "pid": process.pid,
            "seconds": round(process.load_seconds, 2),
        }
        logger.info("model loaded", extra={"fields": fields})
        return process

    def _unload(self, slot: _ProcessSlot) -> None:
        """Stop an idle process in the background; nothing if it is in use again."""
        process = slot.process
        # A request may have come in between the timer's start and now.
        if process is None or slot.users or slot.lock.locked():
            return
        slot.process = None
        logger.info("idle model unloaded", extra={"fields": {"model": process.name}})
        task = asyncio.get_running_loop().create_task(process.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def aclose(self) -> None:
        """Stop every process and wait for their exit."""
        for slot in self._slots.values():
            if slot.timer:
                slot.timer.cancel()
        processes = [slot.process for slot in self._slots.values() if slot.process]
        # Cleared first, so that no call uses a process that is being stopped.
        for slot in self._slots.values():
            slot.process = None
        await asyncio.gather(
            *(process.stop() for process in processes), *self._stopping
        )
