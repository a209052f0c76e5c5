"""Document indexing: documents are read, cleaned, split and embedded, and then become
searchable in one transaction.

A process claims a document by a lease in its row, which it renews; documents of a
killed process are claimed by another. All index changes of a document are committed at
the end, so that it is found completely, in its old version, or not at all. Vectors of
slow documents are staged as they arrive: no text of a document is embedded twice.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.outage_log import OutageLog
from modelyard.knowledge import prepare
from modelyard.knowledge.entities import Dataset, DocForm, Document, Status
from modelyard.knowledge.rows import DocumentPart, IndexContent, PreparedDocument
from modelyard.knowledge.stored.leases import LEASE_SECONDS
from modelyard.knowledge.stored.repositories import KnowledgeStore
from modelyard.knowledge.vectors import BATCH, DatasetEmbedder, Embedder
from modelyard.storage.database import StorageUnavailableError
from modelyard.tenancy.caller import Caller, acting_for

logger = logging.getLogger("modelyard.knowledge")

_MAX_GROUP_DOCUMENTS = 256
_MAX_GROUP_BYTES = 1 << 20
# Files take longer to read than texts: a slow one must not delay too many others.
_MAX_GROUP_FILES = 64
# Files of one group that are read concurrently.
_READ_AT_ONCE = 4
_POLL_SECONDS = 0.5
# Poll interval without work here: claims of exited processes are taken over.
_IDLE_SECONDS = 10.0
# The same while other processes cannot tell this one of their documents.
_UNHEARD_SECONDS = 2.0
_SLOW_SEGMENTS = 32
_QA_PROMPT = (
    "Write the questions that the following text answers, each with its answer, in the"
    " language {language}. Answers are detailed and taken from the text alone. Give"
    " nothing else than lines of this form:\nQ1: …\nA1: …\nQ2: …\nA2:"
    " …\n\nText:\n{text}"
)
_SUMMARY_PROMPT = (
    "Say in one or two sentences, in the text's own language, what the following text"
    " is about.\n\n{text}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedDocument:
    """The parsed content of a document's source."""

    parts: list[DocumentPart]
    title: str = ""
    kind: str = ""
    """The file extension that matches the content."""
    notes: list[str] = field(default_factory=list[str])
    """What the file has that its text leaves out, a sentence each."""


class Reader(Protocol):
    """Reads the source of a document."""

    async def read(self, document: Document) -> ParsedDocument:
        """Return the content of a document's source. Raises ModelyardError with a
        message for the uploader."""
        ...


class Writer(Protocol):
    """A chat model that answers a prompt with a complete text."""

    async def complete(self, tenant: str, model: str, prompt: str) -> str:
        """Return the model's answer to a prompt."""
        ...


@dataclass(slots=True)
class _IndexingJob:
    """A document that this process is indexing."""

    document: Document
    attempt: int
    indexed: IndexContent = field(default_factory=IndexContent)
    texts: dict[str, str] = field(default_factory=dict[str, str])
    is_resumed: bool = False

    def set_stage(self, status: Status, stage: str, timestamp: float) -> None:
        """Set the document's status and record when a stage ended."""
        times = {**self.document.times, stage: timestamp}
        self.document = msgspec.structs.replace(
            self.document, status=status, times=times
        )


