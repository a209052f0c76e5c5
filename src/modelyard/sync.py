"""The same without `await`: every call runs on an event loop in a thread of its own. Nothing is written twice."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, ParamSpec, Self, TypeVar

from modelyard.app import Modelyard
from modelyard.models.llm import LLMResultChunk

T = TypeVar("T")
P = ParamSpec("P")


class BlockingLoop:
    """An event loop in a thread. Close it when done."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="modelyard-sync", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result. Interrupting the wait, as Ctrl-C does, cancels it."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, generator: AsyncGenerator[T, None]) -> Iterator[T]:
        """The generator's items; leaving the loop early closes it."""
        try:
            while True:
                try:
                    yield self.run(_step(generator))
                except StopAsyncIteration:
                    return
        finally:
            self.run(_close(generator))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _step(generator: AsyncGenerator[T, None]) -> T:
    return await anext(generator)


async def _close(generator: AsyncGenerator[Any, None]) -> None:
    await generator.aclose()


class SyncModelyard:
    """Modelyard for code that is not async.

        with SyncModelyard() as yard:
            print(yard.chat("Say hello.").text)

    Methods take what their namesakes in `Modelyard` take.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = BlockingLoop()
        try:
            self.asynchronous = self._loop.run(_build(*arguments, **options))
        except BaseException:
            self._loop.close()
            raise
        yard = self.asynchronous
        self.chat = self._blocking(yard.chat)
        self.embed = self._blocking(yard.embed)
        self.rerank = self._blocking(yard.rerank)
        self.transcribe = self._blocking(yard.transcribe)
        self.speak = self._blocking(yard.speak)
        self.moderate = self._blocking(yard.moderate)
        self.check_provider = self._blocking(yard.check_provider)

    def _blocking(self, method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
        def call(*arguments: P.args, **options: P.kwargs) -> T:
            return self._loop.run(method(*arguments, **options))

        call.__doc__ = method.__doc__
        return call

    def stream(self, *arguments: Any, **options: Any) -> Iterator[LLMResultChunk]:
        """Chat, piece by piece."""
        return self._loop.iterate(self.asynchronous.stream(*arguments, **options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        self._loop.run(self.asynchronous.aclose())
        self._loop.close()


async def _build(*arguments: Any, **options: Any) -> Modelyard:
    return Modelyard(*arguments, **options)
