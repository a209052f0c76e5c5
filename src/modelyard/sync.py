"""The same without `await`: every call runs on an event loop in a thread of its own. Nothing is written twice."""

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

import msgspec

from modelyard.agents.agent import AgentResult
from modelyard.agents.events import AnyAgentEvent
from modelyard.app import Modelyard
from modelyard.base.errors import ConfigError
from modelyard.base.ids import new_uuid
from modelyard.base.settings import load_settings
from modelyard.knowledge.answer import Answer, Manner
from modelyard.knowledge.entities import Dataset, DatasetSettings, Document, Hit, RetrievalSettings
from modelyard.knowledge.retrieve import Asking
from modelyard.models.llm import LLMResultChunk
from modelyard.models.messages import AnyPromptMessage
from modelyard.tenancy.caller import DEFAULT_TENANT

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

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of something of `asynchronous`."""
        return self._loop.run(coroutine)

    def each(self, generator: AsyncGenerator[T, None]) -> Iterator[T]:
        """What a generator of `asynchronous` gives, piece by piece."""
        return self._loop.iterate(generator)

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


class Knowledge:
    """Documents that can be asked, in a folder of their own, without a server.

        with Knowledge("notes") as notes:
            notes.add("handbook.pdf", "https://example.org/faq")
            print(notes.ask("How long is the warranty?").text)

    What is found and answered is what `modelyard.knowledge` gives: hits with scores, answers with citations.
    """

    def __init__(self, path: str | Path, *, name: str = "documents", embedding: str = "", **options: Any) -> None:
        """`embedding` is a model as `provider/model`; the default embedding model where none is named."""
        self._loop = BlockingLoop()
        try:
            self._yard = self._loop.run(_build_at(Path(path), options))
            self._dataset = self._loop.run(self._opened(name, embedding))
        except BaseException:
            self._loop.close()
            raise

    async def _opened(self, name: str, embedding: str) -> Dataset:
        datasets = self._yard.knowledge.datasets
        provider, _, model = embedding.rpartition("/")
        settings = DatasetSettings(embedding_model=model, embedding_model_provider=provider)
        return await datasets.stored.datasets.named(DEFAULT_TENANT, name) or await datasets.create(
            DEFAULT_TENANT, name, settings=settings
        )

    def add(self, *sources: str | Path, text: str = "", name: str = "", **metadata: Any) -> list[Document]:
        """Files, folders and addresses, or a text with a name; indexed when this returns. Those of a folder that were
        added before are brought up to date. Raises ConfigError for what cannot be read."""
        return self._loop.run(self._add(sources, text, name, metadata))

    async def _add(
        self, sources: Sequence[str | Path], text: str, name: str, metadata: dict[str, Any]
    ) -> list[Document]:
        datasets, dataset, batch = self._yard.knowledge.datasets, self._dataset, new_uuid()
        if text:
            await datasets.add_texts(dataset, [(name or text[:60], text, metadata)], batch=batch)
        for one in sources:
            if str(one).startswith(("http://", "https://")):
                await datasets.add_source(
                    dataset, str(one), {"kind": "url", "url": str(one)}, batch=batch, metadata=metadata
                )
            elif await asyncio.to_thread(Path(one).exists):
                await datasets.sync_folder(dataset, Path(one), batch=batch, metadata=metadata)
            else:
                raise ConfigError(f"{str(one)!r} is no file, no folder and no address")
        return await datasets.wait(dataset, batch)

    def search(self, query: str, **settings: Any) -> list[Hit]:
        """Best first. `settings` as `top_k`, `search_method`, `reranking_enable`."""
        wanted = msgspec.convert(settings, RetrievalSettings)
        found = self._loop.run(
            self._yard.knowledge.datasets.search(DEFAULT_TENANT, [self._dataset.id], query, settings=wanted)
        )
        return found.hits

    def ask(self, query: str, *, model: str = "default") -> Answer:
        """An answer with its citations; `is_found` is False where the documents do not say."""
        asked = Asking(tenant=DEFAULT_TENANT, query=query)
        return self._loop.run(self._yard.knowledge.answerer.ask([self._dataset.id], asked, Manner(model=model)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        self._loop.run(self._yard.aclose())
        self._loop.close()


class Agent:
    """A model with tools, without `await`.

        def add(one: float, other: float) -> float:
            "The sum of two numbers."
            return one + other

        print(Agent("default", tools=[add]).run("What is 1.5 and 2.25?").text)

    Tools are functions, or names as `calculate`, `time/current_time`, `dataset:shop`; other options are those of
    `Modelyard.agent`. Several agents share a `SyncModelyard` by `yard=`.
    """

    def __init__(
        self, model: str = "default", tools: Sequence[Any] = (), *, yard: SyncModelyard | None = None, **how: Any
    ) -> None:
        self._own = yard is None
        self._yard = yard or SyncModelyard()
        if self._own:
            atexit.register(self.close)
        self.agent = self._yard.wait(self._yard.asynchronous.agent(model, tools, **how))

    def run(self, query: str, *, history: Sequence[AnyPromptMessage] = ()) -> AgentResult:
        """The whole answer, with thoughts, calls and usage."""
        return self._yard.wait(self.agent.run(query, history=history))

    def stream(self, query: str, *, history: Sequence[AnyPromptMessage] = ()) -> Iterator[AnyAgentEvent]:
        """What happens, as it happens."""
        return self._yard.each(self.agent.stream(query, history=history))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        if self._own:
            atexit.unregister(self.close)
            self._yard.close()


async def _build_at(path: Path, options: dict[str, Any]) -> Modelyard:
    """With a database of its own in the folder; weights and settings are this machine's."""
    settings = load_settings(os.environ)
    kept = settings.local.weights or str(settings.home_path / "models")
    local = msgspec.structs.replace(settings.local, weights=kept)
    return await _build(msgspec.structs.replace(settings, home=str(path), database="", local=local), **options)


async def _build(*arguments: Any, **options: Any) -> Modelyard:
    """Opened; `close` closes it."""
    return await Modelyard(*arguments, **options).__aenter__()