class _GroupReader:
    """Reads the sources of a group of documents, and stores their texts."""

    def __init__(self, store: KnowledgeStore, reader: Reader) -> None:
        self._store = store
        self._reader = reader

    async def read(
        self,
        jobs: Sequence[_IndexingJob],
        record_failure: Callable[[_IndexingJob, ModelyardError], Awaitable[None]],
    ) -> dict[str, list[DocumentPart]]:
        """Read the sources of documents, a few at a time, and return their parts by
        document id. Documents that cannot be read are passed to
        `record_failure`.

        The parts are stored before anything else can fail: in one transaction for all
        documents, since with small files transactions are most of the work.
        """
        if not jobs:
            return {}
        await self._store.claims.progress([(job.document, job.attempt) for job in jobs])
        readers = asyncio.Semaphore(_READ_AT_ONCE)
        results = await asyncio.gather(
            *(self._read_source(job, readers) for job in jobs), return_exceptions=True
        )
        parts: dict[str, list[DocumentPart]] = {}
        for job, result in zip(jobs, results, strict=True):
            # The outage concerns all documents, which are then tried again.
            if isinstance(result, StorageUnavailableError):
                raise result
            if isinstance(result, ModelyardError):
                await record_failure(job, result)
            elif isinstance(result, BaseException):
                raise result
            else:
                parts[job.document.id] = result
        await self._store.texts.save(parts)
        return parts

    async def _read_source(
        self, work: _IndexingJob, readers: asyncio.Semaphore
    ) -> list[DocumentPart]:
        """Read a document's source and return its parts.

        The detected format is added to the metadata as `format`, and what the text
        leaves out as `notes`, unless they have these fields. Raises ModelyardError with
        a message for the uploader.
        """
        document = work.document
        async with readers:
            read = await self._reader.read(document)
        # The detected format is available to metadata filters.
        found = {"format": read.kind.lstrip("."), "notes": "; ".join(read.notes)}
        found = {name: text for name, text in found.items() if text}
        if found.keys() - document.metadata.keys():
            metadata = {**found, **document.metadata}
            work.document = msgspec.structs.replace(work.document, metadata=metadata)
        return read.parts


