"""Documents on their way in: read, cleaned, split, embedded, and then found, all at once.

Whoever has a document says so in its row, and again and again; what a killed process had is taken up by another. What
is found of a document changes in one transaction at the end, so a document is there as a whole, as it was before, or
not at all. Vectors of what takes long are kept as they come: no text of a document is embedded twice.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.knowledge import prepare
from modelyard.knowledge.entities import Dataset, DocForm, Document, Status
from modelyard.knowledge.rows import DocumentPart, Indexed, Ready
from modelyard.knowledge.stored.claims import LEASE_SECONDS
from modelyard.knowledge.stored.stored import Stored
from modelyard.knowledge.vectors import BATCH, Embedder, Vectors
from modelyard.storage.database import StorageUnavailableError
from modelyard.tenancy.caller import Caller, acting_for

logger = logging.getLogger("modelyard.knowledge")

_GROUP = 256
_GROUP_BYTES = 1 << 20
_LOOK_SECONDS = 0.5
_IDLE_SECONDS = 2.0  # where nothing is to do here: what others left is looked for
_SLOW_SEGMENTS = 32
_QA_PROMPT = (
    "Write the questions that the following text answers, each with its answer, in the language {language}. Answers "
    "are detailed and taken from the text alone. Give nothing else than lines of this form:\nQ1: …\nA1: …\nQ2: …\n"
    "A2: …\n\nText:\n{text}"
)
_SUMMARY_PROMPT = "Say in one or two sentences, in the text's own language, what the following text is about.\n\n{text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    parts: list[DocumentPart]
    title: str = ""
    kind: str = ""
    """The extension that the content has."""


class Reader(Protocol):
    async def read(self, document: Document) -> Reading:
        """What a document's source says. Raises ModelyardError in words for whoever handed it in."""
        ...


class Writer(Protocol):
    async def write(self, tenant: str, model: str, prompt: str) -> str:
        """What a model answers."""
        ...


@dataclass(slots=True)
class _Work:
    """A document that is being worked on here."""

    document: Document
    turn: int
    indexed: Indexed = field(default_factory=Indexed)
    texts: dict[str, str] = field(default_factory=dict[str, str])
    is_resumed: bool = False

    def at(self, status: Status, stage: str, now: float) -> None:
        times = {**self.document.times, stage: now}
        self.document = msgspec.structs.replace(self.document, status=status, times=times)


