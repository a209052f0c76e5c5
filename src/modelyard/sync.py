"""The library without `await`: every call runs on an event loop in a background thread."""

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
from modelyard.knowledge.answer import Answer, AnswerOptions
from modelyard.knowledge.entities import (
    Dataset,
    DatasetSettings,
    Document,
    Hit,
    RetrievalSettings,
)
from modelyard.knowledge.retrieve import SearchRequest
from modelyard.models.llm import LLMResultChunk
from modelyard.models.messages import AnyPromptMessage
from modelyard.tenancy.caller import DEFAULT_TENANT
from modelyard.tenancy.reader import UNRESTRICTED, Reader, reader_of

T = TypeVar("T")
P = ParamSpec("P")


class EventLoopThread:
    """An event loop in a background thread. Call `close` when done."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="modelyard-sync", daemon=True
        )
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop's thread and return its result.

        Blocks the calling thread, which must not be the loop's. The coroutine's
        exception is raised here; an interrupted wait, for example by Ctrl-C, cancels
        it.
        """
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        # BaseException: KeyboardInterrupt is the usual case.
        except BaseException:
            future.cancel()
            raise

    def iterate(self, generator: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield a generator's items. Leaving the loop early closes the generator."""
        try:
            while True:
                try:
                    yield self.run(_step(generator))
                except StopAsyncIteration:
                    return
        finally:
            # The generator must be closed on the loop that runs it.
            self.run(_close(generator))

    def close(self) -> None:
        """Stop the loop and join its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _step(generator: AsyncGenerator[T, None]) -> T:
    """Return the generator's next item. `run` needs a coroutine, which `anext` does not
    return."""
    return await anext(generator)


async def _close(generator: AsyncGenerator[Any, None]) -> None:
    """Close the generator."""
    await generator.aclose()


class SyncModelyard:
    """Modelyard for code that is not async.

        with SyncModelyard() as yard:
            print(yard.chat("Say hello.").text)

    Methods take what their namesakes in `Modelyard` take.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # If opening fails, the thread must not be left behind.
        self._loop = EventLoopThread()
        try:
            self.asynchronous = self._loop.run(_build(*arguments, **options))
        except BaseException:
            self._loop.close()
            raise
        yard = self.asynchronous
        # Assigned per instance, so that signatures and docstrings are those of the
        # asynchronous methods.
        self.chat = self._blocking(yard.chat)
        self.embed = self._blocking(yard.embed)
        self.rerank = self._blocking(yard.rerank)
        self.transcribe = self._blocking(yard.transcribe)
        self.speak = self._blocking(yard.speak)
        self.moderate = self._blocking(yard.moderate)
        self.check_provider = self._blocking(yard.check_provider)

    def _blocking(self, method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
        """Return a blocking version of an asynchronous method."""

        def call(*arguments: P.args, **options: P.kwargs) -> T:
            """Run the method and return its result."""
            return self._loop.run(method(*arguments, **options))

        call.__doc__ = method.__doc__
        return call

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of `asynchronous` and return its result."""
        return self._loop.run(coroutine)

    def each(self, generator: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield the items of an asynchronous generator of `asynchronous`."""
        return self._loop.iterate(generator)

    def stream(self, *arguments: Any, **options: Any) -> Iterator[LLMResultChunk]:
        """Yield the chunks of a chat answer."""
        return self._loop.iterate(self.asynchronous.stream(*arguments, **options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the library and stop its thread."""
        self._loop.run(self.asynchronous.aclose())
        self._loop.close()


class Knowledge:
    """Documents that can be asked, in a folder of their own, without a server.

        with Knowledge("notes") as notes:
            notes.add("handbook.pdf", "https://example.org/faq")
            print(notes.ask("How long is the warranty?").text)

    What is found and answered is what `modelyard.knowledge` gives: hits with scores,
    answers with citations.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str = "documents",
        embedding: str = "",
        **options: Any,
    ) -> None:
        """Open the folder. `embedding` is `provider/model`; empty for the default
        embedding model."""
        self._loop = EventLoopThread()
        try:
            self._yard = self._loop.run(_build_at(Path(path), options))
            self._dataset = self._loop.run(self._open_dataset(name, embedding))
        except BaseException:
            self._loop.close()
            raise

    async def _open_dataset(self, name: str, embedding: str) -> Dataset:
        """Return the dataset with this name, creating it if necessary."""
        datasets = self._yard.knowledge.datasets
        existing = await datasets.store.datasets.find_by_name(DEFAULT_TENANT, name)
        if existing is not None:
            return existing
        settings = _embedding_settings(embedding)
        return await datasets.create(DEFAULT_TENANT, name, settings=settings)

    def add(
        self, *sources: str | Path, text: str = "", name: str = "", **metadata: Any
    ) -> list[Document]:
        """Add files, folders and URLs, or a named text, and wait until they are
        indexed.

        Documents of a folder that was added before are updated. Raises ConfigError if a
        source cannot be read.
        """
        return self._loop.run(self._add(sources, text, name, metadata))

    async def _add(
        self,
        sources: Sequence[str | Path],
        text: str,
        name: str,
        metadata: dict[str, Any],
    ) -> list[Document]:
        """Add a text and sources to the dataset and return their indexed documents.

        A source is a URL, a file or a folder. Raises ConfigError if a path does not
        exist; what was added before it remains.
        """
        # The batch id identifies the documents of this call for `wait`.
        datasets, dataset, batch = (
            self._yard.knowledge.datasets,
            self._dataset,
            new_uuid(),
        )
        if text:
            await datasets.add_texts(
                dataset, [(name or text[:60], text, metadata)], batch=batch
            )
        for source in sources:
            if str(source).startswith(("http://", "https://")):
                await datasets.add_source(
                    dataset,
                    str(source),
                    {"kind": "url", "url": str(source)},
                    batch=batch,
                    metadata=metadata,
                )
            elif await asyncio.to_thread(Path(source).exists):
                await datasets.sync_folder(
                    dataset, Path(source), batch=batch, metadata=metadata
                )
            else:
                raise ConfigError(
                    f"Source {str(source)!r} not found; expected an existing file or folder,"
                    " or an http:// or https:// URL"
                )
        return await datasets.wait(dataset, batch)

    def search(
        self, query: str, *, as_user: str | None = None, **settings: Any
    ) -> list[Hit]:
        """Return hits for a query, best first.

        `as_user` restricts the search to what this user may read; None finds
        everything. `settings` are fields of RetrievalSettings, such as `top_k`,
        `search_method` or `reranking_enable`. The list is empty if nothing matches.
        """
        # `convert` also validates the names and types of the settings.
        retrieval_settings = msgspec.convert(settings, RetrievalSettings)
        retrieval = self._loop.run(
            self._yard.knowledge.datasets.search(
                DEFAULT_TENANT,
                [self._dataset.id],
                query,
                settings=retrieval_settings,
                reader=_reader(as_user),
            )
        )
        return retrieval.hits

    def ask(
        self, query: str, *, model: str = "default", as_user: str | None = None
    ) -> Answer:
        """Return an answer with citations. `is_found` is False if the documents do not
        contain it. `as_user` is as in `search`."""
        search_request = SearchRequest(
            tenant=DEFAULT_TENANT, query=query, reader=_reader(as_user)
        )
        return self._loop.run(
            self._yard.knowledge.answerer.answer(
                [self._dataset.id], search_request, AnswerOptions(model=model)
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the library and stop its thread."""
        self._loop.run(self._yard.aclose())
        self._loop.close()


def _reader(as_user: str | None) -> Reader:
    """Return on whose behalf documents are searched. The program reads the database
    itself, so that it may find everything."""
    return UNRESTRICTED if as_user is None else reader_of(as_user)


class Agent:
    """A model with tools, without `await`.

        def add(one: float, other: float) -> float:
            "The sum of two numbers."
            return one + other

        print(Agent("default", tools=[add]).run("What is 1.5 and 2.25?").text)

    Tools are functions, or names as `calculate`, `time/current_time`, `dataset:shop`;
    other options are those of `Modelyard.agent`. Several agents share a `SyncModelyard`
    by `yard=`.
    """

    def __init__(
        self,
        model: str = "default",
        tools: Sequence[Any] = (),
        *,
        yard: SyncModelyard | None = None,
        **options: Any,
    ) -> None:
        self._own = yard is None
        self._yard = yard or SyncModelyard()
        # Scripts often do not close the agent; its own library is then closed at exit.
        if self._own:
            atexit.register(self.close)
        self.agent = self._yard.wait(
            self._yard.asynchronous.agent(model, tools, **options)
        )

    def run(
        self, query: str, *, history: Sequence[AnyPromptMessage] = ()
    ) -> AgentResult:
        """Return the complete answer with reasoning, tool calls and usage."""
        return self._yard.wait(self.agent.run(query, history=history))

    def stream(
        self, query: str, *, history: Sequence[AnyPromptMessage] = ()
    ) -> Iterator[AnyAgentEvent]:
        """Yield the agent's events as they happen."""
        return self._yard.each(self.agent.stream(query, history=history))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the library if this agent created it."""
        if self._own:
            atexit.unregister(self.close)
            self._yard.close()


async def _build_at(path: Path, options: dict[str, Any]) -> Modelyard:
    """Open the library with its own database in the folder. Weights and settings are
    those of the machine."""
    settings = load_settings(os.environ)
    # Otherwise the weights would be downloaded again for every folder.
    weights_folder = settings.local.weights or str(settings.home_path / "models")
    local = msgspec.structs.replace(settings.local, weights=weights_folder)
    at_path = {"home": str(path), "database": "", "local": local}
    return await _build(msgspec.structs.replace(settings, **at_path), **options)


def _embedding_settings(embedding: str) -> DatasetSettings:
    """Return the settings of a dataset with an embedding model, as `provider/model`."""
    # The last slash: a plugin's provider has slashes in its name.
    provider, _, model = embedding.rpartition("/")
    return DatasetSettings(embedding_model=model, embedding_model_provider=provider)


async def _build(*arguments: Any, **options: Any) -> Modelyard:
    """Return the opened library; the caller closes it."""
    return await Modelyard(*arguments, **options).__aenter__()