class Indexer:
    """Indexes documents in the background, several groups at a time."""

    def __init__(
        self,
        store: KnowledgeStore,
        embedder: Embedder,
        reader: Reader,
        writer: Writer | None = None,
        *,
        at_once: int = 4,
        caller_of: Callable[[Document], Caller | None] = lambda document: None,
    ) -> None:
        self._caller_of = caller_of
        self._store = store
        self._vectors = DatasetEmbedder(embedder)
        self._sources = _GroupReader(store, reader)
        self._writer = writer
        self._slots = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._completion_event = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._groups: set[asyncio.Task[None]] = set()
        self._claimed_ids: set[str] = set()
        self._commands: dict[str, str] = {}
        self._renewed_at = 0.0
        self._outages = OutageLog(
            logger, "indexing paused: database unavailable", "indexing goes on"
        )

    # Lifetime

    def start(self) -> None:
        """Start the background loop if it is not running."""
        if self._loop is None or self._loop.done():
            # The loop serves all tenants: it must not inherit the context of the
            # request that happens to start it.
            self._loop = asyncio.get_running_loop().create_task(
                self._run(), context=Context()
            )

    def notify(self) -> None:
        """Notify the loop that there may be work, starting it if necessary."""
        self.start()
        self._store.claims.announce()

    async def aclose(self) -> None:
        """Stop indexing and release the claimed documents for other processes."""
        tasks = [*self._groups, *([self._loop] if self._loop else [])]
        for task in tasks:
            # Cancel all tasks before waiting for any of them.
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._loop = None
        if self._claimed_ids:
            # If this fails, the leases run out by themselves.
            with suppress(StorageUnavailableError):
                await self._store.claims.release(list(self._claimed_ids))
            self._claimed_ids.clear()

    async def _run(self) -> None:
        """Poll for documents until the task is cancelled.

        Between polls it waits for a notification, at most a few seconds, or half a
        second while documents are being indexed. A database outage is logged and
        retried at the next poll.
        """
        with self._store.claims.listener() as signal:
            while True:
                try:
                    await self._poll()
                    self._outages.worked()
                except StorageUnavailableError as error:
                    self._outages.failed(error)
                # Leases have to be renewed, and commands read, while there is work.
                if self._claimed_ids:
                    await signal.wait(_POLL_SECONDS, unheard_seconds=_POLL_SECONDS)
                else:
                    await signal.wait(_IDLE_SECONDS, unheard_seconds=_UNHEARD_SECONDS)

    async def _poll(self) -> None:
        """Renew the leases, read the users' commands, and claim further documents.

        New documents are claimed only while fewer than `at_once` groups are being
        indexed. Raises StorageUnavailableError if the database is not reachable.
        """
        current_time = time.monotonic()
        # Renew well before the lease expires, so that one failed attempt is harmless.
        if self._claimed_ids and current_time - self._renewed_at > LEASE_SECONDS / 3:
            await self._store.claims.renew()
            self._renewed_at = current_time
        if self._claimed_ids:
            # Users pause and cancel through the database, since their request may reach
            # another process.
            commands = await self._store.claims.commands()
            self._commands.update(
                (document_id, commands[document_id])
                for document_id in commands.keys() & self._claimed_ids
            )
        room = self._at_once - len(self._groups)
        if room <= 0:
            return
        claimed = await self._store.claims.claim(room * _MAX_GROUP_DOCUMENTS)
        if claimed:
            self.claim(claimed)

    def claim(self, claimed: Iterable[tuple[Document, int]]) -> None:
        """Index documents that are claimed for this process."""
        for group in _group_jobs(claimed):
            self._claimed_ids.update(job.document.id for job in group)
            task = asyncio.ensure_future(self._process_group(group))
            self._groups.add(task)
            task.add_done_callback(self._groups.discard)

    async def _process_group(self, group: list[_IndexingJob]) -> None:
        """Index a group of claimed documents, and account for every kind of failure.

        If the database is unavailable, the claims are released so that the documents
        are tried again soon. Waiting callers are woken at the end.
        """
        async with self._slots:
            try:
                # Model calls are made on behalf of the API key that added the
                # documents.
                with acting_for(self._caller_of(group[0].document)):
                    await self._index_isolated(group)
            except StorageUnavailableError as error:
                self._outages.failed(error)
                # Release the claim, so that the documents are tried again without
                # waiting for the lease.
                await self._store.claims.release([job.document.id for job in group])
            finally:
                for job in group:
                    self._claimed_ids.discard(job.document.id)
                    self._commands.pop(job.document.id, None)
                # Wake the waiting callers, and look for the next work at once.
                self._notify_waiters()

    def _notify_waiters(self) -> None:
        """Wake everyone who waits for a batch."""
        self._completion_event.set()
        # An event cannot be reset safely while tasks wait for it, so it is replaced by
        # a new one.
        self._completion_event = asyncio.Event()
        self._store.claims.wake()

    async def wait(
        self, tenant: str, dataset: str, batch: str, timeout: float | None = None
    ) -> list[Document]:
        """Wait until each document of a batch is indexed or has failed, and return
        them. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while True:
                # Take the event before the query: a completion in between is then not
                # missed.
                completion_event = self._completion_event
                if not await self._store.documents.unfinished(tenant, dataset, batch):
                    documents, _ = await self._store.documents.list_page(
                        tenant, dataset, batch=batch, limit=1_000_000
                    )
                    return documents
                # Another process may index the batch, hence the poll.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await completion_event.wait()

    # One group

    async def _index_isolated(self, group: list[_IndexingJob]) -> None:
        """Index a group of documents. An error of the program fails only the document
        that causes it: the documents are then indexed one by one."""
        try:
            await self._index_group(group)
        except StorageUnavailableError:
            raise
        except Exception as error:
            logger.exception("indexing failed")
            if len(group) > 1:
                for job in group:
                    await self._index_isolated(
                        [_IndexingJob(job.document, job.attempt, is_resumed=True)]
                    )
                return
            failure = f"Indexing failed: {type(error).__name__}: {error}"
            await self._record_failure(group[0], ModelyardError(failure))

    async def _index_group(self, group: list[_IndexingJob]) -> None:
        """Read, split, embed and publish the documents of a group, all of one dataset.

        Documents that fail or are stopped while they are read drop out. If embedding or
        publishing fails for a group, its documents are indexed one by one. Does nothing
        if the dataset was deleted. Raises StorageUnavailableError.
        """
        first = group[0].document
        try:
            dataset = await self._store.datasets.get(first.tenant, first.dataset)
        except ModelyardError:
            # The dataset was deleted, and its documents with it.
            return
        # Documents that fail or are stopped while they are read drop out of the group.
        ready = await self._read_group(group, dataset)
        if not ready:
            return
        try:
            await self._embed(dataset, ready)
            # A command may have arrived during the embedding.
            ready = [job for job in ready if not await self._handle_command(job)]
            await self._publish(ready)
        except StorageUnavailableError:
            raise
        except ModelyardError as error:
            await self._isolate_failure(ready, error)

    async def _publish(self, ready: list[_IndexingJob]) -> None:
        """Make the prepared documents searchable in one transaction."""
        for job in ready:
            job.set_stage(Status.COMPLETED, "completed", self._store.clock())
        if ready:
            await self._store.publisher.publish(
                [
                    PreparedDocument(job.document, job.attempt, job.indexed)
                    for job in ready
                ]
            )

    async def _isolate_failure(
        self, group: list[_IndexingJob], error: ModelyardError
    ) -> None:
        """Record the failure of a single document. In a larger group one document is at
        fault: index each separately, so that the others are not affected."""
        if len(group) == 1:
            await self._record_failure(group[0], error)
            return
        for job in group:
            await self._index_group(
                [_IndexingJob(job.document, job.attempt, is_resumed=True)]
            )

    async def _read_group(
        self, group: Sequence[_IndexingJob], dataset: Dataset
    ) -> list[_IndexingJob]:
        """Read and split the documents of a group. Returns those that neither failed
        nor were stopped.

        A text that was already parsed is stored, so that a retry does not read the
        source again.
        """
        texts = await self._store.texts.get_many([job.document.id for job in group])
        active = [job for job in group if not await self._handle_command(job)]
        for job in active:
            # A document that was started earlier may have staged vectors.
            was_started = (
                job.document.status is not Status.WAITING
                or job.attempt > 0
                or bool(job.document.times)
            )
            job.is_resumed = job.is_resumed or was_started
            job.set_stage(Status.PARSING, "started", self._store.clock())
        unread = [job for job in active if job.document.id not in texts]
        texts.update(await self._sources.read(unread, self._record_failure))
        return [
            job
            for job in active
            if job.document.id in texts
            and await self._split(job, texts[job.document.id], dataset)
        ]

    async def _split(
        self, work: _IndexingJob, parts: list[DocumentPart], dataset: Dataset
    ) -> bool:
        """Split a document that was read. Returns False if it failed or was stopped."""
        work.set_stage(Status.CLEANING, "parsed", self._store.clock())
        try:
            if not await self._prepare(work, parts, dataset):
                return False
        except StorageUnavailableError:
            raise
        except ModelyardError as error:
            await self._record_failure(work, error)
            return False
        work.set_stage(Status.INDEXING, "split", self._store.clock())
        return True

    async def _prepare(
        self, work: _IndexingJob, parts: list[DocumentPart], dataset: Dataset
    ) -> bool:
        """Split a parsed document, and add the texts that a model generates for it.

        Returns False if a command stopped the document meanwhile.
        """
        settings = dataset.settings
        current_time = self._store.clock()
        size = sum(len(part.text) for part in parts)
        # Splitting a large text would block the event loop.
        if size > 50_000:
            prepared = await asyncio.to_thread(
                prepare.prepare, work.document, parts, settings, current_time
            )
        else:
            prepared = prepare.prepare(work.document, parts, settings, current_time)
        work.indexed, work.texts = prepared
        # A Q&A document without a table of pairs: a model generates them.
        needs_pairs = work.document.form is DocForm.QA and not work.indexed.segments
        if needs_pairs and not await self._write_pairs(work, parts, dataset):
            return False
        # Summaries come last: pairs are segments that may be summarised too.
        needs_summaries = settings.summary_index_setting.enable
        if needs_summaries and not await self._summarise(work, dataset):
            return False
        if not work.indexed.segments:
            raise InvokeBadRequestError("No text could be extracted from the document")
        return True

    async def _write_pairs(
        self, work: _IndexingJob, parts: Sequence[DocumentPart], dataset: Dataset
    ) -> bool:
        """Have a model generate question and answer pairs from the text, one segment at
        a time. Returns False if a command stopped the document."""
        writer = _require_writer(self._writer, "Questions and answers")
        plain = msgspec.structs.replace(work.document, form=DocForm.TEXT)
        text_segments, _ = prepare.split_document(parts, plain)
        pairs: list[tuple[str, str]] = []
        for text_segment in text_segments:
            prompt = _QA_PROMPT.format(
                language=work.document.language or "of the text", text=text_segment.text
            )
            pairs += prepare.parse_qa_pairs(
                await writer.complete(work.document.tenant, "default", prompt)
            )
            # Generation is slow: check for a command after each call.
            if await self._handle_command(work):
                return False
        work.indexed, work.texts = prepare.index_qa_pairs(
            work.document, pairs, dataset.settings, self._store.clock()
        )
        return True

    async def _summarise(self, work: _IndexingJob, dataset: Dataset) -> bool:
        """Have a model write a summary of each segment, and index it as well. Returns
        False if a command stopped the document.

        The model and the prompt are those of the dataset's summary settings, or the
        defaults. An empty reply adds nothing. Raises InvokeBadRequestError without a
        chat model, ModelyardError if a call fails.
        """
        writer = _require_writer(self._writer, "Summaries")
        summary_settings = dataset.settings.summary_index_setting
        model = (
            "/".join(
                name_part
                for name_part in (
                    summary_settings.model_provider_name,
                    summary_settings.model_name,
                )
                if name_part
            )
            or "default"
        )
        for segment in list(work.indexed.segments):
            prompt = (
                f"{summary_settings.summary_prompt}\n\n{segment.content}"
                if summary_settings.summary_prompt
                else ""
            )
            summary = await writer.complete(
                work.document.tenant,
                model,
                prompt or _SUMMARY_PROMPT.format(text=segment.content),
            )
            if summary.strip():
                prepare.add_summary(work.indexed, segment, summary.strip(), work.texts)
            # As with pairs, a command does not wait for all segments.
            if await self._handle_command(work):
                return False
        return True

    async def _handle_command(self, work: _IndexingJob) -> bool:
        """Carry out a pending pause or cancel command. Returns whether the document was
        stopped."""
        command = self._commands.get(work.document.id)
        if not command:
            return False
        status = Status.PAUSED if command == "pause" else Status.ERROR
        await self._store.claims.record_failure(
            work.document,
            work.attempt,
            status,
            "" if command == "pause" else "cancelled",
        )
        return True

    async def _record_failure(self, work: _IndexingJob, error: ModelyardError) -> None:
        """Log that a document could not be indexed, and store the error in its row."""
        fields = {"document": work.document.id, "error": str(error)}
        logger.info("document cannot be indexed", extra={"fields": fields})
        await self._store.claims.record_failure(
            work.document, work.attempt, Status.ERROR, str(error)
        )

    # Vectors

    async def _embed(self, dataset: Dataset, group: Sequence[_IndexingJob]) -> None:
        """Embed the texts of a group's documents and set their entries' vectors.

        Texts whose vectors were staged by an interrupted run are not embedded again. If
        more than one batch is needed, progress and vectors are stored after each.
        Returns early, without setting vectors, if the document was paused or cancelled.
        """
        texts = _texts_to_embed(group)
        if not texts:
            return
        vectors = await _existing_vectors(self._store, dataset, group)
        missing = [digest for digest in texts if digest not in vectors]
        # More than one batch is worth staging: a restart then continues where it
        # stopped.
        is_slow = len(missing) > BATCH or bool(vectors)
        resolved = dataset.model
        embedded_count = len(texts) - len(missing)
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            if is_slow:
                await self._progress(group, embedded_count, len(texts))
                if self._has_command(group):
                    return
            new_vectors, resolved = await self._vectors.embed_batch(
                dataset, batch, texts
            )
            if is_slow:
                await self._stage(dataset, group, new_vectors)
            vectors.update(new_vectors)
            embedded_count += len(batch)
        _assign_vectors(group, vectors, resolved, is_staged=is_slow)

    def _has_command(self, group: Sequence[_IndexingJob]) -> bool:
        # A command can only stop a document that is alone in its group.
        return len(group) == 1 and bool(self._commands.get(group[0].document.id))

    async def _stage(
        self,
        dataset: Dataset,
        group: Sequence[_IndexingJob],
        new_vectors: dict[str, bytes],
    ) -> None:
        """Store new vectors apart from the index, for a run that continues this one.

        `new_vectors` maps digests of texts to vectors; each document gets those of its
        own texts.
        """
        model = dataset.settings.embedding
        await self._store.entries.stage_entries(
            [
                (job.document.id, model, digest, new_vectors[digest])
                for job in group
                for digest in job.texts.keys() & new_vectors.keys()
            ]
        )

    async def _progress(
        self, group: Sequence[_IndexingJob], embedded_count: int, total: int
    ) -> None:
        """Store the number of segments of each document, and how many are embedded.

        The latter is estimated from the share of the group's texts that are embedded.
        After the first call, small documents in a group are left out.
        """
        updates: list[tuple[Document, int]] = []
        for job in group:
            count = len(job.indexed.segments)
            # Progress of small documents in a group would cost more writes than it is
            # worth.
            if len(group) == 1 or count >= _SLOW_SEGMENTS or not embedded_count:
                finished_segments = min(count, count * embedded_count // max(1, total))
                updates.append(
                    (
                        msgspec.structs.replace(
                            job.document, segments=count, done=finished_segments
                        ),
                        job.attempt,
                    )
                )
        if updates:
            await self._store.claims.progress(updates)


def _require_writer(writer: Writer | None, feature: str) -> Writer:
    """Return the chat model. Raises InvokeBadRequestError if none is configured."""
    if writer is None:
        raise InvokeBadRequestError(
            f"{feature} are generated by a chat model, but none is configured"
        )
    return writer


def _texts_to_embed(group: Sequence[_IndexingJob]) -> dict[str, str]:
    """Return the distinct texts of the documents by digest."""
    texts: dict[str, str] = {}
    for job in group:
        texts.update(job.texts)
    return texts


def _assign_vectors(
    group: Sequence[_IndexingJob],
    vectors: dict[str, bytes],
    model: str,
    *,
    is_staged: bool,
) -> None:
    """Set the vectors of the documents' entries. `model` is the model that made them."""
    for job in group:
        job.indexed.is_staged = is_staged or job.is_resumed
        for entry in job.indexed.entries:
            # Identical texts share one vector.
            entry.vector = vectors.get(entry.digest, b"")
        if job.texts:
            # Vectors are stored as float32, four bytes per dimension.
            job.indexed.dimensions = len(next(iter(vectors.values()))) // 4
            job.indexed.model = model