class Indexer:
    def __init__(
        self,
        stored: Stored,
        embedder: Embedder,
        reader: Reader,
        writer: Writer | None = None,
        *,
        at_once: int = 4,
        caller_of: Callable[[Document], Caller | None] = lambda document: None,
    ) -> None:
        self._caller_of = caller_of
        self._stored = stored
        self._vectors = Vectors(embedder)
        self._reader = reader
        self._writer = writer
        self._slots = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._wake = asyncio.Event()
        self._done = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._groups: set[asyncio.Task[None]] = set()
        self._held: set[str] = set()
        self._unwanted: dict[str, str] = {}
        self._renewed = 0.0

    # lifetime

    def begin(self) -> None:
        if self._loop is None or self._loop.done():
            # The loop serves everybody: it must not inherit the caller of the request that happens to start it.
            self._loop = asyncio.get_running_loop().create_task(self._go(), context=Context())

    def wake(self) -> None:
        """There may be something to do."""
        self.begin()
        self._wake.set()

    async def aclose(self) -> None:
        tasks = [*self._groups, *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._loop = None
        if self._held:
            with suppress(StorageUnavailableError):
                await self._stored.claims.give_back(list(self._held))
            self._held.clear()

    async def _go(self) -> None:
        while True:
            try:
                await self._look()
            except StorageUnavailableError as error:
                logger.warning("documents wait for the database", extra={"fields": {"error": str(error)}})
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS if self._held else _IDLE_SECONDS):
                    await self._wake.wait()
            self._wake.clear()

    async def _look(self) -> None:
        now = time.monotonic()
        if self._held and now - self._renewed > LEASE_SECONDS / 3:
            await self._stored.claims.renew()
            self._renewed = now
        if self._held:
            wanted = await self._stored.claims.commands()
            self._unwanted.update((one, wanted[one]) for one in wanted.keys() & self._held)
        room = self._at_once - len(self._groups)
        if room <= 0:
            return
        claimed = await self._stored.claims.claim(room * _GROUP)
        if claimed:
            self.take(claimed)

    def take(self, claimed: Iterable[tuple[Document, int]]) -> None:
        """Work on documents that are this process's own."""
        for group in _grouped(claimed):
            self._held.update(one.document.id for one in group)
            task = asyncio.ensure_future(self._in_turn(group))
            self._groups.add(task)
            task.add_done_callback(self._groups.discard)

    async def _in_turn(self, group: list[_Work]) -> None:
        async with self._slots:
            try:
                with acting_for(self._caller_of(group[0].document)):
                    await self._group(group)
            except StorageUnavailableError as error:
                logger.warning("documents wait for the database", extra={"fields": {"error": str(error)}})
                await self._stored.claims.give_back([one.document.id for one in group])
            except Exception as error:
                logger.exception("documents cannot be indexed")
                for one in group:
                    await self._failed(one, ModelyardError(f"indexing failed: {type(error).__name__}: {error}"))
            finally:
                for one in group:
                    self._held.discard(one.document.id)
                    self._unwanted.pop(one.document.id, None)
                self._tell()

    def _tell(self) -> None:
        self._done.set()
        self._done = asyncio.Event()
        self._wake.set()

    async def wait(self, tenant: str, dataset: str, batch: str, timeout: float | None = None) -> list[Document]:
        """The documents of a batch once each has come to an end, good or bad. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while True:
                done = self._done
                if not await self._stored.documents.unfinished(tenant, dataset, batch):
                    found, _ = await self._stored.documents.listed(tenant, dataset, batch=batch, most=1_000_000)
                    return found
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await done.wait()

    # one group

    async def _group(self, group: list[_Work]) -> None:
        first = group[0].document
        try:
            dataset = await self._stored.datasets.get(first.tenant, first.dataset)
        except ModelyardError:
            return  # it was deleted, and its documents with it
        now = self._stored.now
        kept = await self._stored.texts.of([one.document.id for one in group])
        ready = [one for one in group if await self._read(one, dataset, kept.get(one.document.id))]
        if not ready:
            return
        try:
            await self._embed(dataset, ready)
            ready = [one for one in ready if not await self._stopped(one)]
            for one in ready:
                one.at(Status.COMPLETED, "completed", now())
            if ready:
                await self._stored.publisher.publish([Ready(one.document, one.turn, one.indexed) for one in ready])
        except StorageUnavailableError:
            raise
        except ModelyardError as error:
            if len(ready) == 1:
                await self._failed(ready[0], error)
                return
            for one in ready:  # whichever it was, the others are not to suffer
                await self._group([_Work(one.document, one.turn, is_resumed=True)])

    async def _read(self, work: _Work, dataset: Dataset, kept: list[DocumentPart] | None) -> bool:
        """Read and split; False where there is nothing more to do with it."""
        now = self._stored.now
        if await self._stopped(work):
            return False
        document = work.document
        was_begun = document.status is not Status.WAITING or work.turn > 0 or bool(document.times)
        work.is_resumed = work.is_resumed or was_begun
        try:
            work.at(Status.PARSING, "started", now())
            parts = kept if kept is not None else await self._parts(work)
            work.at(Status.CLEANING, "parsed", now())
            size = sum(len(one.text) for one in parts)
            if size > 50_000:
                made = await asyncio.to_thread(prepare.prepare, work.document, parts, dataset.settings, now())
            else:
                made = prepare.prepare(work.document, parts, dataset.settings, now())
            work.indexed, work.texts = made
            if document.form is DocForm.QA and not work.indexed.segments:
                await self._write_pairs(work, parts, dataset)
            if dataset.settings.summary_index_setting.enable:
                await self._summarise(work, dataset)
            if not work.indexed.segments:
                raise InvokeBadRequestError("the document has no text")
        except StorageUnavailableError:
            raise
        except ModelyardError as error:
            await self._failed(work, error)
            return False
        work.at(Status.INDEXING, "split", now())
        return True

    async def _parts(self, work: _Work) -> list[DocumentPart]:
        document = work.document
        await self._stored.claims.progress([(document, work.turn)])
        read = await self._reader.read(document)
        if read.kind and "kind" not in document.metadata:
            metadata = {**document.metadata, "format": read.kind.lstrip(".")}
            work.document = msgspec.structs.replace(work.document, metadata=metadata)
        await self._stored.texts.keep(document.id, read.parts)
        return read.parts

    async def _write_pairs(self, work: _Work, parts: Sequence[DocumentPart], dataset: Dataset) -> None:
        """Have a model write questions and answers, a segment at a time."""
        writer = self._needed("questions and answers")
        plain = msgspec.structs.replace(work.document, form=DocForm.TEXT)
        pieces, _ = prepare.cut(parts, plain)
        pairs: list[tuple[str, str]] = []
        for one in pieces:
            prompt = _QA_PROMPT.format(language=work.document.language or "of the text", text=one.text)
            pairs += prepare.pairs_of_answer(await writer.write(work.document.tenant, "default", prompt))
            if await self._stopped(work):
                return
        work.indexed, work.texts = prepare.of_pairs(work.document, pairs, dataset.settings, self._stored.now())

    async def _summarise(self, work: _Work, dataset: Dataset) -> None:
        writer = self._needed("summaries")
        wanted = dataset.settings.summary_index_setting
        model = "/".join(one for one in (wanted.model_provider_name, wanted.model_name) if one) or "default"
        for one in list(work.indexed.segments):
            prompt = f"{wanted.summary_prompt}\n\n{one.content}" if wanted.summary_prompt else ""
            told = await writer.write(work.document.tenant, model, prompt or _SUMMARY_PROMPT.format(text=one.content))
            if told.strip():
                prepare.with_summary(work.indexed, one, told.strip(), work.texts)

    def _needed(self, what: str) -> Writer:
        if self._writer is None:
            raise InvokeBadRequestError(f"{what} are written by a model, and there is none here")
        return self._writer

    async def _stopped(self, work: _Work) -> bool:
        command = self._unwanted.get(work.document.id)
        if not command:
            return False
        status = Status.PAUSED if command == "pause" else Status.ERROR
        await self._stored.claims.failed(work.document, work.turn, status, "" if command == "pause" else "cancelled")
        return True

    async def _failed(self, work: _Work, error: ModelyardError) -> None:
        fields = {"document": work.document.id, "error": str(error)}
        logger.info("a document cannot be indexed", extra={"fields": fields})
        await self._stored.claims.failed(work.document, work.turn, Status.ERROR, str(error))

    # vectors

    async def _embed(self, dataset: Dataset, group: Sequence[_Work]) -> None:
        texts: dict[str, str] = {}
        for one in group:
            texts.update(one.texts)
        if not texts:
            return
        model = dataset.settings.embedding
        known: dict[str, bytes] = {}
        for one in group:
            if one.is_resumed:
                known.update(await self._stored.entries.known_vectors(one.document.id, dataset.space, model))
        missing = [one for one in texts if one not in known]
        is_slow = len(missing) > BATCH or bool(known)
        resolved = dataset.model
        done = len(texts) - len(missing)
        for at in range(0, len(missing), BATCH):
            some = missing[at : at + BATCH]
            if is_slow:
                await self._progress(group, done, len(texts))
                if len(group) == 1 and self._unwanted.get(group[0].document.id):
                    return
            made, resolved = await self._vectors.made(dataset, some, texts)
            known.update(made)
            done += len(some)
            if is_slow:
                await self._stored.entries.stage([
                    (one.document.id, model, digest, made[digest])
                    for one in group for digest in one.texts.keys() & made.keys()
                ])  # fmt: skip
        for one in group:
            for entry in one.indexed.entries:
                entry.vector = known.get(entry.digest, b"")
            if one.texts:
                one.indexed.dimensions = len(next(iter(known.values()))) // 4
                one.indexed.model = resolved
            one.indexed.is_staged = is_slow or one.is_resumed

    async def _progress(self, group: Sequence[_Work], done: int, total: int) -> None:
        shown: list[tuple[Document, int]] = []
        for one in group:
            count = len(one.indexed.segments)
            if len(group) == 1 or count >= _SLOW_SEGMENTS or not done:
                share = min(count, count * done // max(1, total))
                shown.append((msgspec.structs.replace(one.document, segments=count, done=share), one.turn))
        if shown:
            await self._stored.claims.progress(shown)


def _grouped(claimed: Iterable[tuple[Document, int]]) -> list[list[_Work]]:
    """Small texts that one key added to one dataset together; whatever must be read first by itself."""
    groups: list[list[_Work]] = []
    small: dict[tuple[str, str], tuple[list[_Work], int]] = {}
    for document, turn in claimed:
        work = _Work(document, turn)
        size = int(document.source.get("size") or _GROUP_BYTES)
        if document.source.get("kind") != "text" or size > _GROUP_BYTES // 8:
            groups.append([work])
            continue
        shared = (document.dataset, document.api_key)
        group, used = small.get(shared, ([], 0))
        if not group or used + size > _GROUP_BYTES or len(group) >= _GROUP:
            group, used = [], 0
            groups.append(group)
        group.append(work)
        small[shared] = (group, used + size)
    return groups