def _group_jobs(claimed: Iterable[tuple[Document, int]]) -> list[list[_IndexingJob]]:
    """Group documents for indexing: small texts of one dataset and API key together,
    likewise small files, and all others separately."""
    groups: list[list[_IndexingJob]] = []
    open_groups: dict[tuple[str, str, bool], tuple[list[_IndexingJob], int]] = {}
    for document, revision in claimed:
        work = _IndexingJob(document, revision)
        # A source of unknown size is treated as large.
        size = int(document.source.get("size") or _MAX_GROUP_BYTES)
        is_text = document.source.get("kind") == "text"
        is_file = document.source.get("kind") in ("file", "path")
        if not (is_text or is_file) or size > _MAX_GROUP_BYTES // 8:
            groups.append([work])
            continue
        # A group shares its embedding calls, which are made on behalf of one API key.
        shared = (document.dataset, document.api_key, is_text)
        group, used = open_groups.get(shared, ([], 0))
        limit = _MAX_GROUP_DOCUMENTS if is_text else _MAX_GROUP_FILES
        if not group or used + size > _MAX_GROUP_BYTES or len(group) >= limit:
            new_group: list[_IndexingJob] = []
            group, used = new_group, 0
            groups.append(group)
        group.append(work)
        open_groups[shared] = (group, used + size)
    return groups


async def _existing_vectors(
    store: KnowledgeStore, dataset: Dataset, group: Sequence[_IndexingJob]
) -> dict[str, bytes]:
    """Return the vectors that an interrupted run staged, by the digest of the text."""
    vectors: dict[str, bytes] = {}
    for job in group:
        if job.is_resumed:
            staged = await store.entries.existing_vectors(
                job.document.id, dataset.space, dataset.settings.embedding
            )
            vectors.update(staged)
    return vectors
